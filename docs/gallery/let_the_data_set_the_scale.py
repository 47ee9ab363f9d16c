r"""
Let the data set the scale
==========================

**How large should the weights be where no formula fits my network?** Measure it: run some data
through the network, and divide the weights of each layer by the standard deviation of its output.
The outputs then have variance 1, whatever lies between the layers. Where a formula does fit, ten
seeds show no gain from measuring.

The method is *layer-sequential unit-variance initialization*, LSUV for short
:cite:p:`mishkin2016`. We try it on networks of 20 layers.

*What you need:* ``initguide``, and a minute on two processor cores.
"""

from dataclasses import replace
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import initguide as ig
from initguide.plotting import look

data = ig.datasets.fashion_mnist()
data = replace(  # part of the images, at half the size: many deep networks are to be trained
    data,
    train_inputs=F.avg_pool2d(data.train_inputs[:4000], 2),
    train_targets=data.train_targets[:4000],
    test_inputs=F.avg_pool2d(data.test_inputs[:1000], 2),
    test_targets=data.test_targets[:1000],
)
batch, seeds = data.train_inputs[:256], range(10)

# %%
# The idea, in plain PyTorch
# --------------------------
# LSUV starts from *orthogonal* weights: the rows of the matrix, or its columns, have length 1 and
# are perpendicular to each other. Biases are zero. Then it goes through the layers in order. The
# line with ``std`` is the method. The variance is that of all numbers in the output, over images
# and units.

torch.manual_seed(0)
layers = [nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU()]
model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 10))
x = batch
with torch.no_grad():
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
            before = layer(x).var()
            layer.weight /= layer(x).std()
            print(f"{layer}: variance {before:.3f}, now {layer(x).var():.3f}")
            assert abs(layer(x).var() - 1) < 1e-5  # float32
        x = layer(x)

# %%
# A network without a formula
# ---------------------------
# He's variance :math:`2/n`, for a layer with :math:`n` inputs, is derived for a chain of layers
# with ReLU between them. This network has no ReLU. In each of its six blocks one layer is followed
# by a tanh, one by a pooling, which averages three neighbours, and one by a gate, which multiplies
# the layer's input by a sigmoid of its output. :func:`~initguide.lsuv_` finds the layers of a
# model, and their order, by running it.


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(196, 32)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(32, 32) for _ in range(3)) for _ in range(6)
        )
        self.output = nn.Linear(32, 10)

    def forward(self, x):
        x = self.first(x.flatten(1))
        for one, two, three in self.blocks:
            x = torch.tanh(one(x))
            x = F.avg_pool1d(two(x), 3, stride=1, padding=1)
            x = x * torch.sigmoid(three(x))
        return self.output(x)


report = ig.lsuv_(Mixed(), batch, generator=torch.Generator().manual_seed(0))
assert [layer.rescales for layer in report.layers] == [1, 0] + 18 * [1]
report

# %%
# *Before* is the variance from the orthogonal weights, behind layers that are done already. The
# second layer is left as it is: its variance misses 1 by less than the tolerance, 0.1.
#
# The variance in each layer
# --------------------------
# Four starts: PyTorch's default, He's weights, LSUV, and the orthogonal weights of LSUV with He's
# factor :math:`\sqrt 2` instead of the measured one. The figure shows the mixed network on 1,000
# test images, none of which LSUV has seen. On the left is the variance that LSUV sets. On the right
# is the part of it that tells images apart: the variance over images, averaged over units. Lines
# are means of ten seeds, bands their 95 % intervals.

formula = ig.Scheme("orthogonal × √2", partial(ig.orthogonal_, gain=2**0.5))
colors = {name: look(name).color for name in ("torch_default", "he_normal")}
colors |= {formula.name: "#882255", "LSUV": "#222222"}
markers = dict(zip(colors, "^ovD", strict=True))


def build(make_model):
    """Return the four starts of a network under ten seeds."""
    named = ["torch_default", "he_normal", formula]
    rest = ig.Ensemble.build(make_model, schemes=named, seeds=seeds)
    lsuv = ig.Ensemble.build(make_model, schemes={"LSUV": "zeros"}, seeds=seeds)
    models = [lsuv.model("LSUV", seed) for seed in seeds]  # of zeros, so far
    for seed, model in zip(seeds, models, strict=True):
        ig.lsuv_(model, batch, generator=torch.Generator().manual_seed(seed))
    parameters = {
        name: torch.stack([model.get_parameter(name).detach() for model in models])
        for name in lsuv.parameters
    }
    return ig.Ensemble.concatenate([rest, replace(lsuv, parameters=parameters)])


def variances(model, inputs):
    """Return the variance of each layer's output, and that between images."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, out: found.append(out))
    with torch.no_grad():
        model(inputs)
    return [(out.var().item(), out.var(dim=0).mean().item()) for out in found]


kinds = ["over images and units", "between images"]
mixed, rows = build(Mixed), []
for scheme, seed in product(colors, seeds):
    found = variances(mixed.model(scheme, seed), data.test_inputs)
    for layer, values in enumerate(np.log10(found), start=1):
        for kind, value in zip(kinds, values, strict=True):
            rows.append((scheme, seed, layer, kind, value))
table = pd.DataFrame(rows, columns=["scheme", "seed", "layer", "variance", "value"])
means = ig.summarize(table, by=["variance", "scheme", "layer"])

_, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
for ax, kind in zip(axes, kinds, strict=True):
    for scheme, color in colors.items():
        line = means.query("variance == @kind and scheme == @scheme")
        style = {"color": color, "marker": markers[scheme], "markersize": 4}
        style["label"] = look(scheme).label
        ax.plot(line["layer"], 10 ** line["mean"], **style)
        low, high = 10 ** line["low"], 10 ** line["high"]
        ax.fill_between(line["layer"], low, high, color=color, alpha=0.2)
    ax.set(title=f"Variance {kind}", xlabel="layer", yscale="log")
axes[0].axhline(1, color="#8c8c8c", linestyle="--", label="LSUV's aim")
axes[0].legend()
plt.show()

last = means.query("layer == 20").set_index(["variance", "scheme"])
last = last[["low", "high"]]
assert last.loc[(kinds[0], "LSUV")].between(np.log10(0.9), np.log10(1.1)).all()
assert (last.loc[kinds[1]].drop("LSUV")["high"] < -2).all()
assert last.loc[(kinds[1], "LSUV"), "low"] > -1

# %%
# Only LSUV keeps the variance level. On new images, too, it misses 1 by less than the tolerance, on
# average. He's :math:`\sqrt 2` is too small for this network, and the signal sinks. PyTorch's
# default seems level on the left. But what is left there are its random biases, the same for every
# image.
#
# Variance 1 is not always a signal
# ---------------------------------
# Without biases, dividing a layer's weights by a number divides its output by that number. So no
# layer needs more than one rescale. Here are chains of 20 layers with four activations
# :math:`\varphi` (means over ten seeds). But look at the variance between images:

z = torch.special.ndtri(torch.linspace(0, 1, 100_002)[1:-1])  # N(0, 1), quantiles
rows = []
for name, seed in product(["relu", "tanh", "gelu", "sigmoid"], seeds):
    phi = ig.ACTIVATIONS[name]
    model = ig.mlp(196, *19 * [32], 10, activation=name).double()
    draws = torch.Generator().manual_seed(seed)
    report = ig.lsuv_(model, batch.double(), generator=draws)
    assert len(report.layers) == 20
    assert max(layer.rescales for layer in report.layers) <= 1
    (_, first), *_, (everything, between) = variances(model, batch.double())
    row = {"variance of the output": everything, "between images": between}
    row["factor a layer"] = (between / first) ** (1 / 19)
    row["predicted"] = (phi.derivative(z) ** 2).mean() / (phi(z) ** 2).mean()
    rows.append({"activation": phi.label} | row)

table = pd.DataFrame(rows).set_index("activation").astype(float).map(np.log)
table = np.exp(table.groupby(level=0, sort=False).mean())
assert table.loc["sigmoid", "between images"] < 1e-12
assert (table.drop("sigmoid")["between images"] > 0.1).all()
table.map("{:.3g}".format)

# %%
# Behind all these sigmoids the images give nearly the same output; what varies is the units. Let
# :math:`z` be what a unit computes before its activation. The weights that follow are scaled to
# make up for the size of :math:`\varphi(z)`. But a small difference between two images is
# multiplied by the slope :math:`\varphi'(z)`. So, while images are nearly alike, a wide layer
# multiplies the variance between them by
#
# .. math::
#
#    \frac{\operatorname{mean} \varphi'(z)^2}{\operatorname{mean} \varphi(z)^2},
#    \qquad z \text{ from } N(0, 1)
#
# :cite:p:`schoenholz2017`. Only behind sigmoid do they become so alike. Its slope is small and its
# outputs are large, all of them positive. For such an activation variance 1 is the wrong aim.
# :doc:`match_scheme_activation_and_depth` finds a gain that sigmoid can learn with.
#
# Does it train better?
# ---------------------
# The mixed network and a chain with ReLU learn for three epochs, in batches of 50, by stochastic
# gradient descent (SGD) or Adam, at several learning rates. Dots are seeds, bars 95 % intervals of
# their mean.

relu = build(partial(ig.mlp, 196, *19 * [32], 10))
pair = [relu.model(s, 0).hidden9.weight for s in (formula.name, "LSUV")]
first, second = (weight / weight.norm() for weight in pair)
torch.testing.assert_close(first, second)  # the two starts differ in scale alone
networks = {"Mixed network": mixed, "ReLU network": relu}
settings = [("SGD", lr) for lr in (0.01, 0.03, 0.1)]
settings += [("Adam", lr) for lr in (0.001, 0.003)]
tables = []
for (network, start), (name, lr) in product(networks.items(), settings):
    history = ig.train(
        start,
        data,
        epochs=3,
        batch_size=50,
        lr=lr,
        optimizer=getattr(torch.optim, name),
    )
    tables.append(history.frame().assign(network=network, optimizer=name, lr=lr))
runs = pd.concat(tables).query("metric == 'accuracy' and step > 0")
runs = runs.fillna({"value": 0.0})  # a run that overflowed gets nothing right
keys = ["network", "optimizer", "lr"]

_, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True)
for ax, network in zip(axes, networks, strict=True):
    for shift, (scheme, color) in enumerate(colors.items()):
        these = runs.query("network == @network and scheme == @scheme")
        mean = ig.summarize(these, by=keys)
        x = np.arange(5) + (shift - 1.5) / 6
        ax.plot(np.repeat(x, 10), these["value"], ".", color=color, alpha=0.3, ms=4)
        style = {"fmt": markers[scheme], "color": color, "capsize": 3}
        half = mean["high"] - mean["mean"]
        ax.errorbar(x, mean["mean"], half, label=look(scheme).label, **style)
    ax.set_xticks(range(5), [f"{name}\n{lr}" for name, lr in settings])
    ax.set(title=network, ylim=(0, 1))
axes[0].set_ylabel("test accuracy")
axes[1].legend(ncols=2, loc="upper center")
plt.show()

# %%
# PyTorch's default is behind LSUV in every column. The other two are compared with LSUV in pairs,
# each start at the best of its learning rates:

for _, column in ig.summarize(runs, by=[*keys, "scheme"]).groupby(keys):
    column = column.set_index("scheme")
    assert column.loc["torch_default", "high"] < column.loc["LSUV", "low"]

found = {}
for (network, name), table in runs.groupby(["network", "optimizer"], sort=False):
    best = table.groupby(["scheme", "lr"])["value"].mean().unstack().idxmax(axis=1)
    tuned = table[table["lr"] == table["scheme"].map(best)]
    tuned = tuned[tuned["scheme"] != "torch_default"]
    comparison = ig.compare(tuned, baseline="LSUV")
    found[network, name] = comparison.set_index("a")
    print(f"{network}, {name}. {ig.describe(comparison)}")

for name in ("SGD", "Adam"):
    assert (found["Mixed network", name]["high"] < 0).all()
    assert not found["ReLU network", name].loc[formula.name, "real"]

# %%
# In the mixed network the measured scale pays. With SGD the network learns far less without it.
# With Adam, whose steps do not shrink with the gradient, it brings a few points.
#
# In the ReLU network it brings nothing that ten seeds would show. LSUV and the orthogonal weights
# with He's :math:`\sqrt 2` differ in scale alone. So if LSUV is ahead of He's normal weights there,
# credit the orthogonal weights, not the data.
#
# What this does not show
# -----------------------
# Whether LSUV helps networks that are wider, or have shortcuts or normalization. Nor does it show
# that no formula could be worked out for the mixed network; LSUV saves that work. The best learning
# rates were chosen on the test set, for all starts alike.
#
# LSUV sets the variance once, before the first step. Batch normalization sets it in every step:
# :doc:`ask_what_batch_norm_changes`.
