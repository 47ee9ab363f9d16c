"""
Watch activations saturate and die
==================================

**What can go wrong in an activation function?** Sigmoid and tanh saturate: where they are flat,
hardly any gradient comes through. A ReLU unit that is off for every image gets a gradient of
exactly zero and never learns again. And ReLU's outputs have no ceiling.

:cite:t:`dlwizard_init` lists these faults beside plots of the functions. Here each one happens in
a network that reads MNIST digits, under ten seeds.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import PercentFormatter
from torch import nn
from torch.nn import functional as F

from initguide import (
    ACTIVATIONS,
    SCHEMES,
    Ensemble,
    compare,
    datasets,
    describe,
    initialize_,
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
# Six functions and their derivatives
# -----------------------------------
# Solid is the function, dashed its derivative as ``backward()`` gives it. On the way back every
# layer multiplies the gradient by the derivative: where that is zero, nothing is left.

x = torch.linspace(-6, 6, 1201, requires_grad=True)
figure, axes = plt.subplots(2, 3, sharex=True, sharey=True)
slopes = {}
for ax, (name, color) in zip(axes.flat, colors.items(), strict=True):
    phi = ACTIVATIONS[name]
    x.grad = None
    phi(x).sum().backward()
    assert torch.allclose(
        x.grad, phi.derivative(x), atol=1e-6
    )  # the closed form agrees
    ax.plot(x.detach(), phi(x).detach(), color=color)
    ax.plot(x.detach(), x.grad, "--", color=color)
    ax.set(title=phi.label, ylim=(-1.3, 2.3))
    slopes[phi.label] = [x.grad[0].item(), x.grad.max().item(), x.grad[-1].item()]
figure.supxlabel("pre-activation")
figure.supylabel("value (solid), slope (dashed)")
plt.show()

# %%
# At its steepest point tanh passes on the whole gradient, sigmoid a quarter of it.

slopes = pd.DataFrame(
    slopes, index=["slope at -6", "steepest slope", "slope at 6"]
).T
assert slopes.loc["sigmoid", "steepest slope"] == 0.25
slopes.round(4)

# %%
# Large weights saturate
# ----------------------
# One hidden layer of 100 units. Its weights grow from Xavier's to :math:`N(0, 1)`; the output
# layer's stay Xavier's, so that nothing but the hidden units changes. We call a unit saturated on
# an image where its slope is below 5 % of its steepest.


def saturate(activation, spread, seed):
    """Return which units saturate, their outputs, and the gradient of the first weights."""
    generator = torch.Generator().manual_seed(seed)
    model = mlp(784, 100, 10, activation=activation)
    nn.init.normal_(model.hidden1.weight, std=spread, generator=generator)
    nn.init.xavier_normal_(model.output.weight, generator=generator)
    nn.init.zeros_(model.hidden1.bias)
    nn.init.zeros_(model.output.bias)
    F.cross_entropy(model(images), digits).backward()
    z = model.hidden1(images.flatten(1)).detach()
    phi = ACTIVATIONS[activation]
    flat = phi.derivative(z) < 0.05 * phi.derivative(torch.zeros(()))
    return flat, phi(z)[flat], model.hidden1.weight.grad.norm()


def draw(ax, table, x):
    """Draw each activation's mean over seeds and its 95 % interval."""
    for name, line in table.groupby("activation", sort=False):
        ax.plot(line[x], line["mean"], "o-", color=colors[name], label=labels[name])
        ax.fill_between(
            line[x], line["low"], line["high"], color=colors[name], alpha=0.3
        )


xavier = (2 / (784 + 100)) ** 0.5
rows, saturated_tanh = [], []
for activation in ("tanh", "sigmoid"):
    for seed in seeds:
        reference = saturate(activation, xavier, seed)[2]
        for spread in (xavier, 0.1, 0.2, 0.5, 1.0):
            flat, outputs, gradient = saturate(activation, spread, seed)
            run = (activation, spread, seed)
            rows.append((*run, "saturated", flat.double().mean().item()))
            rows.append((*run, "gradient", (gradient / reference).item()))
            if activation == "tanh":
                saturated_tanh.append(outputs)
runs = pd.DataFrame(
    rows, columns=["activation", "spread", "seed", "metric", "value"]
)
table = summarize(runs, by=["activation", "spread"])

_, axes = plt.subplots(1, 2)
for ax, metric in zip(axes, ("saturated", "gradient"), strict=True):
    draw(ax, table[table["metric"] == metric], "spread")
    for scheme, spread in (("xavier_normal", xavier), ("standard_normal", 1.0)):
        look = SCHEMES[scheme]
        ax.axvline(spread, linestyle=":", color=look.color, label=look.label)
    ax.set(xscale="log", xlabel="standard deviation of weights", ylim=(-0.02, 1.05))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
axes[0].set(title="Units saturate ...", ylabel="share of units and images")
axes[1].set(
    title="... gradients fade", ylabel="first layer's gradient, of Xavier's"
)
axes[0].legend()
plt.show()

# %%
# The source says that tanh saturates at 0 or 1. Run, it saturates at -1 or 1; at 0 it is steepest.

saturated_tanh = torch.cat(saturated_tanh)
negative, nearest = (saturated_tanh < 0).double().mean(), saturated_tanh.abs().min()
print(
    f"saturated tanh outputs: {negative:.0%} are negative, the nearest to 0 is {nearest:.3f} away"
)

# %%
# Units can lose gradient and the network still have a large one. Where the output layer is
# :math:`N(0, 1)` too, its large weights hand back more than saturation takes away:

rows = []
for activation in ("tanh", "sigmoid"):
    for seed in seeds:
        norms = []
        for scheme in ("standard_normal", "xavier_normal"):
            model = mlp(784, 100, 10, activation=activation)
            initialize_(
                model, scheme, generator=torch.Generator().manual_seed(seed)
            )
            F.cross_entropy(model(images), digits).backward()
            norms.append(model.hidden1.weight.grad.norm().item())
        rows.append((activation, seed, norms[0] / norms[1]))
whole = summarize(
    pd.DataFrame(rows, columns=["activation", "seed", "value"]), by="activation"
)
assert (whole["low"] > 1).all()
print("first layer's gradient, N(0, 1) in both layers over Xavier in both:")
whole.set_index("activation")[["mean", "low", "high"]].round(2)

# %%
# Large steps kill ReLU units
# ---------------------------
# 784-100-10 again, from He's weights, on 4,000 digits. One epoch takes steps of a given size.
# Then we count the hidden units that are off, not above zero, on all 4,000.

few = replace(
    data,
    train_inputs=data.train_inputs[:4000],
    train_targets=data.train_targets[:4000],
    test_inputs=images,
    test_targets=digits,
)
pixels = few.train_inputs.flatten(1)


def off(ensemble):
    """Return which hidden units are off on every training image, a row for each run."""
    weights, biases = (
        ensemble.parameters[f"hidden1.{name}"] for name in ("weight", "bias")
    )
    return torch.stack(
        [
            (pixels @ w.T + b <= 0).all(0)
            for w, b in zip(weights, biases, strict=True)
        ]
    )


rates = (0.1, 0.3, 0.5, 1.0, 2.0)
rows, hurt = [], {}
for activation in ("relu", "leaky_relu"):
    make_model = partial(mlp, 784, 100, 10, activation=activation)
    start = Ensemble.build(make_model, schemes=["he_normal"], seeds=seeds)
    for lr in rates:
        hurt[activation, lr] = train(start, few, epochs=1, lr=lr).ensemble
        share = off(hurt[activation, lr]).double().mean(1).tolist()
        rows += [
            (activation, lr, seed, value)
            for seed, value in zip(seeds, share, strict=True)
        ]
runs = pd.DataFrame(rows, columns=["activation", "lr", "seed", "value"])
killed = summarize(runs, by=["activation", "lr"])
assert (
    killed.loc[killed["lr"] >= 1, "low"]
    > killed.loc[killed["lr"] == 0.1, "high"].max()
).all()

ax = plt.gca()
draw(ax, killed, "lr")
ax.set(
    title="Steps that are too large turn units off for every image", xscale="log"
)
ax.set(
    xlabel="learning rate of the first epoch", ylabel="hidden units that are off"
)
ax.set_xticks(rates, rates)
ax.yaxis.set_major_formatter(PercentFormatter(1.0))
ax.legend()
plt.show()

# %%
# Leaky ReLU's units fall below zero as well. What differs is what reaches them there. After the
# epoch at learning rate 1 we take the gradient of the off units' weights, then train five epochs
# more at a gentle 0.1. ReLU's get a gradient of exactly zero and keep their weights to the last
# bit: they are dead. Leaky ReLU's all move, but at a hundredth of the slope few if any come back.
# Whether the accuracy tells the difference, the last line says.

rows = []
for activation in ("relu", "leaky_relu"):
    before = hurt[activation, 1.0]
    history = train(before, few, epochs=5, lr=0.1)
    rows.append(history.frame().assign(activation=labels[activation]))
    was_off, is_off = off(before), off(history.ensemble)
    was, now = (
        e.parameters["hidden1.weight"][was_off] for e in (before, history.ensemble)
    )
    moved, back = (
        (was != now).any(dim=1).double().mean(),
        (was_off & ~is_off).sum() / was_off.sum(),
    )
    model = before.model("he_normal", 0)  # one of the ten
    F.cross_entropy(model(few.train_inputs), few.train_targets).backward()
    gradient = model.hidden1.weight.grad.norm(dim=1)[was_off[0]].mean()
    print(
        f"{labels[activation]}: {len(was)} units off, mean gradient {gradient:.1g};",
        end=" ",
    )
    print(f"{moved:.0%} moved, {back:.0%} came back on")
    assert moved == (0 if activation == "relu" else 1)
    assert (gradient > 0) == (activation == "leaky_relu")
print(describe(compare(pd.concat(rows), by="activation")))

# %%
# No ceiling, and no mean of zero
# -------------------------------
# Five hidden layers. Left, under :math:`N(0, 1)`: sigmoid and tanh cannot exceed 1, the other four
# multiply layer by layer. Right, under good weights (He's; Xavier's for sigmoid and tanh): the
# mean of the first layer's outputs, in units of their standard deviation.

rows = []
for activation in colors:
    good = "xavier_normal" if activation in ("sigmoid", "tanh") else "he_normal"
    for scheme, metric in (("standard_normal", "largest"), (good, "mean")):
        for seed in seeds:
            model = mlp(784, *[100] * 5, 10, activation=activation)
            initialize_(
                model, scheme, generator=torch.Generator().manual_seed(seed)
            )
            signal = images
            for name, module in model.named_children():
                signal = module(signal).detach()
                if name.startswith("activation"):
                    value = (
                        signal.max()
                        if metric == "largest"
                        else signal.mean() / signal.std()
                    )
                    rows.append(
                        (activation, int(name[-1]), seed, metric, value.item())
                    )
runs = pd.DataFrame(
    rows, columns=["activation", "layer", "seed", "metric", "value"]
)
outputs = summarize(runs, by=["activation", "layer"])
means = outputs[(outputs["metric"] == "mean") & (outputs["layer"] == 1)].set_index(
    "activation"
)

_, axes = plt.subplots(1, 2)
draw(axes[0], outputs[outputs["metric"] == "largest"], "layer")
axes[0].set(
    title="Four have no ceiling", xlabel="hidden layer", ylabel="largest output"
)
axes[0].set(yscale="log", xticks=range(1, 6))
axes[0].text(1, 2e4, "ReLU, leaky ReLU,\nGELU, SiLU")
axes[0].text(3, 2, "sigmoid, tanh")
for row, (name, color) in enumerate(colors.items()):
    mean, low, high = means.loc[name, ["mean", "low", "high"]]
    bar = [[mean - low], [high - mean]]
    axes[1].errorbar(mean, row, xerr=bar, fmt="o", color=color, capsize=4)
axes[1].axvline(0, color=plt.rcParams["axes.edgecolor"], linewidth=1)
axes[1].set(title="Tanh alone has mean 0", xlabel="mean / standard deviation")
axes[1].set_yticks(range(len(labels)), labels.values())
axes[1].invert_yaxis()
plt.show()

# %%
# That the activations' mean is zero, as :cite:t:`mlmastery_logistic_init` asks of good weights, is
# up to the function: an odd one such as tanh has it on average, ReLU and sigmoid cannot.

assert (
    means.loc["tanh", ["low", "high"]].abs().max() < means.drop("tanh")["low"].min()
)
means[["mean", "low", "high"]].rename(index=labels).astype(float).round(3)

# %%
# What this does not show
# -----------------------
# Saturation is no verdict on tanh: under Xavier's weights it hardly saturates. Nor is a dead unit
# always missed: the networks above lost many and learned with the rest. And this was one layer;
# what depth makes of it comes in "Keep the variance level". Next, in "Break the symmetry", the
# weights are not too large but too equal.
#
# What this page found of the sources' claims; the page on evidence collects them:

fading = table[(table["metric"] == "gradient") & (table["spread"] == 1)].set_index(
    "activation"
)
at_0_or_1 = torch.minimum(saturated_tanh.abs(), (saturated_tanh - 1).abs()) < 0.05
relu = means.loc["relu"]
findings = {
    "S0.8": {
        "verdict": "holds" if relu["low"] <= 0 <= relu["high"] else "wrong",
        **{"value": relu["mean"], "low": relu["low"], "high": relu["high"]},
    },
    "S3.9": {
        "verdict": "holds" if at_0_or_1.all() else "wrong",
        **{"value": saturated_tanh.min().item(), "low": None, "high": None},
    },
    "S3.10": {
        "verdict": "holds" if (fading["high"] < 1).all() else "wrong",
        **fading.loc["tanh", ["mean", "low", "high"]]
        .rename({"mean": "value"})
        .to_dict(),
    },
}
pd.DataFrame(findings).T
