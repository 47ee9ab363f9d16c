r"""
Follow a signal through fifty layers
====================================

**Does a signal arrive, and does its gradient come back?** That depends on the pair of weights and
activation. Of PyTorch's default, LeCun's and He's weights, fifty layers of ReLU need He's, SELU
needs LeCun's, tanh bears both of these, GELU none. Theory
:cite:p:`poole2016,schoenholz2017` predicts it layer by layer; :func:`~initguide.probe` measures it
in any model.

*What you need:* ``initguide``, and half a minute on one processor core.
"""

import math
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import (
    Ensemble,
    claim,
    datasets,
    initialize_,
    mlp,
    probe,
    show,
    summarize,
    train,
)
from initguide.plotting import look, plot_means
from initguide.theory.mean_field import predict

data, seeds = datasets.mnist().standardized().first(2000, 1000), range(10)
images, digits = data.test_inputs[:64], data.test_targets[:64]

# %%
# Four activations, three sizes of weights
# ----------------------------------------
# In each of fifty layers, :math:`n = 256` units sum their weighted inputs and a bias :math:`b` to
# :math:`z`, and hand on :math:`\varphi(z)`; :math:`\varphi` is the activation. Let :math:`q_l` be
# the mean square of the :math:`z` in layer :math:`l`, and :math:`g_l` that of the loss's gradient
# with respect to them. If the layers are very wide, :math:`z` is normal with mean 0: it is
# :math:`\sqrt{q_l} Z`, with :math:`Z` from :math:`N(0, 1)`. So, with the mean :math:`\mathbb{E}`
# over :math:`Z`,
#
# .. math::
#    q_{l+1} &= n \operatorname{Var}(w)\, \mathbb{E}[\varphi(\sqrt{q_l} Z)^2] + \operatorname{Var}(b), \\
#    g_l &= n \operatorname{Var}(w)\, \mathbb{E}[\varphi'(\sqrt{q_l} Z)^2]\, g_{l+1}.
#
# Here :math:`n \operatorname{Var}(w)` is 1/3 with PyTorch's default, 1 with LeCun's weights and 2
# with He's. Xavier's are LeCun's, between layers of the same width. ``predict`` iterates these
# equations. For finite width it adds a band, in which 99.9 % of all networks should be.

activations = {"tanh": "tanh", "relu": "ReLU", "gelu": "GELU", "selu": "SELU"}
schemes = ["torch_default", "lecun_normal", "he_normal"]
depth, widths = 50, (784, *[256] * 50, 10)
keys, runs = ["phi", "scheme"], []
for phi, scheme in product(activations, schemes):
    theory = predict(*widths, activation=phi, scheme=scheme, inputs=images)
    model = mlp(*widths, activation=phi)
    for seed in seeds:
        initialize_(model, scheme, generator=torch.Generator().manual_seed(seed))
        table = probe(model, images, lambda out: F.cross_entropy(out, digits))
        back = table["quantity"] == "gradient_second_moment"
        last = table.loc[back & (table["name"] == "output"), "value"].item()
        table.loc[back, "value"] /= last  # relative to the output's, as in theory
        row = ["layer", "name", "quantity"]
        table = table.merge(theory, on=row, suffixes=("", "_predicted"))
        runs.append(table.assign(phi=phi, scheme=scheme, seed=seed))
runs = pd.concat(runs).query("name.str.startswith('hidden')")
runs["at"] = runs["name"].str.removeprefix("hidden").astype(int)


def draw(quantity, name):
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 6.4), sharex=True)
    panels = dict(zip(activations, axes.flat, strict=True))
    chosen = runs[runs["quantity"] == quantity]
    for (phi, scheme), lines in chosen.groupby(keys, sort=False):
        ax, color, label = panels[phi], look(scheme).color, look(scheme).label
        theory, at = lines[lines["seed"] == 0], range(1, depth + 1)
        measured = lines.pivot(index="at", columns="seed", values="value")
        ax.plot(at, measured, color=color, lw=0.5)
        ax.plot(at, theory["value_predicted"], "--", color=color, label=label)
        ax.fill_between(at, theory["low"], theory["high"], color=color, alpha=0.2)
        ax.set(title=activations[phi], yscale="log")
    figure.supylabel(name)
    figure.supxlabel("hidden layer (each panel has its own vertical scale)")
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3)
    plt.show()


# %%
# The signal. Dashed: predicted, with its band; thin: ten seeds.

draw("second_moment", "mean square of z")

# %%
# The gradient, relative to that of the output. It runs backwards: read from right to left.

draw("gradient_second_moment", "mean square of the gradient")

# %%
# From end to end, forwards for the signal and backwards for the gradient, the mean square changes
# by this power of ten (mean of ten seeds):

ends = runs.pivot(index=[*keys, "seed"], columns=["quantity", "at"], values="value")
q, g = ends["second_moment"], ends["gradient_second_moment"]
change = pd.DataFrame({"signal": q[depth] / q[1], "gradient": g[1] / g[depth]})
change = np.log10(change).groupby(keys).mean()
fit = [("relu", "he_normal"), ("selu", "lecun_normal")]
fit += [("tanh", "he_normal"), ("tanh", "lecun_normal")]
largest = change.abs().max(axis=1)  # of signal and gradient
claim(
    "On average over ten seeds, four pairs keep signal and gradient within a factor "
    "of 1,000",
    largest[fit],
    below=3,
)
# SELU with He comes nearest to it. The mean of GELU with He strays most, by 1.
claim(
    "On average over ten seeds, all other pairs change signal or gradient by over 1,000",
    largest.drop(fit),
    above=3,
)
show(change.round(1))

# %%
# In this mean, four pairs keep both within a factor of a thousand. PyTorch's default loses the
# gradient with all four activations, and what is left of its signal are the biases
# (:doc:`keep_the_variance_level`).
#
# The seeds differ because the width is finite. Each of He's ReLU layers, for example, multiplies
# the mean square by a random factor of mean 1 and variance :math:`5/n` :cite:p:`hanin2018`, and
# fifty such factors go together. The bands allow for that: at the far end at most one network in a
# thousand should be outside. GELU with He is apart. It keeps the mean square of a large signal, as
# ReLU does, but only half of that of a small one. Chance decides when the signal becomes small, and
# the band, made for small deviations, does not cover that.

far = {"second_moment": depth, "gradient_second_moment": 1}
ends = runs[runs["at"] == runs["quantity"].map(far)]
out = ~ends["value"].between(ends["low"], ends["high"])
apart = (ends["phi"] == "gelu") & (ends["scheme"] == "he_normal")
print(f"outside: {out[apart].sum()} of {apart.sum()} (GELU, He),", end=" ")
print(f"{out[~apart].sum()} of {(~apart).sum()} (all others)")
# A seed draws the same numbers for all pairs, so one odd seed may count several times.
claim(
    "Apart from GELU with He fewer than 5 % leave the band",
    out[~apart].mean(),
    below=0.05,
)

# %%
# Your own model
# --------------
# ``probe(model, batch, loss)`` takes any module and any scalar loss. Here are ten convolutions as
# PyTorch starts them, and with He's weights. We show the mean squares of four: geometric means of
# ten seeds.

hidden = [m for _ in range(9) for m in (nn.Conv2d(16, 16, 3), nn.ReLU())]
first, last = nn.Conv2d(1, 16, 3), nn.Linear(1024, 10)
model = nn.Sequential(first, nn.ReLU(), *hidden, nn.Flatten(), last)

tables = []
for scheme, seed in product(("torch_default", "he_normal"), seeds):
    initialize_(model, scheme, generator=torch.Generator().manual_seed(seed))
    table = probe(model, images, lambda out: F.cross_entropy(out, digits))
    tables.append(table.assign(scheme=scheme))
shown = ["second_moment", "gradient_second_moment"]
table = pd.concat(tables).query(
    "name in ['0', '6', '12', '18'] and quantity in @shown"
)
table["power"] = np.log10(table["value"])
columns = ["quantity", "scheme"]
table = table.pivot_table(index="layer", columns=columns, values="power")
gradient = table["gradient_second_moment"]
ratio = gradient.iloc[0] - gradient.iloc[-1]
claim(
    "He's first gradient, relative to the last, is over 1,000 times the default's",
    10 ** (ratio["he_normal"] - ratio["torch_default"]),
    above=1000,
)
table = 10 ** table[shown]
show(table.map("{:.0e}".format))

# %%
# Read the signal downwards and the gradient upwards. If one changes by about the same factor in
# each layer, divide the weights by the root of that factor. With PyTorch's start the gradient all
# but vanishes, while biases keep the signal up. The full table also has ``zeros`` and
# ``saturated``, which tell of dead units.
#
# Does it matter in training?
# ---------------------------
# :cite:t:`he2015` trained thirty layers with their weights, and could not with Xavier's. Ours are
# twenty ReLU layers of 128 units. They see 2,000 digits five times, in batches of 32, with plain
# SGD and learning rate 0.02. The loss is that of 1,000 test images; guessing among ten digits costs
# :math:`\ln 10`.

schemes = ["xavier_normal", "he_normal"]
make_model = partial(mlp, 784, *[128] * 20, 10)
start = Ensemble.build(make_model, schemes=schemes, seeds=seeds)
history = train(start, data, epochs=5, lr=0.02, batch_size=32)

losses = history.frame().query("metric == 'loss' and step == step.max()")
_, ax = plt.subplots()
plot_means(losses, metric="loss", ax=ax)
ax.axvline(math.log(10), color="#8c8c8c", ls=":")
plt.title(
    f"After {history.steps[-1]} steps: far below guessing (dotted) with He's only"
)
plt.show()

gained = math.log(10) - losses.groupby("scheme")["value"].mean()
# The means of ten seeds stray by 0.04 and 0.001.
claim(
    "With He's weights the mean loss is 1 below guessing",
    gained["he_normal"],
    above=1,
)
claim(
    "With Xavier's weights the mean loss is within 0.05 of guessing",
    abs(gained["xavier_normal"]),
    below=0.05,
)

# %%
# What Glorot's 0.8 assumes
# -------------------------
# :cite:t:`glorot2010` look at the layers' *Jacobians*. A layer multiplies small changes by its
# Jacobian :math:`J = \operatorname{diag}(\varphi'(z))\, W`, where :math:`W` are the weights. They
# report that Xavier's weights raise its mean singular value to about 0.8, from 0.5 with
# :math:`U(\pm 1/\sqrt n)`. In theory, that of a large random :math:`W` is
# :math:`\tfrac{8}{3\pi} \sqrt{n \operatorname{Var}(w)}`. That of :math:`J` is the same only if
# :math:`\varphi' = 1`, as for tanh of a small signal. Ours starts with mean square 1, at
# :math:`n = 500`, and this is the fifth layer:

gains = {"U(±1/√n)": 3**-0.5, "Xavier": 1.0}  # of square layers: root of n Var(w)
formula, rows = 8 / (3 * math.pi), []
for (name, gain), seed in product(gains.items(), seeds):
    torch.manual_seed(seed)
    x = torch.randn(500)
    for _ in range(5):
        w = nn.init.xavier_uniform_(torch.empty(500, 500), gain=gain)
        x = torch.tanh(w @ x)
    value = torch.linalg.svdvals((1 - x**2)[:, None] * w).mean().item()
    rows.append((f"J, {name}", formula * gain, seed, value))
    if name == "Xavier":  # the other W is this one, times its gain
        value = torch.linalg.svdvals(w).mean().item()
        rows.append((f"W, {name}", formula, seed, value))
runs = pd.DataFrame(rows, columns=["matrix", "formula", "seed", "value"])
table = summarize(runs, by=["matrix", "formula"]).set_index("matrix")
share = table["mean"] / table["formula"]
claim(
    "With Xavier's weights J is more than 5 % below the formula",
    share["J, Xavier"],
    below=0.95,
)
show(table[["formula", "mean", "low", "high"]].round(4))

# %%
# From ``low`` to ``high`` is the 95 % interval of the mean over ten seeds. :math:`W` is as the
# formula says. :math:`J` falls short: hardly with the small weights, as they have made the signal
# small by then, but clearly with Xavier's. And a gradient's size goes with the root mean square of
# the singular values, which is 1 for Xavier's :math:`W`: a mean of 0.8 does not say that gradients
# shrink.
#
# What this does not show
# -----------------------
# Normalization, shortcuts between layers, and weights that training has made dependent; nor other
# optimizers or learning rates than the one above. Means over seeds leave out the sampling of the
# test set, and a seed does not pin a trained network across processors, as rounding grows in
# training: :doc:`/replication`. Next,
# :doc:`train_at_the_edge_of_chaos` shows how deep a network can be and still learn.
