"""
Break the symmetry
==================

**What is wrong with equal weights?** Hidden units that start equal get equal gradients and stay
equal: fifty of them do the work of one. Random weights break this symmetry. All-zero weights are
worse still: with tanh or ReLU they get no gradient at all.

:cite:t:`dlwizard_init` and :cite:t:`udacity_init` warn of constants. Here are the gradients, what
breaks the symmetry and what does not, and why this is no local minimum.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import (
    Ensemble,
    Scheme,
    compare,
    datasets,
    describe,
    mlp,
    summarize,
    train,
    xavier_normal_,
)
from initguide.initializers import normal_, torch_default_bias_
from initguide.plotting import plot_means

single = datasets.mnist().first(4000, 1000)
data = single.map(torch.Tensor.double)  # single would break the symmetry, see below
images, digits = data.train_inputs, data.train_targets
data

# %%
# All zeros: only a bias moves
# ----------------------------
# With tanh or ReLU the hidden units answer 0, so the output weights get no gradient. The output
# weights are 0, so nothing flows back to the hidden ones. What is left are the output biases.


def network(units, activation):
    layers = nn.Linear(784, units), activation, nn.Linear(units, 10)
    return nn.Sequential(nn.Flatten(), *layers).double()


gradients = {}
for activation in (nn.Tanh(), nn.ReLU(), nn.Sigmoid()):
    model = network(50, activation)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    F.cross_entropy(model(images[:64]), digits[:64]).backward()
    name = type(activation).__name__
    gradients[name] = [p.grad.abs().max().item() for p in model.parameters()]
output_bias = model[3].bias.grad

names = ["hidden weights", "hidden biases", "output weights", "output biases"]
gradients = pd.DataFrame(gradients, index=names).rename_axis("largest gradient")
assert (gradients.loc[names[:3], ["Tanh", "ReLU"]] == 0).all(axis=None)
assert (gradients.loc["output biases"] > 0).all()
print("gradient of the ten output biases:")
print([round(g, 3) for g in output_bias.tolist()])
gradients.round(4)

# %%
# The first source says that with zeros every neuron gets the same gradient and the same update. But
# the weights get exactly zero, which no number of steps changes, and the output biases get
# different gradients. (Sigmoid makes 1/2 of zero, so its output weights do move.)
#
# All equal: fifty units are one
# ------------------------------
# With every weight at 0.01 there is a gradient, the same for each hidden unit. Here is a network of
# fifty, trained for two epochs. At its end, *one* of its units gives the same answers, if its
# output weights are the sums of all fifty units'.

torch.manual_seed(0)
fifty, one = network(50, nn.Tanh()), network(1, nn.Tanh())
for layer in (fifty[1], fifty[3]):
    nn.init.constant_(layer.weight, 0.01)
    nn.init.zeros_(layer.bias)

optimizer = torch.optim.SGD(fifty.parameters(), lr=0.2)
for _ in range(2):
    for batch in torch.randperm(len(images)).split(100):
        loss = F.cross_entropy(fifty(images[batch]), digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with torch.no_grad():
    one[1].weight.copy_(fifty[1].weight[:1])
    one[1].bias.copy_(fifty[1].bias[:1])
    one[3].weight.copy_(fifty[3].weight.sum(dim=1, keepdim=True))
    one[3].bias.copy_(fifty[3].bias)
    apart = (fifty(images) - one(images)).abs().max()
print(f"50 units or 1: the outputs differ by at most {apart:.0e}")
assert apart < 1e-6

# %%
# What breaks the symmetry?
# -------------------------
# Nine starts of this network, ten seeds each, are trained for three epochs at a learning rate of
# 0.3. "Nudged" weights get normal noise with a standard deviation of 0.001; "random output" leaves
# the hidden weights equal and draws the output weights by Xavier's rule. Then we count the hidden
# units that differ. Two are the same if their weights agree to 0.01 %.


def make_model(dropout=0.0, dtype=torch.double):
    return mlp(784, 50, 10, activation="tanh", dropout=dropout).to(dtype)


def units(ensemble):
    """Return the weights into and out of each hidden unit: (runs, units, 784 + 1 + 10)."""
    p = ensemble.parameters
    bias, back = p["hidden1.bias"].unsqueeze(2), p["output.weight"].transpose(1, 2)
    return torch.cat([p["hidden1.weight"], bias, back], dim=2)


def distinct(ensemble):
    """Count the units that no earlier one equals."""
    w = units(ensemble)
    equal = torch.cdist(w, w) <= 1e-4 * w.norm(dim=2, keepdim=True)
    equals_earlier = equal.tril(diagonal=-1).any(dim=2)
    return {"distinct units": (~equals_earlier).sum(dim=1)}


schemes = [
    "zeros",
    "ones",
    Scheme("all 0.01", 0.01),
    Scheme("zeros, nudged", partial(normal_, mean=0.0, std=1e-3)),
    Scheme("all 0.01, nudged", partial(normal_, mean=0.01, std=1e-3)),
    Scheme("all 0.01, random biases", 0.01, bias=torch_default_bias_),
    Scheme("all 0.01, random output", 0.01, readout=xavier_normal_),
    "xavier_normal",
]
with_dropout = partial(make_model, dropout=0.2)
tables = []
for make, starts in (
    (make_model, schemes),
    (with_dropout, [Scheme("all 0.01, dropout", 0.01)]),
):
    ensemble = Ensemble.build(make, schemes=starts, seeds=range(10))
    tables.append(train(ensemble, data, epochs=3, lr=0.3, observe=distinct).frame())
runs = pd.concat(tables)
runs = runs[runs["step"] == runs["step"].max()]
counts = summarize(runs[runs["metric"] == "distinct units"]).set_index("scheme")

ax = plot_means(runs)
names = [
    f"{label.get_text()}: {mean:.0f} distinct"
    for label, mean in zip(ax.get_yticklabels(), counts["mean"], strict=True)
]
ax.set_yticks(range(len(names)), names)
ax.set(title="Units that differ can learn")
plt.show()

# %%
# Shuffled batches break nothing: all units see the same batch. Dropout does, since it silences some
# units and not others. So do random biases, a random output layer, and noise of 0.001.

comparison = compare(runs, baseline="all 0.01")
kept = ["zeros", "ones", "all 0.01"]
assert (counts.loc[kept, ["low", "high"]] == 1).all(axis=None)
assert (counts.drop(kept)["low"] > 1).all()
worse = comparison["a"].isin(kept)
assert (comparison.loc[worse, "high"] < 0).all()
assert (comparison.loc[~worse, "low"] > 0).all()
print(describe(comparison))

# %%
# Is it a local minimum?
# ----------------------
# "Random weights avoid local minima": so this failure is often explained. But at a minimum no small
# nudge grows. Here all weights are 0.01, nudged by noise of a millionth or not at all. The
# optimizer is that of :cite:t:`dlwizard_init`, the precision single, as usual. How far apart do the
# hidden units get while they train?


def difference(ensemble):
    """Return the largest distance of a unit from the first, over the size of the first."""
    w = units(ensemble)
    return {"difference": (w - w[:, :1]).norm(dim=2).amax(1) / w[:, 0].norm(dim=1)}


schemes = [
    Scheme("nudged by 0.000001", partial(normal_, mean=0.01, std=1e-6)),
    Scheme("not nudged", 0.01),
]
make_single = partial(make_model, dtype=torch.float)
ensemble = Ensemble.build(make_single, schemes=schemes, seeds=range(10))
sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
settings = {"epochs": 5, "lr": 0.1, "optimizer": sgd, "evaluate_every": 20}
history = train(ensemble, single, observe=difference, **settings)
runs = history.frame().query("metric == 'difference' and value > 0")
runs = runs.assign(value=np.log10(runs["value"]))

ax = plt.gca()
for name, line in summarize(runs).groupby("scheme", sort=False):
    ax.plot(line["step"], 10 ** line["mean"], label=name)
    ax.fill_between(line["step"], 10 ** line["low"], 10 ** line["high"], alpha=0.3)
ax.set(title="Small differences between equal units grow", yscale="log")
ax.set(xlabel="step (mini-batches of 100)", ylabel="difference of hidden units")
ax.legend()
plt.show()

nudge = runs[runs["scheme"] == "nudged by 0.000001"].groupby("seed")["value"]
decades = (nudge.last() - nudge.first()).reset_index()
growth = summarize(decades.assign(scheme="nudged")).iloc[0]
assert growth["low"] > 0
print(f"the nudge grows by {growth['mean']:.1f} orders of magnitude", end=" ")
print(f"[{growth['low']:.1f}, {growth['high']:.1f}] in 200 steps")

# %%
# The nudge grows. So do the rounding errors of the weights that were not nudged; how large they are
# depends on the machine. Equal weights do not lie in a valley but on a ridge: gradient descent
# follows it only as long as nothing pushes it sideways. All zeros are such a point too: nudged,
# they train.
#
# The sources' claims
# -------------------
# What this page found; :doc:`/evidence` says what each claim is.

weights = gradients.loc["hidden weights":"output weights", ["Tanh", "ReLU"]]
largest, stuck = weights.max(axis=None), counts.loc["all 0.01"]
findings = {
    "S3.11": {
        "verdict": "holds" if largest > 0 and output_bias.std() == 0 else "wrong",
        "value": largest,
    },
    "S4.10": {
        "verdict": "holds" if growth["high"] <= 0 else "wrong",
        **{"value": stuck["mean"], "low": stuck["low"], "high": stuck["high"]},
    },
}
pd.DataFrame(findings).T

# %%
# What this does not show
# -----------------------
# That random weights meet no local minimum, only that these failures are none. Nor is it enough to
# break the symmetry: random weights can still be too small or too large. How large is right is the
# question of :doc:`keep_the_variance_level`.
