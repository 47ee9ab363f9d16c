r"""
Find the gain of any activation
===============================

**How large should the weights be for my activation?** A unit with :math:`n` inputs gets weights
with a standard deviation of :math:`g/\sqrt n`, where :math:`g` is the activation's *gain*. PyTorch
has a number for six activations, and for three of the six that is not the gain.
:func:`~initguide.gain` computes it for any function.

*What you need:* ``initguide``, and a quarter of a minute on one processor core.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from initguide import (
    ACTIVATIONS,
    claim,
    datasets,
    gain,
    get_scheme,
    initialize_,
    mlp,
    probe,
    show,
    summarize,
)
from initguide.plotting import look
from initguide.theory.mean_field import fixed_point, variance_map

# %%
# What a gain is
# --------------
# Before its activation :math:`\varphi`, a unit computes a number :math:`z`: the sum of its
# :math:`n` inputs, each times a weight. The weights are random, with mean 0 and variance
# :math:`g^2/n`. If :math:`n` is large, :math:`z` is nearly normal with mean 0, and its mean square
# is :math:`g^2` times that of the inputs. These are the :math:`\varphi(z)` of the layer before. If
# :math:`z` has the mean square 1 there, it has :math:`g^2 E[\varphi(z)^2]` here, where :math:`E` is
# the mean over standard normal :math:`z`. This is 1 again for the *forward* gain,
#
# .. math:: g = 1 / \sqrt{E[\varphi(z)^2]}.
#
# For ReLU, :cite:t:`he2015` found :math:`\sqrt 2`. For GELU, a million draws estimate it, give or
# take a standard error, and ``gain`` computes the integral:

torch.manual_seed(0)
draws = torch.randn(1_000_000, dtype=torch.double)
estimates = nn.GELU()(draws.view(10, -1)).square().mean(dim=1) ** -0.5
error = estimates.std() / 10**0.5
print(f"from draws: {estimates.mean():.3f} ± {error:.3f}")
print(f"computed:   {gain(nn.GELU()):.10f}")

# %%
# All gains
# ---------
# Two other sizes can be kept instead:
#
# - The *activation* gain keeps the mean square of :math:`\varphi(z)` at 1. Inputs of that size make
#   a :math:`z` of mean square :math:`g^2`, so :math:`g` has to solve :math:`E[\varphi(g z)^2] = 1`.
#   For tanh nothing does: what is always below 1 has no mean square of 1.
# - The *backward* gain keeps the mean square of the gradient, as long as :math:`z` has the mean
#   square 1: :math:`g = 1 / \sqrt{E[\varphi'(z)^2]}`, because on its way back the gradient is
#   multiplied by the slope.
#
# The last column is PyTorch's function. "None" means that there is no such gain, or that PyTorch
# refuses. The draws check every gain: what it should keep at 1 may stray from that by chance, five
# standard errors at most.


def find(function, *arguments):
    try:
        return function(*arguments)
    except ValueError:  # there is none
        return np.nan


def errors_off(squares):
    """Return how far their mean is from 1, in standard errors."""
    error = squares.std() / len(squares) ** 0.5
    return float(
        abs(squares.mean() - 1) / (error + 1e-9)
    )  # the integral's own error


rows, off, kinds = {}, [], ["forward", "activation", "backward"]
for name, phi in ACTIVATIONS.items():
    forward, activation, backward = (find(gain, phi, kind) for kind in kinds)
    off.append(errors_off((forward * phi(draws)).square()))
    off.append(errors_off((backward * phi.derivative(draws)).square()))
    if activation > 0:
        off.append(errors_off(phi(activation * draws).square()))
    rows[name] = forward, activation, backward, find(nn.init.calculate_gain, name)
claim("A million draws agree with every gain, in standard errors", off, below=5)

gains = pd.DataFrame(rows, index=[*kinds, "calculate_gain"]).T
gains = gains.drop("identity")  # another name of "linear"
ratio = gains[kinds].div(gains["calculate_gain"], axis=0)
miss = (ratio - 1).abs().min(axis=1)[["tanh", "selu", "sigmoid"]]
claim(
    "PyTorch's numbers for tanh, SELU and sigmoid miss every gain by 4 %",
    miss,
    above=0.04,
)
show(gains.map("{:.4f}".format).replace("nan", "none"))

# %%
# The activation gain, where there is one, differs from the forward gain by less than a tenth of it.
# ``initguide`` uses the forward gain, since every function here has one.
#
# Why not 1 / std?
# ----------------
# A rule that is often posted divides by the standard deviation of :math:`\varphi(z)`, not by the
# root of its mean square. That leaves out the mean. But the next layer multiplies the mean by
# random weights like all the rest. So the mean square of :math:`z` should grow, in the first layer
# by the factor :math:`E[\varphi(z)^2] / \operatorname{Var}(\varphi(z))`. Here are the factors of
# three layers, as ``variance_map`` computes them, and as measured:

n = 500


def measure(phi, g, layers):
    """Return mean squares of z and of its gradient, for ten seeds and each layer."""
    runs = []
    for seed in range(10):
        torch.manual_seed(seed)
        z = [torch.randn(50, n, requires_grad=True)]
        for _ in range(layers - 1):
            weight = torch.randn(n, n) * g / n**0.5
            z.append(phi(z[-1]) @ weight)
        gradients = torch.autograd.grad(z[-1], z, torch.randn(50, n))
        both = z, gradients
        runs.append([[x.square().mean().item() for x in xs] for xs in both])
    return np.swapaxes(runs, 0, 1)


def expect(phi, g, layers):
    """Return the mean square of z in each layer, from 1 on."""
    q = [1.0]
    for _ in range(layers - 1):
        q.append(variance_map(phi, q[-1], g))
    return np.array(q)


rows, off = {}, []
for name in ("tanh", "gelu", "relu", "sigmoid"):
    phi = ACTIVATIONS[name]
    posted = 1 / phi(draws).std().item()
    predicted, measured = expect(phi, posted, 4), measure(phi, posted, 4)[0]
    predicted = predicted[1:] / predicted[:-1]
    measured = (measured[:, 1:] / measured[:, :-1]).mean(axis=0)
    off.append(abs(measured / predicted - 1))
    rows[phi.label] = gain(name), posted, *predicted, *measured
# A mean of ten seeds strays by up to 3 %.
claim(
    "Weights of 1 / std multiply the signal as predicted, to 20 %",
    np.array(off),
    below=0.2,
)
columns = [
    f"{word} {layer}" for word in ("predicted", "measured") for layer in (1, 2, 3)
]
show(pd.DataFrame(rows, index=["gain", "1 / std", *columns]).T.round(2))

# %%
# Of the four, only for tanh, whose mean is 0, is the rule right. ReLU's signal grows by the same
# factor in every layer. Sigmoid's soon stops growing, as a sigmoid cannot exceed 1. GELU's grows by
# more in each of the three.
#
# What PyTorch's numbers do
# -------------------------
# PyTorch returns 5/3 for tanh, 3/4 for SELU and 1 for sigmoid. What becomes of signal and gradient
# in thirty layers? A layer turns the mean square :math:`q` of :math:`z` into
# :math:`g^2 E[\varphi(\sqrt q\, z)^2]`; that is ``variance_map``. On the way back it
# multiplies that of the gradient by the same with :math:`\varphi'` in place of :math:`\varphi`.
# Dashed lines are this prediction, thin lines are ten seeds. The gradient is relative to the last
# layer's.

cases = {
    "tanh, forward gain": ("tanh", gain("tanh"), "#0072B2"),
    "tanh, PyTorch's 5/3": ("tanh", nn.init.calculate_gain("tanh"), "#56B4E9"),
    "SELU, forward gain": ("selu", gain("selu"), "#CC79A7"),
    "SELU, PyTorch's 3/4": ("selu", nn.init.calculate_gain("selu"), "#E69F00"),
}
_, axes = plt.subplots(1, 2, figsize=(9, 4))
off = []
for label, (name, g, color) in cases.items():
    phi = ACTIVATIONS[name]
    q = expect(phi, g, 30)
    factors = [variance_map(phi.derivative, size, g) for size in q[:-1]]
    predicted = q, np.cumprod([1, *factors[::-1]])[::-1]
    signal, gradient = measure(phi, g, 30)
    measured = signal, gradient / gradient[:, -1:]
    for ax, runs, line in zip(axes, measured, predicted, strict=True):
        ax.semilogy(range(1, 31), runs.T, color=color, linewidth=0.5)
        ax.semilogy(range(1, 31), line, "--", color=color, label=label)
        off.append(abs(np.log10(runs / line).mean(axis=0)))
        ax.set_xlabel("layer")
axes[0].set_title("Mean square of the signal z")
axes[1].set_title("Mean square of the gradient")
axes[1].legend()
plt.show()
# A mean of ten logarithms strays by 3 %, and a finite width shifts it by about as much.
claim(
    "Thirty layers of signal and gradient follow theory, to 25 %",
    10 ** np.max(off) - 1,
    below=0.25,
)

# %%
# With enough layers the signal comes to rest at some mean square. There each layer multiplies the
# gradient's by the same factor. ``fixed_point`` computes both:

cases["sigmoid, PyTorch's 1"] = "sigmoid", nn.init.calculate_gain("sigmoid"), ""
rows = {}
for label, (name, g, _) in cases.items():
    rest = fixed_point(name, g)
    rows[label] = g, rest.q, rest.chi_1
columns = ["gain", "mean square of z", "gradient's factor"]
table = pd.DataFrame(rows, index=columns).T
show(table.round(4))

# %%
# With 5/3, tanh's signal rests above 1, and its gradient grows faster than with the gain. With 1,
# sigmoid's gradient vanishes.
#
# SELU is made to bring its signal to mean 0 and mean square 1 :cite:p:`klambauer2017`, with a gain
# of 1. :func:`PyTorch's documentation <torch.nn.init.calculate_gain>` says that 3/4 gives this up
# for a steadier gradient. It is steadier where the signal has come to rest. In the layers before,
# the gradient shrinks on its way back.
#
# Your own activation
# -------------------
# ``gain`` takes any elementwise function or module, and :func:`~initguide.initialize_` does so too:

quick_gelu = gain(lambda z: z * torch.sigmoid(1.702 * z))
print(f"quick GELU: {quick_gelu:.4f}, CELU: {gain(nn.CELU(0.5)):.4f}")
model = nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 10))
initialize_(model, "he_normal", activation=nn.GELU())

# %%
# All layers get that gain but the first: no activation precedes it, so its gain is 1. Here are twenty
# layers of GELU that read MNIST, with pixels of mean 0 and mean square 1; once more with the gain in
# all layers, the first one too. Thin lines are ten seeds, thick ones their geometric mean.

images = datasets.mnist().standardized().test_inputs[:200]
everywhere = get_scheme("he_normal").with_gain(gain("gelu"))
starts = {  # scheme, activation, color
    "He": ("he_normal", None, look("he_normal").color),
    "GELU's gain in all layers": (everywhere, None, "#8c8c8c"),
    "GELU's gain, first layer 1": ("he_normal", nn.GELU(), "#0072B2"),
}
rows = []
for label, (scheme, activation, color) in starts.items():
    runs = []
    for seed in range(10):
        torch.manual_seed(seed)
        model = mlp(784, *20 * [256], 10, activation="gelu")
        initialize_(model, scheme, activation=activation)
        table = probe(model, images).query("quantity == 'second_moment'")
        runs.append(table["value"][table["name"].str.startswith("hidden")])
    logs = np.log10(runs)
    plt.semilogy(range(1, 21), 10**logs.T, color=color, linewidth=0.5)
    plt.semilogy(range(1, 21), 10 ** logs.mean(axis=0), color=color, label=label)
    rows += [
        (label, seed, value) for seed, value in enumerate(logs[:, -1] - logs[:, 0])
    ]
plt.title("Twenty layers of GELU on MNIST")
plt.xlabel("layer")
plt.xticks([1, 5, 10, 15, 20])
plt.ylabel("mean square of z")
plt.legend()
plt.show()

growth = pd.DataFrame(rows, columns=["gain", "seed", "value"])
growth = summarize(growth, by="gain").set_index("gain")[["mean", "low", "high"]]
he, all_layers, one_line = growth["mean"]
# A mean of ten seeds strays by 0.16, 0.07 and 0.1.
claim(
    "On average over ten seeds, GELU's signal falls with He's gain (power of ten)",
    he,
    below=-0.5,
)
claim(
    "On average over ten seeds, GELU's signal grows with its own gain in all layers "
    "(power of ten)",
    all_layers,
    above=0.5,
)
claim(
    "On average over ten seeds, the one line keeps GELU's signal within a factor of ten",
    abs(one_line),
    below=1,
)
show(growth.round(2))

# %%
# The table has the powers of ten by which the signal grew from the first layer to the last, with
# 95 % intervals. He's gain is too small for GELU. With its own gain in all layers the signal starts
# above 1 and grows. The one line begins at 1, and in the mean it stays within a factor of ten of it.
# Whether it grows a little, ten seeds may not tell: the seeds part. Why do they? This is the mean
# square of the next :math:`z`, after a layer in which it is too small or too large
# :cite:p:`poole2016`:

levels = [0.5, 1, 2]
rows = {name: variance_map(name, levels, gain(name)) for name in ("gelu", "tanh")}
following = pd.DataFrame(rows, index=levels)
show(following.round(2))

# %%
# Tanh brings it back towards 1. GELU drives it away. That is so at any gain, as GELU lets more
# through of a large signal than of a small one, so in a very deep network no gain keeps GELU level.
#
# What this does not show
# -----------------------
# That a network learns best with its gain: a few layers forgive a wrong one, see
# :doc:`match_scheme_activation_and_depth`, and normalization forgives more. The formulas are for
# wide layers and random weights, so for the time before the first step. Next,
# :doc:`follow_a_signal_through_fifty_layers` compares the schemes with each other.
