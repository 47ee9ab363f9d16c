r"""
Keep every singular value near one
==================================

**Is it enough if gradients keep their size on average?** No. Deep Gaussian networks of the right
variance stretch a few directions and crush all others. With orthogonal weights a linear or tanh
network treats all directions almost alike; a deep tanh network then learns faster. ReLU networks
never reach this *dynamical isometry* :cite:p:`saxe2014,pennington2017,pennington2018`.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from dataclasses import replace
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

seeds, gaussian = range(10), ig.SCHEMES["lecun_normal"]
orthogonal = ig.Scheme("orthogonal", ig.orthogonal_)

# %%
# What a singular value tells
# ---------------------------
# Move a network's input a little: its output moves by :math:`J` times as much. A gradient :math:`g`
# at the output is :math:`J^\top g` at the input. By its direction, its length changes by a factor
# between the smallest and the largest *singular value* :math:`s` of this *Jacobian* :math:`J`.
#
# In :math:`L` layers of :math:`n = 200` units, Gaussian weights (LeCun's, for ReLU He's) have
# variance :math:`\sigma_w^2/n`; orthogonal ones are :math:`\sigma_w` times a :math:`W` with
# :math:`W^\top W = I`. Lines are medians, bands ranges of ten networks. Dotted is theory for wide
# linear Gaussian ones :cite:p:`pennington2017`, below the *edge* :math:`\sqrt{(L+1)^{L+1}/L^L}`.
# The largest of :math:`n` values should be between the edge and what a share of 1/n exceeds.

n, depths, sigma_w = 200, [1, 8, 32], {"linear": 1.0, "tanh": 1.02, "relu": 2**0.5}


def singular_values(activation, depth, scheme, seed):
    phi, gain = ig.ACTIVATIONS[activation], sigma_w[activation]
    layers = [m for _ in range(depth) for m in (nn.Linear(n, n), phi.module())]
    model = nn.Sequential(*layers).double()
    draws = torch.Generator().manual_seed(seed)
    ig.initialize_(model, scheme.with_gain(gain), generator=draws)
    q = fixed_point(phi, gain).q  # mean square of the signal that stays level
    x = torch.randn(n, dtype=torch.double, generator=draws) * q**0.5 / gain
    return torch.linalg.svdvals(torch.func.jacrev(model)(x).detach()).numpy()


keys = product(sigma_w, depths, [gaussian, orthogonal])
spectra = {k: np.stack([singular_values(*k, i) for i in seeds]) for k in keys}

figure, axes = plt.subplots(3, 3, figsize=(7.2, 6.8), sharex=True, sharey=True)
cells = np.repeat(axes.T, 2)  # two kinds of weights in each
for ((phi, L, kind), s), ax in zip(spectra.items(), cells, strict=True):
    share, s = (np.arange(n) + 0.5) / n, s.clip(1e-9)  # zeros have no logarithm
    ax.set_title(f"{ig.ACTIVATIONS[phi].label}, L = {L}")
    ax.semilogy(share, np.median(s, axis=0), color=kind.color, label=kind.label)
    ax.fill_between(share, s.min(0), s.max(0), color=kind.color, alpha=0.3)
for ax, L in zip(axes[:, 0], depths, strict=True):
    angle = np.linspace(1e-6, 0.9995 * np.pi / (L + 1), 100_000)
    a, b, c = (np.sin(k * angle) for k in (1, L, L + 1))
    s = np.sqrt(c ** (L + 1) / (a * b**L))
    density = 2 / np.pi * np.sqrt(a**3 * b ** (L - 2) / c ** (L - 1))
    larger = np.cumsum(-density * np.gradient(s))  # share of values above s
    ax.plot(larger, s, "k:", label="LeCun normal, theory")
    largest = spectra["linear", L, gaussian][:, 0]
    slack = 4.8 * largest.std(ddof=1) / 10**0.5  # 99.9 % interval of ten seeds
    assert np.interp(1 / n, larger, s) - slack < largest.mean() < s[0] + slack
    print(f"L = {L}: largest {largest.mean():.3f}, edge {s[0]:.3f}")
axes[1, 0].set(xlim=(0, 1), ylim=(1e-3, 20), ylabel="singular value")
figure.supxlabel("share of singular values that are larger")
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %%
# Level on average, yet far from one
# ----------------------------------
# With these :math:`\sigma_w` the mean of :math:`s^2` stays near 1 (:doc:`keep_the_variance_level`).
# How unlike the directions are tells :math:`v`, the variance of :math:`s^2` over its squared mean.
# In wide networks, :math:`v = L\,(E[\varphi'^4] / E[\varphi'^2]^2 - k)`: :math:`\varphi'` is the
# activation's slope, :math:`E` a mean over units, :math:`k` 1 for orthogonal and 0 for Gaussian.

rows, by = [], ["activation", "weights", "L", "predicted"]
for (phi, L, w), s in spectra.items():
    mean, var = jacobian_spectrum(phi, L, sigma_w[phi], orthogonal=w is orthogonal)
    size = (s**2).mean(axis=1)
    assert abs(size.mean() - mean) < 4.8 * size.std(ddof=1) / 10**0.5 + mean * L / n
    v = (s**2).var(axis=1) / size**2
    rows += [(phi, w.label, L, abs(var) / mean**2, i, v[i]) for i in seeds]
runs = pd.DataFrame(rows, columns=[*by, "seed", "value"])
table = ig.summarize(runs, by=by, level=0.999)[[*by, "mean", "low", "high"]]
slack = table["predicted"] * table["L"] / n + 1e-9  # finite width: order L/n
assert table["predicted"].between(table["low"] - slack, table["high"] + slack).all()
table.assign(directions=n / (1 + table["mean"])).round(2)

# %%
# The last column, :math:`n/(1 + v)`, says how many of the 200 directions count. Tanh comes as near
# to isometry as you like: a small signal sees it almost straight. ReLU's slope is 0 or 1, equally
# often: the fraction is 2, and :math:`v` is :math:`L` at best.
#
# Does it help to learn?
# ----------------------
# Sixty tanh layers of 64 units see 1,000 digits four times, at three learning rates. Both starts
# have the same variance of the weights. Each is drawn at its best rate, on 1,000 other digits.

data = ig.datasets.mnist()
thousand = {k: v[:1000] for k, v in vars(data).items() if torch.is_tensor(v)}
few = replace(data, **thousand)
make_model = partial(ig.mlp, 784, *[64] * 60, 10, activation="tanh")
start = ig.Ensemble.build(make_model, schemes=[gaussian, orthogonal], seeds=seeds)
learn = partial(ig.train, start, few, epochs=4, evaluate_every=10)
runs = pd.concat(learn(lr=lr).frame().assign(lr=lr) for lr in (0.01, 0.03, 0.1))
runs = runs.query("metric == 'accuracy' and split == 'test'")
reached = runs.query("step == step.max()").pivot_table("value", "scheme", "lr")
best = runs[runs["lr"] == runs["scheme"].map(reached.idxmax(axis=1))]
plot_curves(best).set_title("Sixty tanh layers")
plt.show()
comparison = ig.compare(best.query("step == step.max()"))
assert comparison["high"].item() < 0  # Gaussian minus orthogonal
print(ig.describe(comparison))
reached.round(3)

# %%
# Convolutions
# ------------
# A convolution that wraps around the edges has the singular values of its kernel's Fourier
# transform, one matrix a frequency. PyTorch's ``orthogonal_`` makes the *flattened* kernel
# orthogonal, :func:`~initguide.delta_orthogonal_` its middle, with zeros around :cite:p:`xiao2018`:

torch.manual_seed(0)
for fill_ in (nn.init.orthogonal_, ig.delta_orthogonal_):
    w = torch.stack([fill_(torch.empty(32, 32, 3, 3)) for _ in seeds])
    s = torch.linalg.svdvals(torch.fft.fft2(w, s=(16, 16)).movedim((1, 2), (3, 4)))
    print(f"{fill_.__module__}: {s.min():.4f} to {s.max():.4f}")
    assert abs(s.square().mean() - 1) < 1e-5  # level on average, both of them
assert (s - 1).abs().max() < 1e-5

# %%
# What this does not show
# -----------------------
# What shortcuts, normalization or other optimizers do. Nor does isometry last: it is a start, which
# training leaves. :doc:`match_scheme_activation_and_depth` helps to choose one.
