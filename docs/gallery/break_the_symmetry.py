"""
Break the symmetry
==================

**What is wrong with equal weights?** Hidden units that start equal get equal gradients and stay
equal: fifty of them do the work of one. Random weights break this symmetry, and so do random
biases. Where weights and biases are all zero it is worse still: with tanh or ReLU, no weight gets
any gradient at all.

:cite:t:`dlwizard_init` and :cite:t:`udacity_init` warn of constants. Here are the gradients, what
breaks the symmetry and what does not, and why this is no local minimum.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn
from torch.func import grad, jacrev
from torch.nn import functional as F

from initguide import (
    Ensemble,
    Scheme,
    claim,
    compare,
    datasets,
    mlp,
    show,
    summarize,
    train,
    xavier_normal_,
)
from initguide.initializers import normal_, torch_default_bias_
from initguide.plotting import plot_means

# In single precision, rounding errors could push equal units apart.
data = datasets.mnist().first(4000, 1000).map(torch.Tensor.double)
images, digits = data.train_inputs, data.train_targets
show(data)

# %%
# All zeros: only a bias moves
# ----------------------------
# Weights and biases are zero. With tanh or ReLU the hidden units answer 0, so the output weights
# get no gradient. The output weights are 0, so nothing flows back to the hidden ones. What is left
# are the output biases.


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
print("gradient of the ten output biases:")
print([round(g, 3) for g in output_bias.tolist()])
weights = gradients.loc[names[:3], ["Tanh", "ReLU"]].to_numpy()
claim(
    "With tanh and ReLU nothing but the output biases has a gradient",
    weights,
    equal=0,
)
show(gradients.round(4))

# %%
# :cite:t:`dlwizard_init` says that with zeros every neuron gets the same gradient and the same
# update. The hidden units do: none at all, which no number of steps changes. The ten outputs do
# not: their biases get different gradients. (Sigmoid makes 1/2 of zero, so its output weights do
# move.) And the source leaves PyTorch's random biases as they are; we shall see that these are
# enough to break the symmetry.
#
# All equal: fifty units are one
# ------------------------------
# With every weight at 0.01 there is a gradient, the same for each hidden unit. Here is a network of
# fifty tanh units, trained for two epochs. At its end, *one* of its units gives the same answers,
# if its output weights are the sums of all fifty units'.

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
# In double precision, rounding leaves differences near 1e-15.
claim("One unit gives the same answers as the fifty", apart, below=1e-9)

# %%
# What breaks the symmetry?
# -------------------------
# Ten starts of this network, ten seeds each, are trained by SGD for three epochs at a learning rate
# of 0.3, in batches of 100. "Nudged" weights get normal noise with a standard deviation of 0.001;
# "random output" leaves the hidden weights equal and draws the output weights by Xavier's rule;
# "random biases" are PyTorch's, all others are zero; dropout is 0.2. Then we count the hidden units
# that differ. Two are the same if their weights agree to 0.01 %.


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
    Scheme("zeros, random biases", 0.0, bias=torch_default_bias_),
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
# units and not others. So do a random output layer, noise of 0.001, and random biases: with
# PyTorch's, even zero weights learn. The table is the accuracy less that of "all 0.01", in points,
# with intervals of 95 % for all of its rows at once.

kept = ["zeros", "ones", "all 0.01"]
claim(
    "Equal weights and biases: one distinct unit", counts.loc[kept, "mean"], equal=1
)
broken = counts["mean"].drop(kept)
claim("Each of the others: nearly fifty distinct units", broken, above=45)

comparison = compare(runs, baseline="all 0.01").set_index("a")
gains = 100 * comparison["difference"].drop(["zeros", "ones"])
claim("Each of them is over 25 points better than all 0.01", gains, above=25)
show((100 * comparison[["difference", "low", "high"]]).round(1))

# %%
# Is it a local minimum?
# ----------------------
# Equal weights stay equal, says :cite:t:`udacity_init`, so weights should differ, and be random "to
# avoid being stuck in a local minimum for each run". Are equal weights stuck in one? No: the best
# that they can reach is no minimum. We look for it with an optimizer that moves all fifty tanh
# units together, on 500 digits and with weight decay, so that there is an optimum. Each of three
# random starts leads to one. There we ask for the *Hessian*, the table of the second derivatives of
# the loss, as two of the units move apart. At a minimum, none of its eigenvalues, the *curvatures*,
# is negative.

x, y = nn.functional.pad(images[:500].flatten(1), (0, 1), value=1.0), digits[:500]


def answer(unit):
    """Return what a unit adds to the ten outputs: 784 weights, a bias, 10 weights."""
    return torch.tanh(x @ unit[:785])[:, None] * unit[785:]


def loss(apart, unit, bias):
    """Return the loss if two of fifty equal units move apart."""
    left, right = unit + apart, unit - apart
    outputs = 48 * answer(unit) + answer(left) + answer(right) + bias
    size = 48 * unit.square().sum() + left.square().sum() + right.square().sum()
    return F.cross_entropy(outputs, y) + 0.005 * (size + bias.square().sum())


together = torch.zeros(795).double()


def best_equal(seed):
    """Return the best weights that fifty equal units can have, and the largest slope there."""
    generator = torch.Generator().manual_seed(seed)
    unit = 0.01 * torch.randn(795, generator=generator).double()
    both = unit.requires_grad_(), torch.zeros(10).double().requires_grad_()
    settings = {
        "max_iter": 1000,
        "history_size": 50,
        "line_search_fn": "strong_wolfe",
    }
    optimizer = torch.optim.LBFGS(both, tolerance_change=0, **settings)

    def step():
        optimizer.zero_grad()
        value = loss(together, *both)
        value.backward()
        return value

    optimizer.step(step)
    slope = max(p.grad.abs().max().item() for p in both)
    return *(p.detach() for p in both), slope


slopes, curvatures = [], []
for seed in range(3):
    unit, bias, slope = best_equal(seed)
    hessian = jacrev(grad(loss))(together, unit, bias)
    values, directions = torch.linalg.eigh(hessian)
    slopes.append(slope)
    curvatures.append(
        values[0].item() / 2
    )  # two units move: a step of length sqrt(2)

claim(
    "Fifty tanh units moving together are at an optimum: no slope",
    slopes,
    below=1e-3,
)
claim(
    "Two of fifty equal tanh units moving apart: negative curvature",
    curvatures,
    below=-0.1,
)

distances = torch.linspace(-1, 1, 41).double()
moves = distances[:, None] * directions[:, 0]
apart = [loss(move, unit, bias).item() for move in moves]
equal = [loss(together, unit + move / 5, bias).item() for move in moves]
ax = plt.gca()
# Fifty units together go as far as two apart that move five times as much each.
ax.plot(distances * 2**0.5, equal, label="all fifty together")
ax.plot(distances * 2**0.5, apart, label="two of them apart")
ax.set(title="The best equal weights are a saddle point", ylabel="loss")
ax.set_xlabel("distance from the best equal weights")
ax.legend()
plt.show()

# %%
# The slope is zero in every direction: as the units are equal, each has its share of the slope of
# all together, which is zero. But where two units move apart the loss falls to both sides. That is
# a saddle point: equal weights stay on it only as long as nothing pushes them apart.
#
# What this page found of the sources' claims is collected in :doc:`/evidence`.

# sphinx_gallery_start_ignore
findings = {
    "S3.11": weights.max(),
    "S3.24": counts.loc["xavier_normal"],
    "S4.10": max(curvatures),
}
# sphinx_gallery_end_ignore

# %%
# What this does not show
# -----------------------
# That random weights meet no local minimum, only that the best equal weights of this network are
# none. Nor is it enough to break the symmetry: random weights can still be too small or too large.
# The intervals are over seeds and leave out the sampling of the test set, and a seed does not pin a
# trained network across processors, as rounding grows in training: :doc:`/replication`. How large a
# weight should be is the question of :doc:`keep_the_variance_level`.
