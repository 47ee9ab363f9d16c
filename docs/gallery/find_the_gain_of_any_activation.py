r"""
Find the gain of any activation
===============================

**How large should the weights be for my activation?** As large as its *gain* :math:`g` says: a unit
with :math:`n` inputs gets weights with a standard deviation of :math:`g/\sqrt n`. PyTorch has a
number for six activations, and three of the six are no gains. :func:`~initguide.gain` computes the
gain of any.

The idea is that of :cite:t:`he2015`; :cite:t:`poole2016` describe how the size of a signal moves
from layer to layer.

*What you need:* ``initguide``, and a quarter of a minute on one processor core.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from initguide import ACTIVATIONS, datasets, gain, initialize_, lecun_normal_, mlp
from initguide.plotting import look
from initguide.theory.mean_field import fixed_point

# %%
# What a gain is
# --------------
# Before its activation :math:`\varphi`, a unit computes a number :math:`z`: the sum of its
# :math:`n` inputs, each times a weight. If the weights are random and :math:`n` is large, :math:`z`
# is nearly normal with mean 0, and its mean square is :math:`g^2` times that of the inputs. Let
# :math:`z` have the mean square 1 in one layer. In the next it has :math:`g^2 E[\varphi(z)^2]`,
# where :math:`E` is the mean over standard normal :math:`z`. This is 1 again for
#
# .. math:: g = 1 / \sqrt{E[\varphi(z)^2]}.
#
# A million draws estimate it, and ``gain`` computes the integral to about ten digits:

torch.manual_seed(0)
draws = torch.randn(1_000_000).double()
gelu = nn.GELU()
estimate = gelu(draws).square().mean() ** -0.5
print(f"GELU: {estimate:.3f} from draws, {gain(gelu):.10f} computed")

# %%
# All gains
# ---------
# The first column is this gain, *forward*; *activation* comes below. The *backward* gain,
# :math:`1 / \sqrt{E[\varphi'(z)^2]}`, keeps the mean square of the gradient, as long as that of
# :math:`z` is 1. The last column is PyTorch's function. "None" means that there is no such gain, or
# that PyTorch refuses. The draws check every gain.


def find(function, *arguments):
    try:
        return function(*arguments)
    except ValueError:
        return np.nan


def check(squares):
    """Fail if their mean is not 1 by more than five standard errors."""
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - 1) <= 5 * error + 1e-9  # the integral's own error


rows, kinds = {}, ["forward", "activation", "backward"]
for name, phi in ACTIVATIONS.items():
    forward, activation, backward = (find(gain, phi, kind) for kind in kinds)
    check((forward * phi(draws)).square())
    check((backward * phi.derivative(draws)).square())
    if activation > 0:
        check(phi(activation * draws).square())
    theirs = find(nn.init.calculate_gain, name)
    rows[name] = forward, activation, backward, theirs

gains = pd.DataFrame(rows, index=[*kinds, "calculate_gain"]).T
gains = gains.drop("identity")  # another name of "linear"
known = gains.dropna(subset="calculate_gain")
agree = np.isclose(known[kinds], known[["calculate_gain"]]).any(axis=1)
assert len(known) == 6 and {*known.index[~agree]} == {"sigmoid", "tanh", "selu"}
gains.map("{:.4f}".format).replace("nan", "none")

# %%
# Which size is to be kept?
# -------------------------
# The forward gain keeps the mean square of :math:`z` at 1. To keep it at another level :math:`q`
# takes the gain :math:`g(q) = \sqrt{q / E[\varphi(\sqrt q\, z)^2]}`. That is the forward gain of
# the function :math:`\varphi(\sqrt q\, z) / \sqrt q`, so ``gain`` computes it, too:


def gain_at(q, phi, kind="forward"):
    return gain(lambda z: phi(q**0.5 * z) / q**0.5, kind)


palette = ["#009E73", "#0072B2", "#E69F00", "#CC79A7"]
colors = dict(zip(["relu", "tanh", "selu", "gelu"], palette, strict=True))
levels, curves = np.geomspace(0.01, 10, 40), {}
ring = {"markersize": 9, "markerfacecolor": "none"}
for name, color in colors.items():
    phi, forward, activation = ACTIVATIONS[name], *gains.loc[name][:2]
    curves[name] = np.array([gain_at(q, phi) for q in levels])
    plt.semilogx(levels, curves[name], color=color, label=phi.label)
    plt.plot(1, forward, "o", color=color)
    plt.plot(activation**2, activation, "kD", **ring)
    if activation > 0:
        assert np.isclose(activation, gain_at(activation**2, phi))
plt.plot(levels, levels**0.5, "k--", linewidth=1, label="g = √q")
plt.plot([], [], "ko", label="forward gain")
plt.plot([], [], "kD", **ring, label="activation gain")
plt.title("Each level has its own gain")
plt.xlabel("level q: the mean square of z")
plt.ylabel("gain that keeps it")
plt.ylim(0.5, 2.6)
plt.legend(ncols=2)
plt.show()

slopes = {name: np.diff(curve) for name, curve in curves.items()}
assert np.allclose(slopes["relu"], 0) and (slopes["gelu"] < 0).all()
assert (slopes["tanh"] > 0).all() and (slopes["selu"] > 0).all()
assert (curves["tanh"] > levels**0.5).all()

# %%
# The *activation* gain keeps the mean square of :math:`\varphi(z)` at 1 instead. Then :math:`z` has
# the level :math:`g^2`, so this gain is where a curve meets :math:`g = \sqrt q`. The curve of tanh
# never does: what is always below 1 has no mean square of 1. ReLU's curve is flat, since twice the
# :math:`z` makes twice the ReLU; its two gains agree.
#
# Now let chance make the signal a little too large. Where the curve rises, as for tanh and SELU,
# the signal then needs a larger gain than it gets, so it shrinks back. With GELU it needs a smaller
# one, so it grows on.
#
# Do they keep it?
# ----------------
# Ten layers of 500 units. Each line is one of ten seeds. The signal starts with the size that the
# gain should keep, the dashed line.

n = 500


def measure(phi, g, layers, first=1.0):
    """Return mean squares of z, of φ(z) and of z's gradient, for each seed and layer."""
    runs = []
    for seed in range(10):
        torch.manual_seed(seed)
        x, z, activations = torch.randn(50, n), [], []
        for layer in range(layers):
            weight = torch.randn(n, n) / n**0.5 * (g if layer else first)
            z.append((x @ weight).requires_grad_())
            x = phi(z[-1])
            activations.append(x.detach())
        gradients = torch.autograd.grad(x, z, torch.randn(50, n))
        runs.append([mean_squares(t) for t in (z, activations, gradients)])
    return np.swapaxes(runs, 0, 1)


def mean_squares(tensors):
    return [tensor.square().mean().item() for tensor in tensors]


def interval(runs, t=2.26):  # Student's t for ten seeds: 95 %; 4.78 is for 99.9 %
    error = t * np.std(runs, axis=0, ddof=1) / len(runs) ** 0.5
    return np.mean(runs, axis=0) - error, np.mean(runs, axis=0) + error


_, axes = plt.subplots(1, 3, figsize=(9, 3.8), sharey=True)
for ax, name in zip(axes, ["gelu", "elu", "tanh"], strict=True):
    phi, forward, activation = ACTIVATIONS[name], *gains.loc[name][:2]
    runs = {"z, forward gain": measure(phi, forward, 10)[0]}
    if activation > 0:  # tanh has none
        runs["φ(z), activation gain"] = measure(phi, activation, 10, activation)[1]
    for label, lines in runs.items():
        color = "black" if label.startswith("z") else "#56B4E9"
        ax.plot(range(1, 11), lines.T, color=color, lw=1, label=[label, *9 * ["_"]])
        low, high = interval(lines[:, -1], t=4.78)
        assert low <= 1 <= high
    ax.axhline(1, color="#D55E00", linestyle="--")
    ax.set(title=phi.label, xlabel="layer")
axes[0].set_ylabel("mean square")
axes[0].legend(loc="upper left")
plt.show()

# %%
# On average they do. But tanh and ELU correct what chance does in a layer, and GELU adds to it. So
# in much deeper networks no gain keeps GELU level.
#
# Why not 1 / std?
# ----------------
# A rule that is often posted takes the standard deviation of :math:`\varphi(z)`, in place of the
# root of its mean square. That leaves out the mean. But the next layer multiplies the mean by
# random weights like all the rest. So the signal should grow in every layer, by the factor
# :math:`E[\varphi(z)^2] / \operatorname{Var}(\varphi(z))`:

rows = {}
for name in ("tanh", "gelu", "relu", "sigmoid"):
    phi, g = ACTIVATIONS[name], gain(name)
    posted = 1 / phi(draws).std().item()
    predicted, measured = (posted / g) ** 2, measure(phi, posted, 2)[0][:, 1]
    rows[phi.label] = g, posted, predicted, measured.mean(), *interval(measured)
    low, high = interval(measured, t=4.78)
    assert low <= predicted <= high
columns = ["gain", "1 / std", "factor, predicted", "measured", "low", "high"]
print(f"ten layers of ReLU: times {rows['ReLU'][2] ** 10:.0f}")
pd.DataFrame(rows, index=columns).T.round(2)

# %%
# ``low`` to ``high`` is the 95 % interval. Only tanh, whose mean is 0, has the same in both
# columns.
#
# What PyTorch's numbers do
# -------------------------
# For sigmoid PyTorch returns 1, far below its gains. What of 5/3 for tanh and 3/4 for SELU? Here
# are thirty layers. Markers are measured, lines are predicted. A layer multiplies the level by
# :math:`(g / g(q))^2`, and the gradient's mean square by :math:`(g / b(q))^2`, where :math:`b(q)`
# is the backward gain at level :math:`q`. The gradient is relative to that of the last layer.


def predict(phi, g, layers):
    q, factors = [1.0], []
    for _ in range(layers - 1):
        factors.append((g / gain_at(q[-1], phi, "backward")) ** 2)
        q.append(q[-1] * (g / gain_at(q[-1], phi)) ** 2)
    return q, [*np.cumprod(factors[::-1])[::-1], 1]


def draw(ax, runs, **style):
    """Draw the mean over seeds and its interval, both of logarithms."""
    layer, logs = range(1, runs.shape[1] + 1), np.log(runs)
    ax.semilogy(layer, np.exp(logs.mean(axis=0)), **style)
    band = {"color": style["color"], "alpha": 0.3, "linewidth": 0}
    ax.fill_between(layer, *np.exp(interval(logs)), **band)
    ax.set_xlabel("layer")


cases = {
    "tanh, forward gain": ("tanh", gain("tanh"), "o"),
    "tanh, PyTorch's 5/3": ("tanh", nn.init.calculate_gain("tanh"), "x"),
    "SELU, forward gain": ("selu", gain("selu"), "o"),
    "SELU, PyTorch's 3/4": ("selu", nn.init.calculate_gain("selu"), "x"),
}
_, axes = plt.subplots(1, 2, figsize=(9, 4))
for label, (name, g, marker) in cases.items():
    phi, style = ACTIVATIONS[name], {"color": colors[name], "marker": marker}
    signal, _, gradient = measure(phi, g, 30)
    measured = signal, gradient / gradient[:, -1:]
    for ax, runs, line in zip(axes, measured, predict(phi, g, 30), strict=True):
        draw(ax, runs, label=label, linestyle="", markersize=5, **style)
        ax.plot(range(1, 31), line, color=colors[name], linewidth=1)
        low, high = interval(np.log(runs / line), t=4.78)
        # A finite width n shifts logarithms: ReLU's by 5 / 2n a layer, these by less.
        assert (low <= 30 * 2.5 / n).all() and (high >= -30 * 2.5 / n).all()
axes[0].set_title("Mean square of the signal z")
axes[1].set_title("Mean square of the gradient")
axes[1].legend()
plt.show()

# %%
# At which level does the signal come to rest, and by what does each layer multiply the gradient's
# mean square there? :func:`~initguide.theory.mean_field.fixed_point` computes both.

cases["tanh, backward gain"] = "tanh", gain("tanh", "backward"), ""
rows = {}
for label, (name, g, _) in cases.items():
    rest = fixed_point(name, g)
    rows[label] = g, rest.q, rest.q / g**2, rest.chi_1
columns = ["gain", "level of z", "of φ(z)", "gradient's factor"]
table = pd.DataFrame(rows, index=columns).T
growth = table["gradient's factor"]["tanh, PyTorch's 5/3"] ** 0.5 - 1
print(f"tanh, 5/3: the gradient itself grows by {growth:.0%} a layer")

scan = fixed_point("tanh", np.linspace(1.1, 3, 20))
assert (scan.q > 0).all() and (scan.chi_1 > 1).all() and growth > 0
assert table["level of z"]["tanh, PyTorch's 5/3"] > 1
assert table["level of z"]["SELU, PyTorch's 3/4"] < 0.1
table.round(4)

# %%
# Any gain above 1 leads tanh to some level, since it saturates; 5/3 to one above 1. With each of
# them the gradient grows, also with the backward gain: it takes for granted that :math:`z` has the
# level 1, and does not keep it there. So for tanh no gain keeps both.
#
# SELU is made to bring its signal to mean 0 and mean square 1 :cite:p:`klambauer2017`, with a gain
# of 1. PyTorch's documentation says that 3/4 gives this up for a steadier gradient. Steadier it is
# where the signal has come to rest; in the layers before, it shrinks on its way back.
#
# Your own activation
# -------------------
# ``gain`` takes any elementwise function or module, and :func:`~initguide.initialize_` does so too:

quick_gelu = gain(lambda z: z * torch.sigmoid(1.702 * z))
print(f"quick GELU: {quick_gelu:.4f}, CELU: {gain(nn.CELU(0.5)):.4f}")
model = nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 10))
initialize_(model, "he_normal", activation=nn.GELU())

# %%
# What does this line do to twenty layers of 256 GELUs that read MNIST? The pixels are standardized:
# all together have mean 0 and mean square 1. In the last start the first layer has a gain of 1.

data = datasets.mnist()
pixels = data.train_inputs
images = (data.test_inputs[:200] - pixels.mean()) / pixels.std()
starts = {  # scheme, activation, color
    "PyTorch's default": ("torch_default", None, look("torch_default").color),
    "He": ("he_normal", None, look("he_normal").color),
    "GELU's gain": ("he_normal", nn.GELU(), "#8c8c8c"),
    "GELU's gain, first layer 1": ("he_normal", nn.GELU(), "black"),
}
growth = {}
for label, (scheme, activation, color) in starts.items():
    runs = []
    for seed in range(10):
        torch.manual_seed(seed)
        model = mlp(784, *20 * [256], 10, activation="gelu")
        initialize_(model, scheme, activation=activation)
        if "first layer 1" in label:
            lecun_normal_(model.hidden1.weight)  # no activation precedes this layer
        signal, z = images, []
        for name, module in model.named_children():
            signal = module(signal)
            z += [signal] if name.startswith("hidden") else []
        runs.append(mean_squares(z))
    draw(plt.gca(), np.array(runs), marker="o", color=color, label=label)
    growth[label] = np.log10(runs)[:, -1] - np.log10(runs)[:, 0]
plt.title("Twenty layers of GELU on MNIST")
plt.ylabel("mean square of z")
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

default, he, one_line, two_lines = (interval(x, t=4.78) for x in growth.values())
assert default[1] < 0 and he[1] < 0 and one_line[0] > 0
assert two_lines[0] < 0 < two_lines[1]

# %%
# PyTorch's default loses the signal and keeps its random biases, see
# :doc:`keep_the_variance_level`. He's gain is too small for GELU. With GELU's own the signal stays,
# if the first layer has a gain of 1: no activation comes before it. The one line gives that layer
# GELU's gain too. Then :math:`z` starts above 1, where GELU needs a smaller gain than it has, and
# grows. A second line mends it: ``lecun_normal_(model.hidden1.weight)``.
#
# What this does not show
# -----------------------
# That a network learns best with its gain: a few layers forgive a wrong one, and normalization
# forgives more. The formulas are for wide layers and random weights, so for the time before the
# first step. And a signal of the right size may still be the same for all inputs.
# :doc:`match_scheme_activation_and_depth` trains networks with their own gains, and without.
