r"""
Keep every singular value near one
==================================

**Is it enough that gradients keep their size on average?** No. Many layers of Gaussian weights
stretch a few directions and crush the others. Orthogonal weights treat all directions alike:
exactly in a linear network, almost in a tanh network, which then learns faster when it is deep. In
a ReLU network they cannot. All alike is called *dynamical isometry*
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
t = 4.78  # standard errors to either side: the 99.9 % interval of ten seeds
for ax, L in zip(axes[:, 0], depths, strict=True):  # Pennington et al. 2017
    angle = np.linspace(1e-4, 0.9999, 10_000) * np.pi / (L + 1)
    a, b, c = np.sin(angle), np.sin(L * angle), np.sin((L + 1) * angle)
    s = np.sqrt(c ** (L + 1) / (a * b**L))
    larger = ((L + 1) * angle - L * a * c / b) / np.pi  # share of values above s
    ax.plot(larger, s, ":", color="gray", label="Gaussian, theory")
    edge = ((L + 1) ** (L + 1) / L**L) ** 0.5
    largest = spectra["linear", L, "Gaussian"][:, 0]
    error = t * largest.std(ddof=1) / 10**0.5
    assert np.interp(1 / n, larger, s) - error < largest.mean() < edge + error
    print(f"linear, L = {L}: largest {largest.mean():.3f}, edge {edge:.3f}")
axes[1, 0].set(xlim=(0, 1), ylim=(1e-3, 20), ylabel="singular value")
figure.supxlabel("place among the 200, from the largest (0) to the smallest (1)")
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %%
# Lines are medians of ten networks, bands their ranges. Dots are theory for wide linear networks
# :cite:p:`pennington2017`: with Gaussian weights no singular value is above the *edge*
# :math:`\sqrt{(L+1)^{L+1}/L^L}`. With 200 units the mean of the largest is below it.
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
    v, theory = (s**2).var(axis=1) / level**2, abs(var) / mean**2
    for found, expected in ((level, mean), (v, theory)):
        error = t * found.std(ddof=1) / 10**0.5
        error += expected * L / n + 1e-9  # finite width, rounding
        assert abs(found.mean() - expected) < error
    rows.append((activation, weights, L, theory, v.mean()))
names = ["activation", "weights", "L", "v, theory", "v, measured"]
pd.DataFrame(rows, columns=names).pivot(index=names[:2], columns="L").round(2)

# %%
# A linear network has slope 1: :math:`v` is :math:`L`, or 0 if weights are orthogonal. Tanh is
# nearly as good, since a small signal sees it almost straight. ReLU's slope is 0 or 1, equally
# often. So the fraction is 2, and :math:`v` is :math:`2L`, or :math:`L` at best.
#
# Does it help to learn?
# ----------------------
# Sixty tanh layers of 64 units see 1,000 digits four times. The weights of a layer with :math:`n`
# inputs have variance :math:`1/n`; if they are Gaussian, that is LeCun's rule. Lines are means of
# ten seeds on 1,000 other digits, at the best of three learning rates; bands are 95 % intervals.

data = ig.datasets.mnist().first(1000, 1000)
ensemble = ig.Ensemble.build(
    partial(ig.mlp, 784, *[64] * 60, 10, activation="tanh"),
    schemes=["lecun_normal", "orthogonal"],
    seeds=seeds,
)
learn = partial(ig.train, ensemble, data, epochs=4, evaluate_every=10)
runs = pd.concat(learn(lr=lr).frame().assign(lr=lr) for lr in (0.01, 0.03, 0.1))
runs = runs.query("metric == 'accuracy' and split == 'test'")
reached = runs.query("step == step.max()").pivot_table("value", "scheme", "lr")
runs = runs[runs["lr"] == runs["scheme"].map(reached.idxmax(axis=1))]
plot_curves(runs).set_title("Sixty tanh layers")
plt.show()

comparison = ig.compare(runs)
assert comparison["high"].item() < 0  # Gaussian minus orthogonal
print(ig.describe(comparison))
reached.round(3)

# %%
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
    assert abs(s.square().mean() - 1) < 1e-5  # level on average, both of them
assert (s - 1).abs().max() < 1e-5

# %%
# What this does not show
# -----------------------
# What shortcuts, normalization or other optimizers change; nor that isometry lasts, since training
# moves the weights away from it. :doc:`match_scheme_activation_and_depth` helps to choose a start.
