"""
Watch activations saturate and die
==================================

**What can go wrong in an activation function?** Sigmoid and tanh saturate: where they are flat,
hardly any gradient comes through. A ReLU unit that is off for every image gets a gradient of
exactly zero: in a first layer, plain gradient descent never moves its weights again. And ReLU's
outputs have no ceiling.

:cite:t:`dlwizard_init` lists these faults beside plots of the functions. Here each one happens in
a network that reads MNIST digits, under ten seeds or more.

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
    claim,
    compare,
    datasets,
    mlp,
    show,
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
show(data)

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
    ax.plot(z.detach(), value.detach(), color=color)
    ax.plot(z.detach(), slope, "--", color=color)
    ax.set(title=labels[name], ylim=(-1.3, 2.3))
    steepest[name] = slope.max().item()
figure.supxlabel("pre-activation z")
figure.supylabel("value (solid), slope (dashed)")
plt.show()

print(f"steepest slope: tanh {steepest['tanh']}, sigmoid {steepest['sigmoid']}")

# %%
# Near zero, sigmoid and tanh are straight lines. A layer whose weights are as small as
# :math:`N(0, 0.001^2)` stays there: its slope is nearly constant, and the layer as good as linear.


def pre_activations(std, seed):
    """Return what 100 units with normal weights and no biases make of the images."""
    generator = torch.Generator().manual_seed(seed)
    weight = nn.init.normal_(torch.empty(100, 784), std=std, generator=generator)
    return images.flatten(1) @ weight.T


straight = min(
    ACTIVATIONS[name].derivative(pre_activations(0.001, seed)).min().item()
    / steepest[name]
    for name in ("tanh", "sigmoid")
    for seed in seeds
)
print(f"Under small weights, no slope is below {straight:.3f} of the steepest.")

# %%
# Large weights saturate
# ----------------------
# A network has one hidden layer of 100 units. Its first weights are normal, with a standard
# deviation that grows from Xavier's, :math:`\sqrt{2 / (784 + 100)}`, to 1. The output weights stay
# Xavier's, so that nothing but the hidden units changes, and the biases are zero (the source leaves
# PyTorch's small random ones). We call a unit *saturated* on an image where its slope is below 5 %
# of the steepest.


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

at_1 = table.set_index(["metric", "activation", "spread"])
fading = at_1.loc["gradient"].xs(1.0, level="spread")
claim(
    "N(0, 1) in a tanh or sigmoid layer cuts its gradient below 40 % of Xavier's",
    fading["mean"],
    below=0.4,
)

negative = (torch.cat(saturated_tanh) < 0).double().mean().item()
claim(
    "Saturated tanh units are near -1 as often as near 1",
    negative,
    above=0.4,
    below=0.6,
)

# %%
# No signal, so the units "cannot learn", says the source. But its own network hides the loss: it
# draws the output weights from :math:`N(0, 1)` as well, normal with a standard deviation of 1, and
# they hand back more than saturation takes away. The first layer's gradient is then *larger* than
# with Xavier's weights in both layers, by these factors. And the network learns, if less well:
# :doc:`compare_initializations_on_mnist`.

whole = table[table["metric"] == "both layers N(0, 1)"].set_index("activation")
claim(
    "N(0, 1) in both layers makes the first gradient larger than Xavier's",
    whole["mean"],
    above=1.2,
)
show(whole[["mean", "low", "high"]].round(2))

# %%
# Large steps kill ReLU units
# ---------------------------
# A ReLU unit is *off* on an image if its pre-activation is not above zero. The same network, with
# ReLU and He's weights, :math:`N(0, 2/784)` in the first layer, is trained by plain SGD for one
# epoch on 4,000 digits in batches of 100, under twenty seeds. Then we count the hidden units that
# are off on all 4,000.

few = data.first(4000, 1000)


def off(ensemble):
    """Return for each run and hidden unit whether it is off on every training image."""
    p = ensemble.parameters
    z = few.train_inputs.flatten(1) @ p["hidden1.weight"].mT
    return (z + p["hidden1.bias"][:, None] <= 0).all(dim=1)


rates = (0.1, 0.5, 1.0, 2.0)
more_seeds = range(20)
tables, hurt = [], {}
for name in ("relu", "leaky_relu"):
    make_model = partial(mlp, 784, 100, 10, activation=name)
    start = Ensemble.build(make_model, schemes=["he_normal"], seeds=more_seeds)
    for lr in rates:
        hurt[name, lr] = train(start, few, epochs=1, lr=lr).ensemble
        share = off(hurt[name, lr]).double().mean(dim=1)
        run = {"activation": name, "lr": lr, "seed": more_seeds, "value": share}
        tables.append(pd.DataFrame(run))
killed = summarize(pd.concat(tables), by=["activation", "lr"])
ax = plt.gca()
draw(ax, killed, "lr")
ax.set(xscale="log", xlabel="learning rate", ylabel="hidden units that are off")
ax.set_xticks(rates, rates)
ax.set_title("Steps that are too large turn units off for every image")
plt.show()

died = killed.set_index(["activation", "lr"])
gentle, large = died.loc[("relu", 0.1)], died.loc[("relu", 1.0)]
more = 100 * (large["mean"] - gentle["mean"])
claim(
    "One epoch of SGD at rate 1 turns off over 20 points more of He's ReLU units "
    "than at 0.1",
    more,
    above=20,
)

# %%
# Leaky ReLU's units fall below zero as well. But below zero its slope is 0.01, not 0. To see what
# that changes, we train the networks of learning rate 1 for five more epochs, at a gentle 0.1.
# ReLU's units get a gradient of exactly zero and keep their weights to the last bit: they are dead.
# Leaky ReLU's move. But to move is not yet to recover: the last column has the share that came
# back.
#
# Dead "forever" needs plain SGD and a first layer. AdamW's weight decay also moves weights that
# have no gradient (one epoch at a rate of 0.001, last row). And in a deeper layer the inputs still
# change, which can wake a unit.

rows, tables = {}, []
for name, optimizer, lr, epochs in (
    ("relu", torch.optim.SGD, 0.1, 5),
    ("leaky_relu", torch.optim.SGD, 0.1, 5),
    ("relu", torch.optim.AdamW, 0.001, 1),
):
    before = hurt[name, 1.0]
    history = train(before, few, epochs=epochs, lr=lr, optimizer=optimizer)
    label = f"{labels[name]}, {optimizer.__name__}"
    tables.append(history.frame().assign(activation=label))
    was_off, is_off = off(before), off(history.ensemble)
    old = before.parameters["hidden1.weight"][was_off]
    new = history.ensemble.parameters["hidden1.weight"][was_off]
    rows[label] = {
        "units off": len(old),
        "moved": (old != new).any(dim=1).double().mean().item(),
        "came back": (was_off & ~is_off).sum().item() / len(old),
    }
fate = pd.DataFrame(rows).T
relu, leaky, decayed = fate["moved"]
wrong = max(relu, 1 - leaky, 1 - decayed)
claim(
    "Units that are off all move with leaky ReLU or AdamW, with ReLU and SGD none does",
    wrong,
    equal=0,
)
claim(
    "Few of leaky ReLU's off units come back in five epochs",
    fate["came back"].iloc[1],
    below=0.1,
)
show(fate.round(4))

# %%
# Does a network of leaky units, which still move, learn better? After the five epochs of SGD, the
# test accuracies compare so:

pair = compare(pd.concat(tables[:2]), by="activation").iloc[0]
cost = pair[["difference", "low", "high"]] * 100
print("ReLU minus leaky ReLU: {:.2f} points [{:.2f}, {:.2f}]".format(*cost))
claim(
    "After steps at rate 1, five gentler epochs with leaky ReLU end within 1.5 points "
    "of ReLU",
    abs(cost["difference"]),
    below=1.5,
)

# %%
# No ceiling, and no mean of zero
# -------------------------------
# Sigmoid and tanh cannot exceed 1; the others can, and do if the first weights are :math:`N(0, 1)`.
# The other columns are of good weights, Xavier's for sigmoid and tanh, else He's: the mean of the
# layer's outputs over their standard deviation, and its 95 % interval over forty seeds.

rows = []
for seed in range(40):
    z = pre_activations(1.0, seed)
    for name in colors:
        good = xavier if name in ("sigmoid", "tanh") else (2 / 784) ** 0.5
        y = ACTIVATIONS[name](good * z)
        rows.append(
            (name, seed, "largest output", ACTIVATIONS[name](z).max().item())
        )
        rows.append((name, seed, "mean / std", (y.mean() / y.std()).item()))
columns = ["activation", "seed", "metric", "value"]
sizes = summarize(pd.DataFrame(rows, columns=columns), by="activation")
means = sizes[sizes["metric"] == "mean / std"].set_index("activation")

wide = sizes.pivot(index="activation", columns="metric", values="mean")
wide = wide.loc[list(colors)].join(means[["low", "high"]])
ratio = wide["mean / std"]
nearer = ratio.drop("tanh").min() - abs(ratio["tanh"])
claim(
    "Of six activations, only tanh has a mean output near zero", nearer, above=0.1
)
show(wide.rename(index=labels).round(2))

# sphinx_gallery_start_ignore
findings = {
    "S0.8": means.loc["relu"],
    "S3.9": negative,
    "S3.10": fading.loc["tanh"],
    "S3.14": large,
    "S3.17": straight,
    "S3.19": gentle,
    "S3.20": leaky,
}
# sphinx_gallery_end_ignore

# %%
# Weights should give activations a mean of zero, says :cite:t:`mlmastery_logistic_init`. But that
# is up to the function: an odd one such as tanh has a mean of zero on average over the weights;
# ReLU and sigmoid, which are never negative, cannot have one. What became of each source's claims
# is collected in :doc:`/evidence`.
#
# What this does not show
# -----------------------
# Saturation is no verdict on tanh: with Xavier's weights it hardly saturates. Nor need a dead unit
# be missed: above, ReLU's networks lost many, and leaky ReLU's, whose units can move, are within
# 1.5 points of them. All of this was one hidden layer; :doc:`keep_the_variance_level` tells what
# depth makes of it. The intervals are over seeds and leave out the sampling of the test set. And a
# seed does not pin a trained network across processors, as rounding grows in training:
# :doc:`/replication`. Next, in :doc:`break_the_symmetry`, the weights are not too large but too
# equal.
