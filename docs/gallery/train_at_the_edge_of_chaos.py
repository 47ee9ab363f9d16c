r"""
Train at the edge of chaos
==========================

**How deep can a plain network be and still learn?** A few times its *depth scale*: the number of
layers after which it has forgotten most of how alike two inputs were. How many times depends on the
training. With small weights all inputs become one, with large weights neighbours fall apart. On the
edge between the two the scale is infinite, and there sit the classical schemes: LeCun's and
Xavier's for tanh, He's for ReLU.

:cite:t:`poole2016` found the two phases, :cite:t:`schoenholz2017` how deep networks can be trained.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import Ensemble, Scheme, claim, datasets, mlp, show, summarize, train
from initguide.initializers import lecun_normal_
from initguide.theory import mean_field as mf

# %%
# Two phases and an edge
# ----------------------
# A layer has random weights of variance :math:`\sigma_w^2/n`, where :math:`n` is the number of its
# inputs, and random biases of variance :math:`\sigma_b^2`, all of mean 0. Let :math:`z` be what a
# unit computes before its activation :math:`\varphi`. If the layers are infinitely wide, :math:`z`
# is normal, and from layer to layer its variance comes closer to some :math:`q`. There,
#
# .. math:: \chi_1 = \sigma_w^2 \operatorname{E}[\varphi'(z)^2]
#
# is the factor by which each layer multiplies two things: the squared distance of two inputs that
# are close to each other, and, on its way back, the mean square of the gradient. Below 1 both
# vanish: this phase is called *ordered*. Above 1 both grow: it is *chaotic*. For tanh:

grid_w, grid_b = np.linspace(0.2, 3.8, 37), np.linspace(0, 0.6, 17) ** 2
chi_1 = mf.fixed_point("tanh", grid_w**0.5, grid_b[:, None] ** 0.5).chi_1
edge = mf.critical_sigma_w("tanh", grid_b**0.5) ** 2

sigma_b = 0.05**0.5  # from here on
critical = mf.critical_sigma_w("tanh", sigma_b) ** 2
examples = {"order": (1.0, "C0"), "edge": (critical, "C2"), "chaos": (3.0, "C1")}

style = {"levels": np.linspace(0, 1.6, 9), "cmap": "PuOr_r", "vmin": 0, "vmax": 2}
plt.contourf(grid_w, grid_b, chi_1, **style)
plt.colorbar(label=r"$\chi_1$")
plt.plot(edge, grid_b, "k", label="edge of chaos")
plt.plot(1, 0, "k*", ms=14, clip_on=False, label="LeCun, Xavier")
for x, color in examples.values():
    plt.plot(x, sigma_b**2, "o", color=color, mec="white", ms=9)
plt.text(1.2, 0.25, "ordered", color="k")
plt.text(3, 0.25, "chaotic", color="k")
plt.gca().set(title="Tanh: order and chaos", xlabel="$σ_w^2$", ylabel="$σ_b^2$")
plt.legend(loc=(0.62, 0.27), labelcolor="k")
plt.show()

found = np.array([mf.critical_sigma_w(name) for name in ("tanh", "relu")])
off = abs(found - [1, 2**0.5])  # the theory is good to 1e-9
claim("Without biases the edge is at 1 for tanh and √2 for ReLU.", off, below=1e-8)

q = 1.0
for _ in range(100):
    q = mf.variance_map("tanh", q, 1.0)
claim(
    "At the star, q is near 1/200 after 100 layers.", 200 * q, above=0.9, below=1.1
)

# %%
# The star is LeCun's rule, :math:`\sigma_w = 1` without biases; it is Xavier's too where layers
# have as many outputs as inputs. Without biases, ReLU's edge is at :math:`\sigma_w = \sqrt 2`. That
# is He's rule. In both phases few layers bring the variance close to :math:`q`. At the star it
# falls to 0, but slowly: after :math:`l` layers about :math:`1/2l` is left.
#
# What becomes of two inputs?
# ---------------------------
# Let :math:`c` be the correlation of the :math:`z` that two inputs cause, over the units of a
# layer. One pair of inputs is nearly equal, with :math:`c = 0.95`, the other has nothing in common,
# with :math:`c = 0`. They pass through forty tanh layers of 500 units, at the three circles of the
# figure above. Solid: mean and standard deviation of thirty seeds. Dashed: the prediction of
# :func:`~initguide.theory.mean_field.correlation_map`, layer by layer.


def measure(sigma_w, q, seed, n=500):
    """Return c of both pairs in each layer: (layers, 2)."""
    torch.manual_seed(seed)
    layer = nn.Linear(n, n)
    one, other = torch.linalg.qr(torch.randn(n, 2)).Q.T  # orthogonal, of length 1
    c, rows = torch.tensor([[1.0], [0.95], [0.0]]), []  # c with the first input
    z = (n * q) ** 0.5 * (c * one + (1 - c**2).sqrt() * other)
    for _ in range(41):
        rows.append(F.cosine_similarity(z[:1], z[1:]))
        nn.init.normal_(layer.weight, std=sigma_w / n**0.5)  # a new layer
        nn.init.normal_(layer.bias, std=sigma_b)
        z = layer(torch.tanh(z)).detach()
    return torch.stack(rows)


off = {}
for name, (s, color) in examples.items():
    q, theory = mf.fixed_point("tanh", s**0.5, sigma_b).q, [np.array([0.95, 0.0])]
    for _ in range(40):
        theory.append(mf.correlation_map("tanh", theory[-1], q, s**0.5, sigma_b))
    runs = torch.stack([measure(s**0.5, q, seed) for seed in range(30)]).numpy()
    mean, std = runs.mean(axis=0), runs.std(axis=0, ddof=1)
    plt.plot(mean, color=color, label=[f"{name}, $σ_w^2 = {s:.2f}$", None])
    for low, high in zip((mean - std).T, (mean + std).T, strict=True):
        plt.fill_between(range(41), low, high, color=color, alpha=0.25, lw=0)
    plt.plot(theory, "--", color=color, lw=1)
    off[name] = abs(mean - theory).max()
plt.gca().set(title="Two pairs of inputs", xlabel="layer", ylabel="correlation c")
plt.legend(loc="lower right")
plt.show()

text = "Mean correlations of thirty networks are within 0.15 of the theory."
claim(
    text, list(off.values()), below=0.15
)  # about 0.02 of it is the error of a mean

# %%
# In order all inputs become one. In chaos even nearly equal ones fall apart, until they are as
# unlike as any other two. Either way the last layer can no longer tell how alike two inputs were.
# On the edge it still can.
#
# How deep do networks learn?
# ---------------------------
# Let :math:`c^*` be where :math:`c` ends. Close to it, the distance :math:`|c - c^*|` shrinks by
# the factor :math:`e` in :math:`\xi_c` layers. This :math:`\xi_c` is the depth scale. For
# :math:`\sigma_b^2 = 0.05`:

index = pd.Index([1, 1.5, 2, 2.5], name="σ_w²")
rest = mf.fixed_point("tanh", index**0.5, sigma_b)
show(
    pd.DataFrame({"χ₁": rest.chi_1, "c*": rest.c, "ξ_c": rest.xi_c}, index).round(2)
)

# %%
# After six scales a quarter of a percent of the distance is left (:math:`e^{-6}`). That is as deep
# as :cite:t:`schoenholz2017` saw networks learn. Here are tanh networks of 50 units a layer,
# trained on 4,000 digits at half the size, with mean 0 and mean square 1: one epoch, 160 steps of
# plain SGD at a rate of 0.01, the only one tried. Each square shows mean and standard deviation of
# the test accuracy of six seeds.

data = datasets.mnist().first(4000, 1000).map(F.avg_pool2d, 2).standardized()


def biases_(bias, fans, *, generator):
    return nn.init.normal_(bias, std=sigma_b, generator=generator)


def learn(depth, sigma_w2, **settings):
    """Return mean, std ... of the accuracy for each of the variances."""
    schemes = [
        Scheme(str(s), weight=partial(lecun_normal_, gain=s**0.5), bias=biases_)
        for s in sigma_w2
    ]
    make_model = partial(mlp, 196, *depth * [50], 10, activation="tanh")
    start = Ensemble.build(make_model, schemes=schemes, seeds=range(6))
    table = train(start, data, batch_size=25, **settings).frame()
    table = table.query("metric == 'accuracy' and step > 0")
    return summarize(table).assign(depth=depth, sigma_w2=sigma_w2)


sigma_w2, depths = np.arange(0.5, 3.6, 0.5), [4, 8, 15, 30, 60]
squares = pd.concat([learn(depth, sigma_w2, epochs=1, lr=0.01) for depth in depths])

mean = squares["mean"].to_numpy().reshape(len(depths), len(sigma_w2))
edges = np.arange(0.25, 3.8, 0.5), 3.75 * 2.0 ** np.arange(-0.5, 5)
plt.pcolormesh(*edges, mean, cmap="Greens", vmin=0.1, vmax=0.9)
style = {"ha": "center", "va": "center", "size": 9, "color": "k"}
box = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1}
for row in squares.itertuples():
    text = f"{100 * row.mean:.0f} ± {100 * row.std:.0f}"
    plt.text(row.sigma_w2, row.depth, text, bbox=box, **style)
x = np.linspace(0.25, 3.75, 200)
xi_c = mf.fixed_point("tanh", x**0.5, sigma_b).xi_c
plt.plot(x, 6 * xi_c, "C1", label=r"$6\,\xi_c$")
plt.plot(x, 2 * xi_c, "C1--", label=r"$2\,\xi_c$")
plt.axvline(critical, color="C1", ls=":", label="edge of chaos")
plt.gca().set(yscale="log", ylim=edges[1][[0, -1]], xlabel="$σ_w^2$")
plt.gca().set(ylabel="hidden layers", title="Test accuracy (%)")
plt.yticks(depths, depths)
plt.minorticks_off()
plt.grid(False)
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
# With this training, up to two scales every square has learned: it is right more than twice as
# often as guessing the most frequent digit. Beyond six scales none has. In between it depends. With
# 30 layers, networks near the edge, at :math:`\sigma_w^2 = 2`, have learned more than those far
# from it.

guess = data.test_targets.bincount().max().item() / len(data.test_targets)
xi_c = mf.fixed_point("tanh", squares["sigma_w2"] ** 0.5, sigma_b).xi_c
scales, learned = squares["depth"] / xi_c, squares["mean"] / guess
deep = squares.query("depth == 30").set_index("sigma_w2")["mean"]
claim("Up to two scales SGD beats guessing twofold.", learned[scales < 2], above=2)
claim(
    "Beyond six scales SGD does not beat guessing twofold.",
    learned[scales > 6],
    below=2,
)
text = "30 layers: σ_w² = 2 beats 1 and 3.5 by over 5 points."
claim(text, 100 * (deep[2] - deep[[1, 3.5]]), above=5)

# %%
# More training goes deeper
# -------------------------
# The scale is no wall. Here is the first column again, :math:`\sigma_w^2 = 0.5`, deep in order, but
# with three epochs of Adam:

adam = {"epochs": 3, "lr": 0.001, "optimizer": torch.optim.Adam}
rows = pd.concat([learn(depth, [0.5], **adam) for depth in (8, 15, 30)])
rows["scales"] = rows["depth"] / mf.fixed_point("tanh", 0.5**0.5, sigma_b).xi_c
rows = rows.set_index("depth")
claim(
    "8 layers, 6.7 scales: Adam reaches more than 70 %.", rows["mean"][8], above=0.7
)
claim("30 layers, 25 scales: Adam stays below 35 %.", rows["mean"][30], below=0.35)
show(rows[["scales", "mean", "std"]].round(2))

# %%
# What this does not show
# -----------------------
# Where the limit lies for other optimizers, rates, and lengths of training, or for wider networks:
# 50 units are fewer than the theory has. Nor that the edge makes a network accurate: shallow ones
# learn almost anywhere. Normalization and shortcuts between layers change the picture
# (:doc:`ask_what_batch_norm_changes`). And on the edge a layer still stretches some directions and
# squeezes others: :doc:`keep_every_singular_value_near_one`.
#
# Means and deviations are over seeds; they leave out the sampling of the test images. A seed does
# not pin a run across processors, since rounding grows in training: :doc:`/replication`.
