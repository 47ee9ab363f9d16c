r"""
Let the data set the scale
==========================

**How large should the weights be if no formula covers my network?** Measure it: run a batch of data
through the network, and divide the weights of each layer by the standard deviation of its output.
Then every layer's output has variance 1, whatever lies between the layers. Where a formula exists,
the measurement brings nothing more.

The method is *layer-sequential unit-variance initialization*, LSUV for short, by
:cite:t:`mishkin2016`. We apply it to networks of 20 layers, with ten seeds, and compare training.

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

from initguide import (
    ACTIVATIONS,
    Ensemble,
    Scheme,
    compare,
    datasets,
    describe,
    lsuv_,
    mlp,
    orthogonal_,
    summarize,
    train,
)
from initguide.plotting import look

data = datasets.fashion_mnist()
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
# The paper starts from *orthogonal* weights: the rows of the matrix, or its columns, have length 1
# and are perpendicular to each other. Biases are zero. Then it goes through the layers in order.
# The line with ``std`` is the method. The variance is that of all numbers in the output, over
# images and units.

torch.manual_seed(0)
layers = [nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU()]
plain = nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 10))
x = batch
with torch.no_grad():
    for layer in plain:
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
# He's variance :math:`2/n`, for a layer with :math:`n` inputs, is derived for a chain of layers with
# ReLU between them. This network has no ReLU. In each of its six blocks one layer is followed by a
# tanh, one by a pooling, which averages three neighbours, and one by a gate, which multiplies the
# layer's input by a sigmoid of its output. :func:`~initguide.lsuv_` finds the layers of any such
# model, and their order, from one run of it.


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


report = lsuv_(Mixed(), batch, generator=torch.Generator().manual_seed(0))
assert [layer.rescales for layer in report.layers] == [1, 0] + 18 * [1]
report

# %%
# *Before* is the variance from the orthogonal weights, behind layers that are done already. The
# second layer is left as it is: its variance misses 1 by less than the tolerance, 0.1.
#
# The variance in each layer, ten seeds
# -------------------------------------
# Now two networks of 20 layers: this one, and a plain chain with ReLU, for which He's formula is
# made. Each starts from PyTorch's default, from He's weights, and from LSUV. A fourth start has the
# orthogonal weights of LSUV, but a scale from the formula: they are multiplied by He's
# :math:`\sqrt 2`.

formula = Scheme("orthogonal × √2", partial(orthogonal_, gain=2**0.5))
colors = {name: look(name).color for name in ("torch_default", "he_normal")}
colors |= {"orthogonal × √2": "#E69F00", "LSUV": "#222222"}
markers = dict(zip(colors, "^ovD", strict=True))


def build(make_model):
    """Return the four starts of a network under ten seeds."""
    named = ["torch_default", "he_normal", formula]
    rest = Ensemble.build(make_model, schemes=named, seeds=seeds)
    lsuv = Ensemble.build(make_model, schemes={"LSUV": "zeros"}, seeds=seeds)
    models = [lsuv.model("LSUV", seed) for seed in seeds]
    for seed, model in zip(seeds, models, strict=True):
        lsuv_(model, batch, generator=torch.Generator().manual_seed(seed))
    parameters = {
        name: torch.stack([model.get_parameter(name).detach() for model in models])
        for name in lsuv.parameters
    }
    return Ensemble.concatenate([rest, replace(lsuv, parameters=parameters)])


def outputs(model, inputs):
    """Return the output of each Linear layer."""
    found, hooks = [], []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            hook = module.register_forward_hook(lambda m, i, out: found.append(out))
            hooks.append(hook)
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return found


relu = partial(mlp, 196, *19 * [32], 10)
starts = {"mixed network": build(Mixed), "ReLU network": build(relu)}

# %%
# The figure shows the mixed network on 1,000 test images, none of which LSUV has seen. On the left
# is the variance over images and units, which LSUV sets; on the right the part of it that tells
# images apart, which is the variance over images of one unit, averaged over units.

start, rows = starts["mixed network"], []
for scheme, seed in product(colors, seeds):
    found = outputs(start.model(scheme, seed), data.test_inputs)
    for layer, out in enumerate(found, start=1):
        rows.append((scheme, seed, layer, "all", out.var().log10().item()))
        between = out.var(dim=0).mean().log10().item()
        rows.append((scheme, seed, layer, "between images", between))
layers = pd.DataFrame(
    rows, columns=["scheme", "seed", "layer", "variance", "value"]
)
means = summarize(layers, by=["variance", "scheme", "layer"])

_, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
for ax, kind in zip(axes, ("all", "between images"), strict=True):
    for scheme, color in colors.items():
        line = means.query("variance == @kind and scheme == @scheme")
        style = {"color": color, "marker": markers[scheme], "markersize": 4}
        ax.plot(
            line["layer"], 10 ** line["mean"], **style, label=look(scheme).label
        )
        low, high = 10 ** line["low"], 10 ** line["high"]
        ax.fill_between(line["layer"], low, high, color=color, alpha=0.2)
    ax.set(title=f"Variance, {kind}", xlabel="layer", yscale="log")
axes[0].axhline(1, color="#8c8c8c", linestyle="--", label="LSUV's aim")
axes[0].legend()
plt.show()

# %%
# Only LSUV keeps the variance level, on new images too. He's :math:`\sqrt 2` is too small for this
# network, and so the signal sinks. PyTorch's default seems level on the left, but what is left
# there are its random biases, the same for every image.

last = means[means["layer"] == 20].set_index(["variance", "scheme"])
assert abs(last.loc[("all", "LSUV"), "mean"]) < 0.1
for scheme in ("torch_default", "he_normal", "orthogonal × √2"):
    assert last.loc[("between images", scheme), "high"] < -2
assert last.loc[("between images", "LSUV"), "low"] > -1

# %%
# Variance 1 is not always a signal
# ---------------------------------
# Without a bias, dividing the weights by :math:`s` divides the output by :math:`s`. So no layer
# needs more than one rescale. Here are chains of 20 layers with four activations
# :math:`\varphi`, as means over ten seeds. But look at the variance between images:

z = torch.special.ndtri(torch.linspace(0, 1, 100_002)[1:-1])  # N(0, 1), quantiles
rows = []
for name, seed in product(["relu", "tanh", "gelu", "sigmoid"], seeds):
    model = mlp(196, *19 * [32], 10, activation=name).double()
    generator = torch.Generator().manual_seed(seed)
    report = lsuv_(model, batch.double(), generator=generator)
    assert len(report.layers) == 20
    assert max(layer.rescales for layer in report.layers) <= 1
    first, *_, last = (
        y.var(dim=0).mean().item() for y in outputs(model, batch.double())
    )
    phi = ACTIVATIONS[name]
    rows.append(
        {
            "activation": phi.label,
            "last layer's variance": report.layers[-1].after,
            "between images": last,
            "factor a layer": (last / first) ** (1 / 19),
            "predicted": (phi.derivative(z) ** 2).mean() / (phi(z) ** 2).mean(),
        }
    )
table = pd.DataFrame(rows).set_index("activation").astype(float).map(np.log)
table = np.exp(table.groupby(level=0, sort=False).mean())
assert table.loc["sigmoid", "between images"] < 1e-12
assert (table.drop("sigmoid")["between images"] > 0.1).all()
table.map("{:.3g}".format)

# %%
# Behind twenty sigmoid layers all images give the same output. What varies there is only the units.
# LSUV gives a layer weights of variance 1 over :math:`n` times the mean of :math:`\varphi(z)^2`, and
# a small difference between two images is multiplied by the slope :math:`\varphi'(z)`. So their
# squared difference should change in every layer by the factor
#
# .. math::
#
#    \frac{\operatorname{mean} \varphi'(z)^2}{\operatorname{mean} \varphi(z)^2},
#    \qquad z \text{ from } N(0, 1),
#
# if the images are nearly alike and the layers wide :cite:p:`schoenholz2017`. Sigmoid is flat, but
# its outputs are all positive, and this common part is what LSUV keeps level. For such an activation
# variance 1 is the wrong aim; :doc:`match_scheme_activation_and_depth` finds the gain that it needs.
#
# Does it train better?
# ---------------------
# Three epochs, in batches of 50, by plain gradient descent (SGD) and by Adam, each at two learning
# rates. Faint dots are seeds, bars 95 % intervals of their mean.

settings = [
    ("SGD", 0.01),
    ("SGD", 0.03),
    ("SGD", 0.1),
    ("Adam", 0.001),
    ("Adam", 0.003),
]
tables = []
for (network, start), (name, lr) in product(starts.items(), settings):
    optimizer = getattr(torch.optim, name)
    history = train(
        start, data, epochs=3, lr=lr, optimizer=optimizer, batch_size=50
    )
    tables.append(history.frame().assign(network=network, optimizer=name, lr=lr))
runs = pd.concat(tables).query("metric == 'accuracy' and step > 0")
runs = runs.fillna({"value": 0.0})  # a run that overflowed gets nothing right
means = summarize(runs, by=["network", "optimizer", "lr", "scheme"])

_, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True)
for ax, network in zip(axes, starts, strict=True):
    for shift, (scheme, color) in enumerate(colors.items()):
        this = "network == @network and scheme == @scheme"
        seen = runs.query(this).groupby(["optimizer", "lr"], sort=False)["value"]
        mean = means.query(this)
        x = np.arange(5) + (shift - 1.5) / 6
        for place, (_, values) in zip(x, seen, strict=True):
            ax.plot(10 * [place], values, ".", color=color, alpha=0.3, markersize=4)
        style = {"fmt": markers[scheme], "color": color, "capsize": 3}
        half = mean["high"] - mean["mean"]
        ax.errorbar(x, mean["mean"], yerr=half, label=look(scheme).label, **style)
    ax.set_xticks(range(5), [f"{name}\n{lr}" for name, lr in settings])
    ax.set(title=network.capitalize(), ylim=(0, 1))
axes[0].set_ylabel("test accuracy")
axes[1].legend(ncols=2, loc="upper center")
plt.show()

# %%
# PyTorch's default is behind LSUV in every column. The other two are compared with LSUV in pairs,
# each start at the best of its learning rates:

for _, column in means.groupby(["network", "optimizer", "lr"]):
    column = column.set_index("scheme")
    assert column.loc["torch_default", "high"] < column.loc["LSUV", "low"]

found = {}
for (network, name), table in runs.groupby(["network", "optimizer"], sort=False):
    best = table.groupby(["scheme", "lr"])["value"].mean().unstack().idxmax(axis=1)
    tuned = table[table["lr"] == table["scheme"].map(best)]
    tuned = tuned[tuned["scheme"] != "torch_default"]
    comparison = compare(tuned, baseline="LSUV")
    found[network, name] = comparison.set_index("a")
    print(f"{network}, {name}. {describe(comparison)}")

for name in ("SGD", "Adam"):
    assert (found["mixed network", name]["high"] < 0).all()
    assert not found["ReLU network", name].loc[formula.name, "real"]

# %%
# In the mixed network the scale from the data pays. With SGD it decides whether the network learns
# much at all. With Adam, whose steps do not shrink with the gradient, it brings a few points.
#
# In the ReLU network no difference is shown between LSUV and the same orthogonal weights with the
# scale from He's formula. Where LSUV is ahead of He's normal weights, the orthogonal weights are,
# too: that is no merit of the data.
#
# What this does not show
# -----------------------
# That LSUV is needed in networks with shortcuts or normalization; their signal depends less on the
# scale of the weights. Nor that no formula could be worked out for the mixed network: LSUV saves
# that work. It does so for the first step only; training moves the weights, and the variances with
# them. And the best learning rate was chosen on the test set, for all starts alike. What if every
# step rescales? That is batch normalization: :doc:`ask_what_batch_norm_changes`.
