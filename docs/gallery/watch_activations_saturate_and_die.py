"""
Watch activations saturate and die
==================================

**What can go wrong in an activation function?** Sigmoid and tanh saturate: where they are flat,
hardly any gradient comes through. A ReLU unit that is off for every image gets a gradient of
exactly zero, and its weights never move again. And ReLU's outputs have no ceiling.

:cite:t:`dlwizard_init` lists these faults beside plots of the functions. Here each one happens in
a network that reads MNIST digits, under ten seeds.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import PercentFormatter
from torch import nn
from torch.nn import functional as F

from initguide import (
    ACTIVATIONS,
    Ensemble,
    compare,
    datasets,
    describe,
    mlp,
    summarize,
    train,
)

colors = {
    "sigmoid": "#D55E00",
    "tanh": "#0072B2",
    "relu": "#009E73",
    "leaky_relu": "#E69F00",
    "gelu": "#CC79A7",
    "silu": "#8A5FBF",
}
labels = {name: ACTIVATIONS[name].label for name in colors}
seeds = range(10)
data = datasets.mnist()
images, digits = data.test_inputs[:1000], data.test_targets[:1000]
data

# %%
# Six functions and their slopes
# ------------------------------
# A layer computes :math:`z = Wx + b`, its *pre-activation*, and hands on a function of it (solid).
# On the way back, the gradient is multiplied by the function's slope (dashed). Where that is zero,
# no gradient is left.

z = torch.linspace(-6, 6, 1201, requires_grad=True)
figure, axes = plt.subplots(2, 3, sharex=True, sharey=True)
steepest = {}
for ax, (name, color) in zip(axes.flat, colors.items(), strict=True):
    value = ACTIVATIONS[name](z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert torch.allclose(slope, ACTIVATIONS[name].derivative(z), atol=1e-6)
    ax.plot(z.detach(), value.detach(), color=color)
    ax.plot(z.detach(), slope, "--", color=color)
    ax.set(title=labels[name], ylim=(-1.3, 2.3))
    steepest[name] = slope.max().item()
figure.supxlabel("pre-activation z")
figure.supylabel("value (solid), slope (dashed)")
plt.show()

print(f"steepest slope: tanh {steepest['tanh']}, sigmoid {steepest['sigmoid']}")
assert steepest["sigmoid"] == 0.25

# %%
# Large weights saturate
# ----------------------
# A network has one hidden layer of 100 units. Its first weights are normal, with a standard
# deviation that grows from Xavier's, :math:`\sqrt{2 / (784 + 100)}`, to 1. The output weights stay
# Xavier's, so that nothing but the hidden units changes. We call a unit *saturated* on an image
# where its slope is below 5 % of the steepest.


def backward(activation, std, output_std, seed):
    """Return pre-activations and the size of the first layer's gradient."""
    generator = torch.Generator().manual_seed(seed)
    model = mlp(784, 100, 10, activation=activation)
    nn.init.normal_(model.hidden1.weight, std=std, generator=generator)
    nn.init.normal_(model.output.weight, std=output_std, generator=generator)
    nn.init.zeros_(model.hidden1.bias)
    nn.init.zeros_(model.output.bias)
    F.cross_entropy(model(images), digits).backward()
    z = model.hidden1(images.flatten(1)).detach()
    return z, model.hidden1.weight.grad.norm().item()


def draw(ax, table, x):
    """Draw each activation's mean over seeds and its 95 % interval."""
    for name, line in table.groupby("activation", sort=False):
        ax.plot(line[x], line["mean"], "o-", color=colors[name], label=labels[name])
        band = line["low"], line["high"]
        ax.fill_between(line[x], *band, color=colors[name], alpha=0.3)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend()


xavier, xavier_output = (2 / (784 + 100)) ** 0.5, (2 / (100 + 10)) ** 0.5
spreads = [xavier, 0.1, 0.2, 0.5, 1.0]
rows, saturated_tanh = [], []
for name in ("tanh", "sigmoid"):
    phi = ACTIVATIONS[name]
    for seed in seeds:
        _, reference = backward(name, xavier, xavier_output, seed)
        for std in spreads:
            z, size = backward(name, std, xavier_output, seed)
            flat = phi.derivative(z) < 0.05 * steepest[name]
            rows.append((name, seed, std, "saturated", flat.double().mean().item()))
            rows.append((name, seed, std, "gradient", size / reference))
            if name == "tanh":
                saturated_tanh.append(phi(z[flat]))
        _, size = backward(name, 1.0, 1.0, seed)
        rows.append((name, seed, 1.0, "both layers N(0, 1)", size / reference))
columns = ["activation", "seed", "spread", "metric", "value"]
table = summarize(pd.DataFrame(rows, columns=columns), by=["activation", "spread"])

_, axes = plt.subplots(1, 2, figsize=(7.6, 4))
for ax, metric in zip(axes, ("saturated", "gradient"), strict=True):
    draw(ax, table[table["metric"] == metric], "spread")
    ax.set(xscale="log", xlabel="standard deviation of the weights")
    ax.set_xticks(spreads, ["Xavier's", *spreads[1:]])
    ax.minorticks_off()
axes[0].set(title="Units saturate ...", ylabel="share of units and images")
axes[1].set(
    title="... and their gradient fades", ylabel="gradient, Xavier's = 100 %"
)
plt.show()

# %%
# The source says that tanh saturates at 0 or 1. It saturates at -1 and 1; at 0 it is steepest.

saturated_tanh = torch.cat(saturated_tanh)
low, high = saturated_tanh.min(), saturated_tanh.max()
print(f"Outputs of saturated tanh units lie between {low:.3f} and {high:.3f},")
print(f"and none is nearer to 0 than {saturated_tanh.abs().min():.3f}.")

# %%
# A network can hide this. If the output weights are drawn from :math:`N(0, 1)` as well, normal with
# a standard deviation of 1, they hand back more than saturation takes away. The first layer's
# gradient is then larger than with Xavier's weights in both layers, by these factors:

whole = table[table["metric"] == "both layers N(0, 1)"].set_index("activation")
assert (whole["low"] > 1).all()
whole[["mean", "low", "high"]].round(2)

# %%
# Large steps kill ReLU units
# ---------------------------
# A ReLU unit is *off* on an image if its pre-activation is not above zero. The same network, with
# ReLU and He's weights, :math:`N(0, 2/784)` in the first layer, is trained for one epoch on 4,000
# digits. Then we count the hidden units that are off on all 4,000.

few = data.first(4000, 1000)


def off(ensemble):
    """Return for each run and hidden unit whether it is off on every training image."""
    p = ensemble.parameters
    z = few.train_inputs.flatten(1) @ p["hidden1.weight"].mT
    return (z + p["hidden1.bias"][:, None] <= 0).all(dim=1)


rates = (0.1, 0.3, 0.5, 1.0, 2.0)
tables, hurt = [], {}
for name in ("relu", "leaky_relu"):
    make_model = partial(mlp, 784, 100, 10, activation=name)
    start = Ensemble.build(make_model, schemes=["he_normal"], seeds=seeds)
    for lr in rates:
        hurt[name, lr] = train(start, few, epochs=1, lr=lr).ensemble
        share = off(hurt[name, lr]).double().mean(dim=1)
        run = {"activation": name, "lr": lr, "seed": seeds, "value": share}
        tables.append(pd.DataFrame(run))
killed = summarize(pd.concat(tables), by=["activation", "lr"])
gentle, large = killed[killed["lr"] == 0.1], killed[killed["lr"] >= 1]
assert (large["low"] > gentle["high"].max()).all()

ax = plt.gca()
draw(ax, killed, "lr")
ax.set(xscale="log", xlabel="learning rate", ylabel="hidden units that are off")
ax.set_xticks(rates, rates)
ax.set_title("Steps that are too large turn units off for every image")
plt.show()

# %%
# Leaky ReLU's units fall below zero as well. But below zero its slope is 0.01, not 0. To see what
# that changes, we train the networks of learning rate 1 for five more epochs, at a gentle 0.1.
# ReLU's units get a gradient of exactly zero and keep their weights to the last bit: they are dead.
# Leaky ReLU's all move, but so slowly that few if any come back. The line below compares their
# accuracy.

rows, tables = {}, []
for name in ("relu", "leaky_relu"):
    before = hurt[name, 1.0]
    history = train(before, few, epochs=5, lr=0.1)
    tables.append(history.frame().assign(activation=labels[name]))
    was_off, is_off = off(before), off(history.ensemble)
    old = before.parameters["hidden1.weight"][was_off]
    new = history.ensemble.parameters["hidden1.weight"][was_off]

    model = before.model("he_normal", seed=0)
    F.cross_entropy(model(few.train_inputs), few.train_targets).backward()
    rows[labels[name]] = {
        "units off": len(old),
        "gradient, seed 0": model.hidden1.weight.grad[was_off[0]].norm().item(),
        "moved": (old != new).any(dim=1).double().mean().item(),
        "came back": (was_off & ~is_off).sum().item() / len(old),
    }
fate = pd.DataFrame(rows).T
assert fate["moved"].tolist() == [0, 1]
assert (fate["gradient, seed 0"] > 0).tolist() == [False, True]
print(describe(compare(pd.concat(tables), by="activation")))
fate.round(4)

# %%
# No ceiling, and no mean of zero
# -------------------------------
# Sigmoid and tanh cannot exceed 1; the others can, and do if the first weights are :math:`N(0, 1)`.
# The other columns are of good weights, Xavier's for sigmoid and tanh, else He's: the mean of the
# layer's outputs over their standard deviation, and its 95 % interval.


def outputs(activation, std, seed):
    """Return what a layer of 100 units makes of the images."""
    generator = torch.Generator().manual_seed(seed)
    weight = nn.init.normal_(torch.empty(100, 784), std=std, generator=generator)
    return ACTIVATIONS[activation](images.flatten(1) @ weight.T)


rows = []
for name in colors:
    good = xavier if name in ("sigmoid", "tanh") else (2 / 784) ** 0.5
    for seed in seeds:
        largest = outputs(name, 1.0, seed).max()
        ratio = outputs(name, good, seed).mean() / outputs(name, good, seed).std()
        rows.append((name, seed, "largest output", largest.item()))
        rows.append((name, seed, "mean / std", ratio.item()))
columns = ["activation", "seed", "metric", "value"]
sizes = summarize(pd.DataFrame(rows, columns=columns), by="activation")
means = sizes[sizes["metric"] == "mean / std"].set_index("activation")
tanh, others = means.loc["tanh", ["low", "high"]], means.drop("tanh")
assert tanh.abs().max() < others["low"].min()

wide = sizes.pivot(index="activation", columns="metric", values="mean")
wide = wide.loc[list(colors)].join(means[["low", "high"]])
wide.rename(index=labels).round(2)

# %%
# With good weights the mean of the activations should be zero, says
# :cite:t:`mlmastery_logistic_init`. But that is up to the function: an odd one such as tanh has a
# mean of zero on average, ReLU and sigmoid cannot have one.
#
# The sources' claims
# -------------------
# What this page found; :doc:`/evidence` says what each claim is.

at_0_or_1 = torch.minimum(saturated_tanh.abs(), (saturated_tanh - 1).abs()) < 0.05
fading = table.query("metric == 'gradient' and spread == 1").set_index("activation")
relu, faded = means.loc["relu"], fading.loc["tanh"]
findings = {
    "S0.8": {
        "verdict": "holds" if relu["low"] <= 0 <= relu["high"] else "wrong",
        **{"value": relu["mean"], "low": relu["low"], "high": relu["high"]},
    },
    "S3.9": {
        "verdict": "holds" if at_0_or_1.all() else "wrong",
        "value": low.item(),
    },
    "S3.10": {
        "verdict": "holds" if (fading["high"] < 1).all() else "wrong",
        **{"value": faded["mean"], "low": faded["low"], "high": faded["high"]},
    },
}
pd.DataFrame(findings).T

# %%
# What this does not show
# -----------------------
# Saturation is no verdict on tanh: with Xavier's weights it hardly saturates. Nor is a dead unit
# always missed: the networks above lost many and learned with the rest. And most of this was one
# layer; :doc:`keep_the_variance_level` tells what depth makes of it. Next, in
# :doc:`break_the_symmetry`, the weights are not too large but too equal.
