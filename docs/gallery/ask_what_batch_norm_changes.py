r"""
Ask what batch normalization changes
====================================

**With batch normalization, does the initialization still matter?** Less. In ten ReLU layers He's
weights and PyTorch's default end far apart without it and closer with it, at each of four learning
rates. The size of the weights then acts like a learning rate: what remains between Xavier and He is
a matter of the rate.

:cite:t:`gfg_init` says that batch normalization lowers the dependence on the initialization, and
that Xavier might then be useful. Both are right, and He's is as useful at twice the rate.

*What you need:* ``initguide``, and half a minute.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import (
    Ensemble,
    claim,
    compare,
    datasets,
    mlp,
    show,
    summarize,
    train,
)
from initguide.plotting import look

# Part of the digits, at half the size: many deep networks are to be trained.
data = datasets.mnist().first(4000, 1000).map(F.avg_pool2d, 2)
show(data)

# %%
# Three schemes, with and without
# -------------------------------
# Ten hidden layers of 64 ReLU units, with ``nn.BatchNorm1d`` before each ReLU or without it. It
# subtracts from each unit its mean over the batch and divides by its standard deviation. Batches of
# 50, four epochs of plain stochastic gradient descent, and four learning rates, for the rate will
# turn out to be part of the answer.

schemes = ["torch_default", "xavier_normal", "he_normal"]
rates = [0.01, 0.03, 0.1, 0.3]


def reach(lr, batch_norm, schemes=schemes):
    """Train each scheme under ten seeds and return the test accuracies."""
    make_model = partial(mlp, 196, *10 * [64], 10, batch_norm=batch_norm)
    ensemble = Ensemble.build(make_model, schemes=schemes, seeds=range(10))
    runs = train(ensemble, data, epochs=4, lr=lr, batch_size=50).frame()
    runs = runs[runs["step"] == runs["step"].max()].drop(columns="step")
    runs = runs[runs["metric"] == "accuracy"]
    runs = runs.fillna({"value": 0.0})  # a run that overflowed gets nothing right
    return runs.assign(lr=lr, batch_norm=batch_norm)


runs = pd.concat(reach(lr, norm) for norm in (False, True) for lr in rates)

fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.0), sharey=True)
for ax, norm in zip(axes, (False, True), strict=True):
    means = summarize(runs[runs["batch_norm"] == norm], by=["scheme", "lr"])
    for name, line in means.groupby("scheme", sort=False):
        style = {"color": look(name).color, "marker": look(name).marker}
        half = line["high"] - line["mean"]  # of the 95 % interval
        ax.errorbar(line["lr"], line["mean"], half, label=look(name).label, **style)
    ax.set_xscale("log")
    ax.set_xticks(rates, [str(rate) for rate in rates])
    ax.minorticks_off()
    ax.set(xlabel="learning rate", ylim=(0, 1))
axes[0].set(ylabel="test accuracy", title="Without: far apart")
axes[1].set(title="With: closer, at each rate")
axes[1].legend(loc="lower right")
plt.show()

# %%
# The dependence shrinks at every rate
# ------------------------------------
# In points of accuracy: He's lead over PyTorch's default without batch normalization and with it,
# and by how much the gap between them, whoever leads, is smaller with it.

wide = runs.pivot(
    index=["batch_norm", "lr", "seed"], columns="scheme", values="value"
)
lead = (wide["he_normal"] - wide["torch_default"]).unstack(["batch_norm", "lr"])
leads = lead.mean().unstack("batch_norm")
smaller = leads[False].abs() - leads[True].abs()
claim(
    "At each rate batch norm shrinks the gap between He and default by over 10 points.",
    smaller,
    above=0.1,
)
table = leads.rename(columns={False: "He's lead without", True: "with"})
table = table.assign(**{"gap smaller by": smaller})
show((100 * table).rename_axis("learning rate").round(1))

# %%
# At the smallest rate a gap remains, in the opposite order: PyTorch's default, which has the
# smallest weights and was far behind before, is now ahead of He.

claim(
    "With batch norm, rate 0.01, PyTorch's default ends over 10 points above He.",
    -leads.loc[0.01, True],
    above=0.1,
)

# %%
# Are small weights better?
#
# The size of the weights is a learning rate
# ------------------------------------------
# Multiply the weights of a normalized layer by :math:`c`. Batch normalization divides the output by
# :math:`c` again, so nothing changes. But the gradient becomes :math:`1/c` times as large, while
# the weights are :math:`c` times as large: a step changes them, relative to their size, by only
# :math:`1/c^2`. A learning rate :math:`c^2` times as large makes up for that.
#
# He's weights are LeCun's times :math:`c = \sqrt 2`. So He at twice the rate should take the very
# same path as LeCun. In plain PyTorch:


def losses(gain, lr):
    """Return each batch's loss; gain and rate are those of the hidden weights."""
    torch.manual_seed(0)
    model = mlp(196, *10 * [64], 10, batch_norm=True).double()
    hidden, others = [], list(model.output.parameters())
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.eps = 1e-12  # added to the variance, whatever c is: 1e-5 shows
            others += layer.parameters()
        elif isinstance(layer, nn.Linear) and layer is not model.output:
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            hidden.append(layer.weight)
    groups = [{"params": hidden, "lr": lr}, {"params": others, "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    path = []
    for batch in torch.randperm(4000).split(50):
        outputs = model(data.train_inputs[batch].double())
        loss = F.cross_entropy(outputs, data.train_targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(loss.item())
    return np.array(path)


lecun = losses(1.0, lr=0.1)
he_twice = losses(2**0.5, lr=0.2)
he_same = losses(2**0.5, lr=0.1)

purple, orange = look("lecun_normal").color, look("he_normal").color
plt.plot(lecun, color=purple, linewidth=4, alpha=0.5, label="LeCun, rate 0.1")
plt.plot(he_twice, color=orange, label="He, rate 0.2")
plt.plot(he_same, ":", color=orange, label="He, rate 0.1")
plt.title("Twice the variance at twice the rate: the same path")
plt.xlabel("step")
plt.ylabel("loss of the mini-batch")
plt.legend()
plt.show()

claim(
    "LeCun at rate 0.1 and He at 0.2 have the same losses, step by step.",
    abs(he_twice - lecun).max(),
    below=1e-6,  # double precision, whose rounding grows over 80 steps; and eps
)
claim(
    "He at the same rate takes another path.", abs(he_same - lecun).max(), above=0.1
)

# %%
# Then use Xavier?
# ----------------
# Where a layer has as many outputs as inputs, Xavier is LeCun. To compare it with He at one
# learning rate is therefore to compare learning rates. So He gets twice the rate. Here that is the
# rate of all weights, though the output layer feeds no normalization, and would not ask for it. In
# points of accuracy:

fair = pd.concat(
    [
        runs[runs["batch_norm"] & (runs["lr"] == 0.1)],
        reach(0.2, batch_norm=True, schemes=["he_normal"]).assign(
            scheme="He at 0.2"
        ),
    ]
)
fair = fair[fair["scheme"].isin(["xavier_normal", "He at 0.2"])]
pair = compare(fair, baseline="He at 0.2").iloc[0]
slow = runs[runs["batch_norm"] & (runs["lr"] == 0.01)]
slow = slow[slow["scheme"] != "torch_default"]
slow = compare(slow, baseline="he_normal").iloc[0]
claim(
    "Xavier at rate 0.1 and He at 0.2 end within 2 points of each other.",
    abs(pair["difference"]),
    below=0.02,
)
claim(
    "With both at a rate of 0.01 Xavier ends over 4 points above He.",
    slow["difference"],
    above=0.04,
)
table = pd.DataFrame(
    {"He at twice the rate (0.1, 0.2)": pair, "both at 0.01": slow}
).T
table = table[["difference", "low", "high"]].astype(float)
show((100 * table).rename_axis("Xavier minus He").round(1))

# %%
# What this does not show
# -----------------------
# Other depths, batch sizes and activations. The rule of the rate holds for weights that feed a
# normalization and for plain stochastic gradient descent. The output layer feeds none and still
# wants a gain of 1. In much deeper networks batch normalization can make gradients explode.
# Intervals are over seeds: they leave out the sampling of the test set. And a seed does not pin a
# run across processors, for rounding grows in training: :doc:`/replication`. How each claim of the
# source fares is told in :doc:`/evidence`.
#
# In a network that has been trained already, only a new output layer is left to initialize:
# :doc:`fine_tune_a_new_head`.

# sphinx_gallery_start_ignore
shrinks = (lead[False][0.1].abs() - lead[True][0.1].abs()).rename("value")
findings = {
    "S2.8": summarize(shrinks.reset_index().assign(scheme="he_normal")).iloc[0],
    "S2.9": pair,
}
# sphinx_gallery_end_ignore
