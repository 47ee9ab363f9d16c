r"""
Remember with orthogonal weights
================================

**Which weights let a recurrent network remember?** Orthogonal ones: one line of PyTorch,
``nn.init.orthogonal_(rnn.weight_hh_l0)``. They keep every part of what is in its memory. Gaussian
weights can keep the overall size and yet lose most of the parts.

:cite:t:`dlwizard_init` promises orthogonal weights for recurrent networks and ends before it gets
to them. Here is the reason for them, and a task that a network learns with them and not without.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import (
    SCHEMES,
    Dataset,
    Ensemble,
    Scheme,
    compare,
    datasets,
    describe,
    recurrent_,
    summarize,
    train,
)

n, delay, seeds = 64, 40, range(10)
starts = {
    "orthogonal": nn.init.orthogonal_,
    "identity": nn.init.eye_,
    "normal_rule": lambda w: nn.init.normal_(w, mean=0.0, std=n**-0.5),
    "torch_default": lambda w: w,  # what nn.RNN draws: U(±1/√n)
}
looks = SCHEMES | {
    "orthogonal": Scheme("orthogonal", nn.init.orthogonal_, color="#882255"),
    "identity": Scheme("identity", nn.init.eye_, color="#999933"),
}
labels = {name: looks[name].label for name in starts}

# %%
# What is left after forty steps?
# -------------------------------
# A recurrent network reads a sequence :math:`x_1, x_2, \dots, x_t`. Its memory is the *state*
# :math:`h_t`, here of :math:`n = 64` numbers. Every step multiplies it by the same matrix
# :math:`W` and adds what is new, with weights :math:`U` and biases :math:`b`:
#
# .. math::
#
#    h_t = \tanh(W h_{t-1} + U x_t + b).
#
# PyTorch calls :math:`W` ``weight_hh_l0``. As long as the state is small,
# :math:`\tanh z \approx z`. If nothing new comes in and :math:`b = 0`, then :math:`t` steps
# multiply the state by :math:`W^t`, and the gradient, on its way back, by the transpose of
# :math:`W^t`. There are :math:`n` directions at right angles to each other that :math:`W^t`
# stretches or shrinks; its *singular values* say by how much. So we follow a state of length 1
# through an ``nn.RNN``, a gradient back, and the singular values.


def follow(rnn, steps):
    """Return what is left of a state, of a gradient, and of the directions."""
    first = torch.randn(1, n, dtype=torch.double)
    first = (first / first.norm()).requires_grad_()
    _, last = rnn(torch.zeros(steps, 9, dtype=torch.double), first)  # no input
    back = torch.randn_like(last)
    last.backward(back)
    power = torch.linalg.matrix_power(rnn.weight_hh_l0.detach(), steps)
    stretch = torch.linalg.svdvals(power)  # from the largest to the smallest
    return {
        "state": last.norm(),
        "gradient": first.grad.norm() / back.norm(),
        "middle": stretch[n // 2 - 1 : n // 2 + 1].log().mean().exp(),
        "kept": (stretch > 0.1).sum(),
    }


rows = []
for name, seed in product(starts, seeds):
    torch.manual_seed(seed)
    rnn = nn.RNN(9, n).double()
    starts[name](rnn.weight_hh_l0)
    nn.init.zeros_(rnn.bias_ih_l0)
    nn.init.zeros_(rnn.bias_hh_l0)
    for steps in range(2, delay + 1, 2):
        for what, value in follow(rnn, steps).items():
            rows.append((name, what, steps, seed, value.item()))
keys = ["scheme", "what", "step"]
left_over = pd.DataFrame(rows, columns=[*keys, "seed", "value"])

# %%
# A square matrix is **orthogonal** if :math:`W^\top W = I`. It keeps the length of every state, and
# so do its powers: all singular values are 1.
#
# **Independent weights** of mean 0 and variance :math:`v/n` multiply the length by about
# :math:`\sqrt v` a step. With :math:`v = 1` that looks just as good. But if :math:`n` is large,
# their eigenvalues fill a disc of radius :math:`\sqrt v` evenly :cite:p:`tao2010`. Half of a disc's
# area, and so half of the eigenvalues, lies within :math:`\sqrt{1/2}` of its radius. And the more
# steps, the more the singular values of :math:`W^t` are like the sizes of the eigenvalues to the
# power :math:`t` :cite:p:`yamamoto1967`. So the middle one, when they are sorted, is about
# :math:`(v/2)^{t/2}`: half of the directions keep less. With :math:`v = 1` that is halved every
# other step. PyTorch's default has :math:`v = 1/3`.

logs = left_over[left_over["what"] != "kept"]
logs = logs.assign(value=np.log2(logs["value"]))
lines = dict(list(summarize(logs, by=keys).groupby(["scheme", "what"])))
variances = {"orthogonal": None, "normal_rule": 1, "torch_default": 1 / 3}

_, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
steps = np.arange(delay + 1)
for (name, v), (what, marker) in product(
    variances.items(), [("state", "o"), ("gradient", "x"), ("middle", "o")]
):
    line, ax = lines[name, what], axes[int(what == "middle")]
    style = {"color": looks[name].color, "label": labels[name]}
    shift = 2 * (name == "normal_rule") + (what == "gradient")  # side by side
    ax.plot(line["step"], 2 ** line["mean"], marker, markevery=(shift, 4), **style)
    low, high = 2 ** line["low"], 2 ** line["high"]
    ax.fill_between(line["step"], low, high, color=style["color"], alpha=0.3)
    square = 1.0 if v is None else v / 2 if what == "middle" else v
    ax.plot(steps, square ** (steps / 2), "--", color=style["color"], lw=1)
axes[0].set(title="Lengths: N(0, 1/n) looks fine", yscale="log")
axes[0].set(ylabel="what is left", xlabel="steps t")
axes[1].set(title="In the middle direction it is not", xlabel="steps t")
axes[1].legend(loc="lower left")
plt.show()

# %%
# Left: the lengths of the state (circles) and of the gradient (crosses), compared with their first.
# Right: the middle singular value of :math:`W^t`. Means over ten seeds with 95 % intervals; dashes
# are theory. On the left, tanh takes a little from every start. Of the 64 directions, this many
# keep more than a tenth for forty steps:

kept = summarize(left_over.query("what == 'kept' and step == @delay"))
kept = kept.set_index("scheme")[["mean", "low", "high"]]
sure = summarize(logs, by=keys, level=0.999).set_index(keys)
sure = sure.xs(delay, level="step")
for name in ("normal_rule", "torch_default"):
    middle, theory = sure.loc[(name, "middle")], np.log2(variances[name] / 2)
    assert middle["low"] < delay / 2 * theory < middle["high"]
lengths = sure.query("what != 'middle' and scheme != 'torch_default'")
assert lengths["low"].min() > np.log2(0.1)  # lengths alone would not tell
assert (kept.loc[["orthogonal", "identity"]] == n).all(axis=None)
assert kept.loc["normal_rule", "high"] < n / 4
kept.loc[list(starts)].rename(index=labels).round(1)

# %%
# A task for the memory
# ---------------------
# In the *copy task* a network reads symbols, waits, and must then repeat them in order
# :cite:p:`hochreiter1997,arjovsky2016`. Ours is small: three symbols out of eight, each due 40
# steps after it came. While the network waits, its input is zero; a ninth input tells it when to
# begin. Only the three answers count. A guess is right one time in eight. The state has to tell
# apart :math:`3 \times 8 = 24` things, each symbol in each place: more than the directions that
# :math:`N(0, 1/n)` keeps.

generator = torch.Generator().manual_seed(0)


def copy_task(sequences):
    symbols = torch.randint(8, (sequences, 3), generator=generator)
    inputs = torch.zeros(sequences, delay + 3, 9)
    inputs[:, :3, :8] = F.one_hot(symbols, 8)
    inputs[:, delay - 1, 8] = 1.0  # now!
    return inputs, symbols


origin = datasets.Provenance("copy task", "generated", details=("seed 0",))
sequences = *copy_task(4800), *copy_task(500)  # to train on, to test
data = Dataset("copy task", *sequences, tuple("ABCDEFGH"), origin)

# %%
# This is the network. The starts of a seed differ in :math:`W` alone; LeCun's rule fills the output
# layer. To train many networks at once we write the steps out, since PyTorch cannot stack
# ``nn.RNN``. They compute the same.


class Memory(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.rnn = nn.RNN(9, n, batch_first=True)
        self.output = nn.Linear(n, 8)
        start(self.rnn.weight_hh_l0)  # such as nn.init.orthogonal_
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x):  # h, _ = self.rnn(x)
        rnn = self.rnn
        new = x @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0
        first, *others = new.unbind(dim=1)
        h = [torch.tanh(first)]
        for z in others:
            h.append(torch.tanh(z + h[-1] @ rnn.weight_hh_l0.T))
        return self.output(torch.stack(h[-3:], dim=1)).mT


ensemble = Ensemble.concatenate(
    [
        Ensemble.build(
            partial(Memory, start), schemes={name: "lecun_normal"}, seeds=seeds
        )
        for name, start in starts.items()
    ]
)
model = ensemble.model("orthogonal", 0)
h, _ = model.rnn(data.test_inputs)
expected = model.output(h[:, -3:]).mT
torch.testing.assert_close(model(data.test_inputs), expected)
ensemble

# %%
# Every start is trained at four learning rates, and the figure shows it at the one that suits it
# best.

tables = []
for lr in (0.0001, 0.0004, 0.0016, 0.0064):
    settings = {"epochs": 1, "batch_size": 20, "evaluate_every": 60}
    history = train(ensemble, data, lr=lr, optimizer=torch.optim.Adam, **settings)
    tables.append(history.frame().assign(lr=lr))
runs = pd.concat(tables).query("metric == 'accuracy'")
last = runs[runs["step"] == runs["step"].max()]
rates = last.pivot_table(index="scheme", columns="lr", values="value", sort=False)
best = rates.idxmax(axis=1)
runs = runs[runs["lr"] == runs["scheme"].map(best)]
final = runs[runs["step"] == runs["step"].max()]

repeats = F.one_hot(data.test_targets, 8).sum(dim=1).amax(dim=1)
no_order = repeats.double() / 3  # see below

_, ax = plt.subplots()
lines = dict(list(summarize(runs).groupby("scheme")))
for name in starts:
    line, style = lines[name], {"color": looks[name].color}
    ax.plot(line["step"], line["mean"], label=labels[name], **style)
    ax.fill_between(line["step"], line["low"], line["high"], alpha=0.3, **style)
for text, value in (("guesses", 1 / 8), ("knows no order", no_order.mean())):
    ax.axhline(value, color="#8c8c8c", linestyle="--", linewidth=1)
    ax.text(1.02, value, text, va="center", transform=ax.get_yaxis_transform())
ax.set(title="Only the orthogonal start learns the task", ylim=(0, 1.02))
ax.set(xlabel="step (20 sequences each)", ylabel="share of symbols recalled")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
# The shares at the end, averaged over the seeds, for all rates:

comparison = compare(final, baseline="orthogonal")
assert (comparison["real"] & (comparison["high"] < 0)).all()
worst = final.query("scheme == 'orthogonal'")["value"].min()
other = final.query("scheme != 'orthogonal'")["value"].max()
assert worst > other
print(describe(comparison))
print(f"The worst orthogonal seed recalls {worst:.0%}, the best other {other:.0%}.")
rates.loc[list(starts)].rename(index=labels).round(3)

# %%
# The identity keeps all, but not the order
# -----------------------------------------
# The identity matrix is orthogonal, too, and :cite:t:`le2015` start networks of ReLUs from it. Why
# does it fail here? It leaves the state as it is, so each step only adds its input, and a sum does
# not depend on the order. Who knows which symbols came, but not when, does best to name the one
# that came most often. That is the upper dashed line, and where the identity gets.

identity = final.query("scheme == 'identity'")["value"].mean()
ceiling, error = no_order.mean(), no_order.std() / len(no_order) ** 0.5
print(f"identity: {identity:.1%}, who knows no order: {ceiling:.1%}")
assert abs(identity - ceiling) < 4 * error  # of 500 sequences

# %%
# A random orthogonal matrix turns the state at every step. What came earlier has been turned
# further, which tells the places apart. Where the order does not matter, as in a sum, the identity
# is the better start :cite:p:`henaff2016`.
#
# LSTM and GRU: gate by gate
# --------------------------
# PyTorch packs the four matrices of an LSTM, one for each *gate*, into one tensor of :math:`4n`
# rows. If ``nn.init.orthogonal_`` fills that, the columns have length 1 as a whole, and each gate
# gets a piece of them. :func:`~initguide.recurrent_` fills each gate by itself. In plain PyTorch:
# ``for w in lstm.weight_hh_l0.data.chunk(4): nn.init.orthogonal_(w)``. A GRU has three.

fills = {
    "PyTorch's default": lambda lstm: lstm,
    "orthogonal_, all in one": lambda lstm: nn.init.orthogonal_(lstm.weight_hh_l0),
    "recurrent_, gate by gate": recurrent_,
}
gates = {}
for name, fill in fills.items():
    stretch = []
    for seed in seeds:
        torch.manual_seed(seed)
        lstm = nn.LSTM(9, n)
        fill(lstm)
        stretch += torch.linalg.svdvals(lstm.weight_hh_l0.detach().view(4, n, n))
    stretch = torch.cat(stretch)
    square = stretch.square().mean().sqrt()
    gates[name] = [v.item() for v in (stretch.min(), square, stretch.max())]
columns = ["smallest", "root mean square", "largest"]
gates = pd.DataFrame(gates, index=columns).T
gates = gates.rename_axis(columns="singular values of a gate")
assert np.allclose(gates.iloc[1, 1], 1 / 2)  # a fourth of each column's square
assert np.allclose(gates.iloc[2], 1, atol=1e-5)
gates.round(3)

# %%
# What this does not show
# -----------------------
# "Not without" means 240 steps of Adam and these variances: :math:`N(0, 1/n)` goes on creeping, and
# a slightly larger variance may do better. Training does not keep :math:`W` orthogonal. The rates
# were chosen on the test set, for all starts alike. LSTMs and GRUs have gates so as to remember;
# that an orthogonal start helps them to learn is not shown.
#
# What to use for which layer is listed in :doc:`/how-to-choose`.
