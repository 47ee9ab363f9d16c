r"""
Remember with orthogonal weights
================================

**Which weights let a recurrent network remember?** Orthogonal ones: one line of PyTorch,
``nn.init.orthogonal_(rnn.weight_hh_l0)``. They keep all parts of what is in its memory. Gaussian
weights can keep the overall size and yet lose most of the parts.

:cite:t:`dlwizard_init` promises orthogonal weights for recurrent networks and ends before it gets
to them. Here is the reason for them, and a task that a network learns with them and not without.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import initguide as ig
from initguide.plotting import look

n, delay, seeds = 64, 40, range(10)
starts = {
    "orthogonal": nn.init.orthogonal_,
    "identity": nn.init.eye_,
    "Gaussian": partial(nn.init.normal_, std=n**-0.5),
    "PyTorch default": lambda w: w,  # what nn.RNN draws: U(±1/√n)
}
known = [look(s).color for s in ("orthogonal", "lecun_normal", "torch_default")]
colors = dict(zip(starts, [known[0], "#999933", *known[1:]], strict=True))

# %%
# What is left after forty steps?
# -------------------------------
# A recurrent network reads a sequence :math:`x_1, x_2, \dots`, one item a step. Its memory is the
# *state* :math:`h_t`, here of :math:`n = 64` numbers. Every step multiplies it by the same matrix
# :math:`W` and adds what is new, with weights :math:`U` and biases :math:`b`:
# :math:`h_t = \tanh(W h_{t-1} + U x_t + b)`. PyTorch calls :math:`W` ``weight_hh_l0``.
#
# While the state is small, :math:`\tanh z \approx z`. If nothing new comes in and :math:`b = 0`,
# then :math:`t` steps multiply the state by :math:`W^t`, and a gradient on its way back by the
# transpose. How much is left depends on the direction: the *singular values* of :math:`W^t` tell,
# for 64 directions at right angles to each other (:doc:`keep_every_singular_value_near_one`). Here
# they are for :math:`t = 40`, with the length of a state that was 1 and went through an ``nn.RNN``.

rows, spectra = [], {name: [] for name in starts}
for name, start in starts.items():
    for seed in seeds:
        torch.manual_seed(seed)
        rnn = nn.RNN(9, n).double()
        start(rnn.weight_hh_l0)  # such as nn.init.orthogonal_
        nn.init.zeros_(rnn.bias_ih_l0)
        nn.init.zeros_(rnn.bias_hh_l0)
        state = F.normalize(torch.randn(1, n, dtype=torch.double))
        _, last = rnn(torch.zeros(delay, 9, dtype=torch.double), state)
        power = torch.linalg.matrix_power(rnn.weight_hh_l0.detach(), delay)
        s = torch.linalg.svdvals(power).numpy()  # the largest first
        spectra[name].append(s)
        middle = (s[n // 2 - 1] * s[n // 2]) ** 0.5
        rows.append((name, seed, last.norm().item(), middle, (s > 0.1).sum()))
found = pd.DataFrame(rows, columns=["scheme", "seed", "length", "middle", "kept"])

_, ax = plt.subplots()
place, variances = np.arange(0.5, n) / n, {"Gaussian": 1, "PyTorch default": 1 / 3}
for name in ("orthogonal", *variances):
    s = np.array(spectra[name])
    ax.semilogy(place, np.median(s, axis=0), color=colors[name], label=name)
    band = s.min(axis=0), s.max(axis=0)
    ax.fill_between(place, *band, color=colors[name], alpha=0.3)
for v in variances.values():
    theory = (v * (1 - place)) ** (delay / 2)
    ax.plot(place, theory, ":", color="gray", label="theory" if v == 1 else None)
ax.set(title="After forty steps", ylabel="singular value", ylim=(1e-14, 1e2))
ax.set_xlabel("place among the 64, from the largest (0) to the smallest (1)")
ax.legend(loc="upper right", bbox_to_anchor=(1, 0.8))
plt.show()

logs = {}
for what in ("length", "middle"):
    values = found.assign(value=np.log2(found[what]))
    logs[what] = ig.summarize(values, level=0.999).set_index("scheme")
for name, v in variances.items():
    low, high = logs["middle"].loc[name, ["low", "high"]]
    assert low < delay / 2 * np.log2(v / 2) < high
lengths = logs["length"].drop("PyTorch default")
assert lengths["low"].min() > np.log2(0.1)  # lengths alone would not tell
kept = ig.summarize(found.rename(columns={"kept": "value"})).set_index("scheme")
assert (kept.loc[["orthogonal", "identity"], ["low", "high"]] == n).all(axis=None)
assert kept.loc["Gaussian", "high"] < n / 4
medians = found.groupby("scheme", sort=False).median().drop(columns="seed")
medians.map("{:.2g}".format)

# %%
# Medians of ten seeds: the length that is left, the middle singular value, and how many directions
# keep more than a tenth. By the length alone, Gaussian weights of variance :math:`1/n` look fine,
# but they lose most directions. In the figure, lines are medians and bands ranges.
#
# A square matrix is **orthogonal** if :math:`W^\top W = I`. It keeps every length, and so do its
# powers: all singular values are 1. The eigenvalues of **independent weights** of mean 0 and
# variance :math:`v/n` fill a disc of radius :math:`\sqrt v` evenly, if :math:`n` is large
# :cite:p:`tao2010`. So a share :math:`p` of them is larger than :math:`\sqrt{v(1-p)}`. After many
# steps the singular values of :math:`W^t` are like their sizes to the power :math:`t`
# :cite:p:`yamamoto1967`: that is :math:`(v(1-p))^{t/2}`, the dots. With :math:`v = 1` the middle
# direction keeps half in two steps. PyTorch's default has :math:`v = 1/3`.
#
# A task for the memory
# ---------------------
# In the *copy task* a network reads symbols, waits, and must then repeat them in order
# :cite:p:`hochreiter1997,arjovsky2016`. Ours has three symbols out of eight, each due 40 steps
# after it came. While the network waits, its input is zero; a ninth input tells it when to begin. A
# guess is right one time in eight. The state has to tell apart :math:`3 \times 8 = 24` things, each
# symbol in each place: more than the directions that Gaussian weights keep.

generator = torch.Generator().manual_seed(0)


def copy_task(sequences):
    symbols = torch.randint(8, (sequences, 3), generator=generator)
    inputs = torch.zeros(sequences, delay + 3, 9)
    inputs[:, :3, :8] = F.one_hot(symbols, 8)
    inputs[:, delay - 1, 8] = 1.0  # now!
    return inputs, symbols


origin = ig.datasets.Provenance("copy task", "generated", details=("seed 0",))
sequences = *copy_task(4800), *copy_task(500)  # to train on, to test
data = ig.Dataset("copy task", *sequences, tuple("ABCDEFGH"), origin)

# %%
# The starts of a seed differ in :math:`W` alone. To train many networks at once we write the steps
# of ``nn.RNN`` out, since PyTorch cannot stack it. LeCun's rule fills the output layer.


class Memory(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.rnn = nn.RNN(9, n, batch_first=True)
        self.output = nn.Linear(n, 8)
        start(self.rnn.weight_hh_l0)  # such as nn.init.orthogonal_
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x):
        rnn, h, states = self.rnn, x.new_zeros(len(x), n), []
        new = x @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0
        for z in new.unbind(dim=1):
            h = torch.tanh(z + h @ rnn.weight_hh_l0.T)
            states.append(h)  # the same as states, _ = rnn(x)
        # cross_entropy wants the classes before the three places
        return self.output(torch.stack(states[-3:], dim=1)).mT


build = partial(ig.Ensemble.build, seeds=seeds)
parts = [
    build(partial(Memory, start), schemes={name: "lecun_normal"})
    for name, start in starts.items()
]
ensemble = ig.Ensemble.concatenate(parts)
model = ensemble.model("orthogonal", 0)
states, _ = model.rnn(data.test_inputs)
expected = model.output(states[:, -3:]).mT
torch.testing.assert_close(model(data.test_inputs), expected)

# %%
# Every start is trained at four learning rates; the figure shows the one that suits it best.

settings = {"epochs": 1, "batch_size": 20, "evaluate_every": 60}
learn = partial(ig.train, ensemble, data, optimizer=torch.optim.Adam, **settings)
rates = (0.0001, 0.0004, 0.0016, 0.0064)
runs = pd.concat(learn(lr=lr).frame().assign(lr=lr) for lr in rates)
runs = runs.query("metric == 'accuracy'")
last = runs.query("step == step.max()")
reached = last.pivot_table("value", "scheme", "lr", sort=False)
runs = runs[runs["lr"] == runs["scheme"].map(reached.idxmax(axis=1))]
final = runs.query("step == step.max()")

repeats = F.one_hot(data.test_targets, 8).sum(dim=1).amax(dim=1)
no_order = repeats.double() / 3  # see the next section

_, ax = plt.subplots()
for name, color in colors.items():
    line = ig.summarize(runs[runs["scheme"] == name])
    ax.plot(line["step"], line["mean"], color=color, label=name)
    band = line["low"], line["high"]
    ax.fill_between(line["step"], *band, color=color, alpha=0.3)
for text, value in (("guesses", 1 / 8), ("knows no order", no_order.mean())):
    ax.axhline(value, color="#8c8c8c", linestyle="--", linewidth=1)
    ax.text(1.02, value, text, va="center", transform=ax.get_yaxis_transform())
ax.set(title="Only the orthogonal start learns the task", ylim=(0, 1.02))
ax.set(xlabel="step (20 sequences each)", ylabel="share of symbols recalled")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

comparison = ig.compare(final, baseline="orthogonal")
assert (comparison["real"] & (comparison["high"] < 0)).all()
worst = final.query("scheme == 'orthogonal'")["value"].min()
other = final.query("scheme != 'orthogonal'")["value"].max()
assert worst > other
print(ig.describe(comparison))
print(f"The worst orthogonal seed recalls {worst:.0%}, the best other {other:.0%}.")
reached.round(3)

# %%
# The table has the shares at the end for all rates: means of ten seeds, as in the figure, where
# bands are their 95 % intervals.
#
# The identity keeps all, but not the order
# -----------------------------------------
# The identity matrix is orthogonal, too; :cite:t:`le2015` start networks of ReLUs from it. But it
# leaves the state as it is. So each step only adds its input, and a sum does not depend on the
# order. Who knows which symbols came, but not when, does best to name the one that came most often.
# That is the upper dashed line, and where the identity gets:

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
# rows; for a GRU it is three. ``nn.init.orthogonal_`` makes the columns of the tall matrix
# orthogonal, and none of the four. :func:`~initguide.recurrent_` fills each gate by itself. In
# plain PyTorch: ``for w in lstm.weight_hh_l0.data.chunk(4): nn.init.orthogonal_(w)``.

torch.manual_seed(0)
tall = [nn.init.orthogonal_(nn.LSTM(9, n).weight_hh_l0) for _ in seeds]
gate_by_gate = [ig.recurrent_(nn.LSTM(9, n)).weight_hh_l0 for _ in seeds]
for name, weights in (("orthogonal_", tall), ("recurrent_", gate_by_gate)):
    gates = torch.stack(weights).detach().view(-1, 4, n, n)
    s = torch.linalg.svdvals(gates)
    print(f"{name}: singular values of a gate from {s.min():.3f} to {s.max():.3f}")
assert torch.allclose(s, torch.ones(1), atol=1e-5)

# %%
# What this does not show
# -----------------------
# "Not without" means 240 steps of Adam and these variances: with more steps, or a slightly larger
# variance, Gaussian weights may do better. Training does not keep :math:`W` orthogonal. The rates
# were chosen on the test set, for all starts alike. LSTMs and GRUs have gates so as to remember;
# that an orthogonal start helps them to learn is not shown.
#
# What to use for which layer is listed in :doc:`/how-to-choose`.
