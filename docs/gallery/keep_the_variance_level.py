r"""
Keep the variance level
=======================

**How large should a weight be?** Large enough that a layer makes its signal neither larger nor
smaller. For a ReLU unit with :math:`n` inputs, that is a variance of :math:`2/n`. Half of it halves
the mean square of the signal in every layer, and that of the gradient too: after thirty layers
about a billionth is left. With tanh, :math:`1/n` lets both shrink only slowly, about tenfold in
thirty layers. There weights from :math:`N(0, 1)` make the gradient explode, but not the signal,
which tanh bounds.

:cite:t:`dlwizard_init` describes the growing variance and names the remedies. Here we predict the
factor of a layer and measure it, forwards and backwards, with ten seeds.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import (
    ACTIVATIONS,
    SCHEMES,
    claim,
    datasets,
    initialize_,
    mlp,
    show,
    summarize,
)

data = datasets.mnist()
images, digits = data.test_inputs[:128].flatten(1), data.test_targets[:128]
seeds = range(10)
show(data)

# %%
# N(0, 1): the wider the layer, the larger the signal
# ---------------------------------------------------
# Before its activation a unit computes :math:`z = w_1 x_1 + \dots + w_n x_n`. If the weights have
# mean 0 and are independent of the inputs, then :math:`z` has mean 0 too, and its variance is
# :math:`n \operatorname{Var}(w)` times the mean square of the inputs. With
# :math:`\operatorname{Var}(w) = 1` it should grow in proportion to :math:`n`. Here the :math:`n`
# inputs are the outputs of a first layer:

rows = []
for seed, n in product(seeds, [32, 64, 128, 256, 512, 1024]):
    torch.manual_seed(seed)
    first, second = nn.Linear(784, n), nn.Linear(n, 512)
    for layer in (first, second):
        nn.init.normal_(layer.weight, mean=0.0, std=1.0)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        z = first(images)
        variances = {
            "z behind ReLU": second(torch.relu(z)).square().mean(),
            "z behind tanh": second(torch.tanh(z)).square().mean(),
            "the weights": second.weight.var(),
            "z": z.square().mean(),  # of the first layer, whose inputs are pixels
        }
    rows += [(name, n, seed, v.item()) for name, v in variances.items()]
growth = pd.DataFrame(rows, columns=["variance of", "inputs", "seed", "value"])

means = summarize(growth, by=["variance of", "inputs"])
for name, line in means[means["variance of"] != "z"].groupby("variance of"):
    plt.loglog(line["inputs"], line["mean"], "o-", label=name)
    plt.fill_between(line["inputs"], line["low"], line["high"], alpha=0.3)
plt.title("What grows with the width is the variance of z")
plt.xticks(line["inputs"], line["inputs"])
plt.xlabel("number of inputs n")
plt.ylabel("variance")
plt.legend()
plt.show()

# %%
# :cite:t:`dlwizard_init` sums this up as "growing weight variance". But the variance of the weights
# is 1 at every width. What grows is the variance of :math:`z`. In proportion means a slope of 1 on
# these axes; fitted for each seed, the slopes are:


def fit(table):
    return np.polyfit(np.log(table["inputs"]), np.log(table["value"]), 1)[0]


slopes = growth.groupby(["variance of", "seed"])[["inputs", "value"]].apply(fit)
slopes = slopes.rename("value").reset_index()
slopes = summarize(slopes, by="variance of").set_index("variance of")
slopes = slopes.loc[["z behind ReLU", "z behind tanh", "the weights"]]
off_by = abs(slopes["mean"] - [1, 1, 0])
claim(
    "The variance of z grows like the width, that of the weights not at all",
    off_by,
    below=0.15,
)
show(slopes[["mean", "low", "high"]].round(3))

# %%
# The source calls its normal weights "small numbers", and draws them from :math:`N(0, 1)`. It takes
# the inputs to have a mean of zero, so that their variance stands where we have their mean square.
# Neither fits the 784 pixels of a digit, which are from 0 to 1. The first layer's :math:`z` is
# larger than a pixel by the first factor (both as root mean squares), and its variance is larger
# than the source's formula gives by the second:

pixels = images.square().mean().item(), images.var().item()
first_layer = growth[growth["variance of"] == "z"]
larger = first_layer.assign(value=(first_layer["value"] / pixels[0]) ** 0.5)
larger["variance of"] = "size of z, over a pixel's"
missed = first_layer.assign(value=first_layer["value"] / (784 * pixels[1]))
missed["variance of"] = "variance of z, over n Var(w) Var(x)"
factors = (
    pd.concat([larger, missed]).groupby(["variance of", "seed"])["value"].mean()
)
factors = summarize(factors.reset_index(), by="variance of").set_index(
    "variance of"
)
show(factors[["mean", "low", "high"]].round(2))

# %%
# Thirty layers: predicted and measured
# -------------------------------------
# Now thirty ReLU layers of :math:`n = 256` units. Let :math:`q_l` be the mean square of the
# :math:`z` in layer :math:`l`, and :math:`g_l` the mean square of the gradient with respect to
# them. ReLU sets half of the :math:`z` to zero, and blocks the gradient there. So, with biases
# :math:`b`:
#
# .. math::
#
#    q_{l+1} = \frac{n \operatorname{Var}(w)}{2}\, q_l + \operatorname{Var}(b), \qquad
#    g_l = \frac{n \operatorname{Var}(w)}{2}\, g_{l+1}

n, depth = 256, 30
rules = {  # n Var(w), and Var(b)
    "standard_normal": (n, 0),
    "torch_default": (1 / 3, 1 / (3 * n)),
    "xavier_normal": (1, 0),  # LeCun's too, as all layers have the same width
    "he_normal": (2, 0),
}


def measure(activation, scheme, seed):
    """Return quantities of an untrained network, with a value for each hidden layer."""
    model = mlp(784, *[n] * depth, 10, activation=activation).double()
    initialize_(model, scheme, generator=torch.Generator().manual_seed(seed))
    signal, hidden = images.double(), []
    for name, module in model.named_children():
        signal = module(signal)
        if name.startswith("hidden"):
            signal.retain_grad()
            hidden.append(signal)
    F.cross_entropy(signal, digits).backward()
    last = hidden[-1].grad.square().mean()
    return {
        "signal": [z.square().mean().item() for z in hidden],
        "gradient": [(z.grad.square().mean() / last).item() for z in hidden],
        "between images": [z.var(dim=0).mean().item() for z in hidden],
        "off": [(z <= 0).all(dim=0).double().mean().item() for z in hidden],
    }


def predict(scheme, first):
    """Return signal and gradient in each ReLU layer, given the first signal."""
    n_var_w, var_b = rules[scheme]
    signal, gradient = [first], [1.0]
    for _ in range(depth - 1):
        signal.append(n_var_w / 2 * signal[-1] + var_b)
        gradient.insert(0, n_var_w / 2 * gradient[0])
    return {"signal": signal, "gradient": gradient}


rows = []
for activation, scheme, seed in product(["relu", "tanh"], rules, seeds):
    for quantity, values in measure(activation, scheme, seed).items():
        for layer, value in enumerate(values, start=1):
            rows.append((activation, scheme, quantity, seed, layer, value))
keys = ["activation", "scheme", "quantity"]
layers = pd.DataFrame(rows, columns=[*keys, "seed", "layer", "value"])

# %%
# Markers are measured, dashed lines predicted. The gradient is relative to that of the last layer.

logs = layers[layers["quantity"] != "off"]
logs = summarize(logs.assign(value=np.log10(logs["value"])), by=[*keys, "layer"])
logs = dict(list(logs.groupby(keys)))

figure, axes = plt.subplots(2, 2, figsize=(7.2, 6.8), sharex=True)
panels = product(["relu", "tanh"], ["signal", "gradient"])
for ax, (activation, quantity) in zip(axes.flat, panels, strict=True):
    for start, scheme in enumerate(rules):
        look, line = SCHEMES[scheme], logs[activation, scheme, quantity]
        style = {"color": look.color, "markevery": (start, 4), "label": look.label}
        ax.plot(line["layer"], 10 ** line["mean"], look.marker, **style)
        low, high = 10 ** line["low"], 10 ** line["high"]
        ax.fill_between(line["layer"], low, high, color=look.color, alpha=0.3)
        if activation == "relu":
            first = 10 ** logs["relu", scheme, "signal"]["mean"].iloc[0]
            theory = predict(scheme, first)[quantity]
            ax.plot(line["layer"], theory, "--", color=look.color, lw=1)
            ax.set_ylim(1e-25, 1e25)
    ax.set(title=f"{ACTIVATIONS[activation].label}, {quantity}", yscale="log")
line = logs["relu", "torch_default", "between images"]
color = SCHEMES["torch_default"].color
style = {"color": color, "label": "PyTorch default, between images"}
axes[0, 0].plot(line["layer"], 10 ** line["mean"], ":", **style)
figure.supylabel("mean square")
figure.supxlabel("hidden layer")
legend = axes[0, 0].get_legend_handles_labels()
figure.legend(*legend, loc="outside upper center", ncols=3)
plt.show()

# %%
# With ReLU, of these four only He's weights keep both level. With :math:`N(0, 1)` both explode.
# With Xavier's weights and PyTorch's default both vanish, where the source speaks of exploding ReLU
# gradients only. The default's signal seems to level off, but what is left are its random biases,
# the same for every image: the variance *between* images (dotted) keeps falling. The source leaves
# such biases out of its formula, as constants, and keeps them in its networks.

table = layers.pivot(index=[*keys, "seed"], columns="layer", values="value")
default = table.loc[("relu", "torch_default")]
shared = 1 - default.loc["between images", depth] / default.loc["signal", depth]
shared = shared.min()
claim(
    "With PyTorch's default, the thirtieth ReLU layer answers every image alike",
    shared,
    above=0.999,
)

# %%
# With tanh, the factor depends on the size of the signal :cite:p:`poole2016,schoenholz2017`, and
# none of these is level. From layer 1 to 30 the mean square of Xavier's signal shrinks about
# tenfold, and that of its gradient, on the way back, as well. :math:`N(0, 1)` saturates tanh. That
# soon stops its signal from growing, but not its gradient. These are the factors of the mean
# squares from one end to the other, in powers of ten:

rows = []
for scheme, quantity in product(rules, ["signal", "gradient"]):
    runs = np.log10(table.loc[("tanh", scheme, quantity)])
    ends = (1, depth) if quantity == "gradient" else (depth, 1)
    for seed, value in (runs[ends[0]] - runs[ends[1]]).items():
        rows.append((SCHEMES[scheme].label, quantity, seed, value))
tanh = pd.DataFrame(rows, columns=["scheme", "quantity", "seed", "value"])
tanh = summarize(tanh, by=["scheme", "quantity"]).set_index(["scheme", "quantity"])
xavier = tanh.loc[SCHEMES["xavier_normal"].label, "mean"]
claim(
    "tanh, Xavier: signal and gradient shrink about tenfold in 29 layers",
    xavier,
    above=-1.5,
    below=-0.5,
)
large = tanh.loc[SCHEMES["standard_normal"].label, "mean"]
claim("tanh, N(0, 1): the gradient explodes", large["gradient"], above=20)
show(tanh[["mean", "low", "high"]].round(2))

# %%
# The factor of one ReLU layer, averaged over the layers:

rows = []
for scheme, (n_var_w, _) in rules.items():
    forwards = "between images" if scheme == "torch_default" else "signal"
    for quantity in (forwards, "gradient"):
        runs = table.loc[("relu", scheme, quantity)]
        ends = (1, depth) if quantity == "gradient" else (depth, 1)
        log_factor = np.log(runs[ends[0]] / runs[ends[1]]) / (depth - 1)
        for seed, value in log_factor.items():
            rows.append((SCHEMES[scheme].label, quantity, n_var_w / 2, seed, value))
by = ["scheme", "quantity", "predicted"]
steps = pd.DataFrame(rows, columns=[*by, "seed", "value"])
factor = np.exp(summarize(steps, by=by).set_index(by)[["mean", "low", "high"]])
show(factor.reset_index("predicted").round(3))

# %%
# The prediction is for infinitely wide layers. At width :math:`n` the logarithm of the signal's
# factor is lower by about :math:`5 / 2n` :cite:p:`hanin2018`, which is 1 % here.

# 1 % of finite width, and of ten seeds 0.9 % (a standard error), times four.
ratio = factor["mean"] / factor.index.get_level_values("predicted")
claim(
    "Each ReLU factor is within 5 % of the prediction", abs(ratio - 1), below=0.05
)

# %%
# He does not wake dead units
# ---------------------------
# The source also names He's initialization as a cure for dead units, ReLU units that are off for
# every input. It cannot be one at the start. He's weights are Xavier's times a positive number in
# each layer, and without biases that changes no sign: the same units are on, and the same off.

off = table.loc["relu"].xs("off", level="quantity")
differ = (off.loc["he_normal"] - off.loc["xavier_normal"]).abs().max(axis=None)
claim("He and Xavier leave the same share of units off", differ, equal=0)
for scheme in ("xavier_normal", "he_normal"):
    share = off.loc[scheme][depth].mean()
    print(f"{SCHEMES[scheme].label}: {share:.1%} of the last layer's units are off")

# sphinx_gallery_start_ignore
by_name = factor.sort_index()
explodes = by_name.loc[(SCHEMES["standard_normal"].label, "gradient")].iloc[0]
findings = {
    "S3.12": slopes.loc["z behind ReLU"],
    "S3.13": slopes.loc["the weights"],
    "S3.18": explodes,
    "S3.21": factors.loc["size of z, over a pixel's"],
    "S3.22": factors.loc["variance of z, over n Var(w) Var(x)"],
    "S3.23": shared,
}
# sphinx_gallery_end_ignore

# %%
# Nor do He's weights keep units alive in training when the steps are too large:
# :doc:`watch_activations_saturate_and_die`. What this page found of the source's claims is
# collected in :doc:`/evidence`.
#
# What this does not show
# -----------------------
# How well these networks learn: a level variance is where training can start, not what it reaches.
# They have no normalization and no shortcuts between layers. And other activations let through
# another share than ReLU's half. Where :math:`1/n`, :math:`2/n` and :math:`2/(n + m)` come from is
# shown in :doc:`derive_lecun_xavier_and_he`.
