r"""
Keep every singular value near one
==================================

**Is it enough that gradients keep their size on average?** No. Many layers of Gaussian weights
stretch a few directions and crush the others. Orthogonal weights treat all directions alike:
exactly in a linear network, almost in a tanh network. Sixty layers of it then learn far faster by
plain gradient descent. In a ReLU network they cannot. All alike is called *dynamical isometry*
:cite:p:`saxe2014,pennington2017,pennington2018`.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

import initguide as ig
from initguide import claim, show
from initguide.plotting import plot_curves
from initguide.theory.mean_field import fixed_point, jacobian_spectrum

# %%
# What a singular value tells
# ---------------------------
# Change a network's input by a little, :math:`d`. Its output changes by :math:`Jd`, where the
# matrix :math:`J`, the *Jacobian*, holds the derivative of each output with respect to each input.
# A gradient on its way back is multiplied by :math:`J^\top`. By how much :math:`J` stretches
# depends on the direction of :math:`d`: from the smallest to the largest *singular value*
# :math:`s` of :math:`J`.
#
# Here are :math:`L` layers of :math:`n = 200` units. Weights are Gaussian with variance
# :math:`\sigma^2/n`, or orthogonal: :math:`\sigma` times a matrix :math:`W` with
# :math:`W^\top W = I`. We take the :math:`\sigma` that keeps the size of a signal
# (:doc:`keep_the_variance_level`): 1 for linear, :math:`\sqrt 2` for ReLU. For tanh it is 1 if the
# signal is small; a little more keeps it from fading.

n, depths, seeds = 200, [1, 8, 32], range(10)
sigma = {"linear": 1.0, "tanh": 1.02, "relu": 2**0.5}
schemes = {"Gaussian": "lecun_normal", "orthogonal": "orthogonal"}
colors = {weights: ig.SCHEMES[name].color for weights, name in schemes.items()}


def singular_values(activation, L, weights, seed):
    torch.manual_seed(seed)
    model, gain = nn.Sequential(), sigma[activation]
    for _ in range(L):
        layer = nn.Linear(n, n, bias=False, dtype=torch.double)
        if weights == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain)
        else:
            nn.init.normal_(layer.weight, std=gain / n**0.5)
        model.extend([layer, ig.ACTIVATIONS[activation].module()])
    q = fixed_point(activation, gain).q  # what the mean square of a layer stays at
    x = torch.randn(n, dtype=torch.double) * q**0.5 / gain
    return torch.linalg.svdvals(torch.func.jacrev(model)(x).detach()).numpy()


conditions = product(sigma, depths, colors)
spectra = {c: np.array([singular_values(*c, i) for i in seeds]) for c in conditions}

figure, axes = plt.subplots(3, 3, figsize=(7.2, 6.8), sharex=True, sharey=True)
place = np.arange(0.5, n) / n
for ax, (activation, L) in zip(axes.T.flat, product(sigma, depths), strict=True):
    for weights, color in colors.items():
        s = spectra[activation, L, weights].clip(1e-9)  # zeros have no logarithm
        ax.semilogy(place, np.median(s, axis=0), color=color, label=weights)
        ax.fill_between(place, s.min(axis=0), s.max(axis=0), color=color, alpha=0.3)
    ax.set_title(f"{ig.ACTIVATIONS[activation].label}, L = {L}")
largest = []  # relative to the edge
for ax, L in zip(axes[:, 0], depths, strict=True):  # Pennington et al. 2017
    angle = np.linspace(1e-4, 0.9999, 10_000) * np.pi / (L + 1)
    a, b, c = np.sin(angle), np.sin(L * angle), np.sin((L + 1) * angle)
    s = np.sqrt(c ** (L + 1) / (a * b**L))
    larger = ((L + 1) * angle - L * a * c / b) / np.pi  # share of values above s
    ax.plot(larger, s, ":", color="gray", label="Gaussian, theory")
    edge = ((L + 1) ** (L + 1) / L**L) ** 0.5
    largest.append(spectra["linear", L, "Gaussian"][:, 0].mean() / edge)
axes[1, 0].set(xlim=(0, 1), ylim=(1e-3, 20), ylabel="singular value")
figure.supxlabel("place among the 200, from the largest (0) to the smallest (1)")
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

exact = np.array([spectra["linear", L, "orthogonal"] for L in depths])
text = "Linear layers with orthogonal weights: every singular value is 1."
claim(text, abs(exact - 1), below=1e-10)  # rounding of up to 32 products
text = "Gaussian weights: the largest is 0.6 to 1.02 times the edge."
claim(text, largest, above=0.6, below=1.02)

# %%
# Lines are medians of ten networks, bands their ranges. Dots are theory for wide linear networks
# :cite:p:`pennington2017`: with Gaussian weights no singular value is above the *edge*
# :math:`\sqrt{(L+1)^{L+1}/L^L}`. With 200 units the largest can miss it, mostly from below.
#
# Level on average, yet far from one
# ----------------------------------
# The mean of :math:`s^2` is near 1 in all of these networks. How unlike the directions are is told
# by :math:`v`, the variance of :math:`s^2` divided by its mean squared. In wide networks it is
# :math:`v = L\,(E[\varphi'^4] / E[\varphi'^2]^2 - k)`, where :math:`\varphi'` is the activation's
# slope, :math:`E` a mean over units, and :math:`k` is 1 for orthogonal weights and 0 for Gaussian
# ones :cite:p:`pennington2018`.

rows = []
for (activation, L, weights), s in spectra.items():
    settings = {"orthogonal": weights == "orthogonal"}
    mean, var = jacobian_spectrum(activation, L, sigma[activation], **settings)
    level = (s**2).mean(axis=1)
    v = ((s**2).var(axis=1) / level**2).mean()
    rows.append((activation, weights, L, abs(var) / mean**2, v, level.mean()))
names = ["activation", "weights", "L", "v, theory", "v, measured", "mean of s²"]
table = pd.DataFrame(rows, columns=names)
text = "The mean of s² stays within a factor of three of 1."
claim(text, table["mean of s²"], above=1 / 3, below=3)
spread = table[table["v, theory"] > 0.01]
ratio = spread["v, measured"] / spread["v, theory"]
claim("v is 0.6 to 1.4 times that of wide networks.", ratio, above=0.6, below=1.4)
show(table.pivot(index=names[:2], columns="L", values=names[3:5]).round(2))

# %%
# A linear network has slope 1: :math:`v` is :math:`L`, or 0 if weights are orthogonal. Tanh is
# nearly as good, since a small signal sees it almost straight. ReLU's slope is 0 or 1, equally
# often. So the fraction is 2, and :math:`v` is :math:`2L`, or :math:`L` at best.
#
# Does it help to learn?
# ----------------------
# Sixty tanh layers of 64 units see 1,000 digits four times, by plain stochastic gradient descent in
# batches of 100.
# The weights of a layer with :math:`n` inputs have variance :math:`1/n`; if they are Gaussian, that
# is LeCun's rule. Each start gets the best of three learning rates, chosen on 1,000 more training
# images. Lines are means of ten seeds on 1,000 test images, bands their 95 % intervals.

mnist = ig.datasets.mnist()
data = mnist.first(1000, 1000)
validation = mnist.train_inputs[1000:2000], mnist.train_targets[1000:2000]
ensemble = ig.Ensemble.build(
    partial(ig.mlp, 784, *[64] * 60, 10, activation="tanh"),
    schemes=["lecun_normal", "orthogonal"],
    seeds=seeds,
)
runs, chosen_by = [], []
for lr in (0.01, 0.03, 0.1):
    history = ig.train(ensemble, data, epochs=4, lr=lr, evaluate_every=10)
    runs.append(history.frame().assign(lr=lr))
    chosen_by.append(ig.evaluate(history.ensemble, *validation).assign(lr=lr))
validated = pd.concat(chosen_by).query("metric == 'accuracy'")
validated = validated.pivot_table("value", "scheme", "lr")
runs = pd.concat(runs).query("metric == 'accuracy' and split == 'test'")
runs = runs[runs["lr"] == runs["scheme"].map(validated.idxmax(axis=1))]
plot_curves(runs).set_title("Sixty tanh layers")
plt.show()

comparison = ig.compare(runs)  # LeCun's minus orthogonal
gain = -100 * comparison["difference"].item()
claim("Orthogonal weights gain more than 15 points of accuracy.", gain, above=15)
print(ig.describe(comparison))
show(validated.round(3))

# %%
# The table has the validation accuracy at all rates.
#
# Convolutions
# ------------
# PyTorch's ``orthogonal_`` makes the flattened kernel orthogonal, and the convolution still
# stretches and crushes. :func:`~initguide.delta_orthogonal_` puts an orthogonal matrix in the
# middle of the kernel, and zeros around it :cite:p:`xiao2018`. If a convolution wraps around the
# edges, its singular values are those of the kernel's Fourier transform at all frequencies:

torch.manual_seed(0)
for fill_ in (nn.init.orthogonal_, ig.delta_orthogonal_):
    kernels = torch.stack([fill_(torch.empty(32, 32, 3, 3)) for _ in seeds])
    matrices = torch.fft.fft2(kernels, s=(16, 16)).permute(0, 3, 4, 1, 2)
    s = torch.linalg.svdvals(matrices)
    print(f"{fill_.__name__}: {s.min():.4f} to {s.max():.4f}")
    if fill_ is nn.init.orthogonal_:
        claim(
            "With orthogonal_ a convolution stretches by over 1.5.",
            s.max().item(),
            above=1.5,
        )
off = (s - 1).abs().max().item()  # float32
claim("With delta_orthogonal_ every singular value is 1.", off, below=1e-5)

# %%
# What this does not show
# -----------------------
# What shortcuts, normalization, other optimizers or more steps change; nor that isometry lasts,
# since training moves the weights away from it. Intervals are over seeds and leave out the sampling
# of the test images. A seed does not pin a run across processors, since rounding grows in training:
# :doc:`/replication`. :doc:`match_scheme_activation_and_depth` helps to choose a start.
