r"""
Escape bad weights with cross-entropy
=====================================

**Can another loss rescue a bad start?** Yes, if the start is what is wrong. From a weight of -5
and a bias of -10, where the squared error learns nothing but to answer 0, cross-entropy gets
every point right. From PyTorch's default weights it has nothing to add: both losses get there.

:cite:t:`mlmastery_logistic_init` trains the bad weights with the squared error,
:cite:t:`mlmastery_cross_entropy` the default weights with cross-entropy, and credits the loss for
the difference. But two things changed at once. Here are all four combinations.

*What you need:* ``initguide``, and half a minute on one processor core. The page before this one, on
bad weights that stop learning, says why the squared error fails.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from torch import nn
from torch.nn import functional as F

from initguide import Ensemble, Scheme, datasets, evaluate, train
from initguide.models import logistic_regression
from initguide.plotting import look, plot_curves
from initguide.statistics import compare, describe, summarize

data = datasets.threshold()
data

# %%
# The missing run, in plain PyTorch
# ---------------------------------
# Forty points on a line, class 1 above 0.2; a weight, a bias and a sigmoid; batches of two points;
# fifty epochs; stochastic gradient descent with a learning rate of 2. The start is the bad one of
# the first source, the loss that of the second.

x, y = data.train_inputs, data.train_targets
model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())
nn.init.constant_(model[0].weight, -5.0)
nn.init.constant_(model[0].bias, -10.0)

optimizer = torch.optim.SGD(model.parameters(), lr=2)
for _ in range(50):
    for inputs, targets in zip(x.split(2), y.split(2), strict=True):
        loss = F.binary_cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

right = ((model(x) > 0.5) == y).double().mean().item()
print(f"right: {right:.1%} of the points")
assert right == 1

# %%
# Two starts, two losses
# ----------------------
# Each combination runs under a hundred seeds. A seed decides the order of the batches, shuffled
# here, and what the default draws; the bad start is the same for all. The test points are a
# thousand that no run has trained on; the source's "unseen data" are its forty training points.

schemes = ["torch_default", Scheme("bad", weight=-5.0, bias=-10.0)]
both = Ensemble.build(logistic_regression, schemes=schemes, seeds=range(100))
rule = dict(epochs=50, lr=2, batch_size=2)

tables, seen = [], []
for name, loss in ("cross-entropy", F.binary_cross_entropy), ("MSE", F.mse_loss):
    history = train(both, data, loss=loss, evaluate_every=5, **rule)
    tables.append(history.frame().assign(loss=name))
    seen.append(evaluate(history.ensemble, x, y).assign(loss=name))
runs, seen = pd.concat(tables), pd.concat(seen).query("metric == 'accuracy'")

by = ["scheme", "loss"]
ax = plot_curves(runs[runs["step"] <= 60], by=by)
ax.set(title="Three of the four learn", xlabel="step (20 are an epoch)")
plt.show()

# %%
# After fifty epochs, in percent: the mean over seeds on the test points, its 95 % interval from
# ``low`` to ``high``, and the mean on the points that were trained on.
# The two sources ran the last row and the first: they differ in the start and in the loss.

last = runs[(runs["metric"] == "accuracy") & (runs["step"] == runs["step"].max())]
table = 100 * summarize(last, by=by).set_index(by)[["mean", "low", "high"]]
table["trained on"] = 100 * seen.groupby(by)["value"].mean()
table.rename(index=lambda name: look(name).label).round(2)

# %%
comparison = compare(runs, by=by)
print(describe(comparison))

# %%
# With a hundred seeds, a difference can be real and of no use. The forty points only tell that
# class 1 begins between 0.2 and 0.3. Where in this gap a run puts the boundary is worth up to the
# share of the test points in it; a gain in accuracy that matters is larger.

gap = ((data.test_inputs > 0.2) & (data.test_inputs < 0.3)).double().mean().item()
pairs = comparison.set_index(["a", "b"])[["difference", "low", "high"]]
gain = pairs.loc[("torch_default, cross-entropy", "torch_default, MSE")]
rescue = pairs.loc[("bad, cross-entropy", "bad, MSE")]
print("What cross-entropy gains over the squared error, in points of accuracy:")
print(f"{100 * rescue['difference']:+.2f} from the bad weights,")
print(f"{100 * gain['difference']:+.2f} from the default.")
print(f"The gap is worth {100 * gap:.2f}.")
assert gain.abs().max() < gap < rescue.min()

# %%
# Why: the slope cancels
# ----------------------
# With :math:`z = wx + b` and :math:`p = \sigma(z)`, cross-entropy is :math:`-\log p` for a point of
# class 1 and :math:`-\log(1 - p)` for one of class 0. Its derivative by :math:`p` is
# :math:`(p - y) / (p(1 - p))`: just what cancels the sigmoid's slope :math:`p(1 - p)`.
#
# .. math::
#
#    \text{squared error:}\quad \frac{\partial\ell}{\partial w} = 2(p - y) \, p(1 - p) \, x
#    \qquad
#    \text{cross-entropy:}\quad \frac{\partial\ell}{\partial w} = (p - y) \, x
#
# The more a point is wrong, the more it pulls. Below is what autograd makes of this for a point of
# class 0 at :math:`x = 1`, in the 32 bits that networks use. Far out, :math:`p` rounds to 1, the
# sigmoid's slope to 0, and nothing is left to cancel. The third loss computes the sigmoid
# and the logarithm in one step from :math:`z`, the *logit*, and keeps its gradient.

z = torch.linspace(-10, 40, 501)
class_0 = torch.zeros_like(z)
losses = {
    "squared error": F.mse_loss,
    "cross-entropy": F.binary_cross_entropy,
    "cross-entropy of logits": F.binary_cross_entropy_with_logits,
}
looks = ["#D55E00", "-"], ["#0072B2", "-"], ["#009E73", "--"]

ax = plt.gca()
pull = {}
for (name, loss), (color, dashes) in zip(losses.items(), looks, strict=True):
    logits = z.clone().requires_grad_()
    outputs = logits if "logits" in name else logits.sigmoid()
    loss(outputs, class_0, reduction="sum").backward()
    pull[name] = logits.grad
    ax.semilogy(z, pull[name], dashes, color=color, label=name)
ax.set(xlabel="logit z (the larger, the more wrong)", ylim=(1e-8, 9))
ax.set_ylabel("size of the gradient")
ax.set_title("Cross-entropy keeps pulling where the answer is wrong")
ax.legend(loc="lower right")
plt.show()

# y is 0 and x is 1: the formulas, up to the rounding of p
p = z.sigmoid()
torch.testing.assert_close(pull["squared error"], 2 * p * p * (1 - p))
torch.testing.assert_close(pull["cross-entropy"][p < 1], p[p < 1])
torch.testing.assert_close(pull["cross-entropy of logits"], p)
assert (pull["cross-entropy"][p == 1] == 0).all()
print(f"Behind a sigmoid the gradient is exactly 0 from z = {z[p == 1][0]:.1f} on.")

# %%
# Which starts does it save?
# --------------------------
# The map of the page before, 1,886 starts, for each of the three losses. To train on logits, leave
# the sigmoid out of the model: ``nn.Linear(1, 1)`` and ``F.binary_cross_entropy_with_logits``.

weights, biases = map(np.ravel, np.mgrid[-20:26, -20:21].astype(float))
starts = {(w, b): Scheme("", w, b) for w, b in zip(weights, biases, strict=True)}
outcome = ListedColormap(["#D55E00", "#0072B2"])

learned = {}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True)
for ax, (name, loss) in zip(axes, losses.items(), strict=True):
    make = partial(nn.Linear, 1, 1) if "logits" in name else logistic_regression
    grid = Ensemble.build(make, schemes=starts, seeds=[0])
    history = train(grid, data, loss=loss, batch_order="sequential", **rule)
    end = evaluate(history.ensemble, x, y, loss=loss).query("metric == 'accuracy'")
    learned[name] = (end["value"] == 1).to_numpy()
    colors = outcome(learned[name].reshape(46, 41).T * 1)
    ax.imshow(colors, origin="lower", extent=(-20.5, 25.5, -20.5, 20.5), alpha=0.35)
    ax.plot(-5, -10, "X", color="#D55E00")
    ax.set_title(f"{learned[name].mean():.1%}: {name}")
    ax.set_xlabel("weight at the start")
axes[0].set_ylabel("bias at the start")
plt.show()

# %%
# Blue starts get all forty points right, the cross is the sources' bad one. Cross-entropy behind a
# sigmoid leaves a corner, at the top: there :math:`p` has rounded to 1. (Near 0, small numbers are
# not rounded away.) On logits no start of the map fails. Use that one.

shares = [each.mean() for each in learned.values()]
assert shares[0] < shares[1] < shares[2] == 1

# %%
# What this page found of the source's claims; the page on evidence collects them:

is_source = (seen["scheme"] == "torch_default") & (seen["loss"] == "cross-entropy")
source_seen = seen.loc[is_source, "value"]
source_test = torch.arange(-2, 2, 0.1).view(-1, 1)
repeated = torch.isclose(source_test, x.T).any(dim=1).sum().item()

if gain["low"] > 0:
    better = "holds"
elif rescue["low"] > 0:
    better = "holds with conditions"
else:
    better = "wrong" if gain["high"] < 0 else "noise"
same = "holds" if (source_seen == 1).all() else "wrong"
found = {  # verdict, value, interval
    "S1.1": (same, source_seen.mean(), None, None),
    "S1.2": (better, *gain[["difference", "low", "high"]]),
    "S1.3": ("wrong" if repeated else "holds", repeated, None, None),
}
columns = ["verdict", "value", "low", "high"]
findings = pd.DataFrame(found, index=columns).to_dict()
pd.DataFrame(findings).T

# %%
# What this does not show
# -----------------------
# Cross-entropy cancels the slope of the sigmoid that it sits on, and of no other. A saturated unit
# in a hidden layer has no gradient under any loss: the next page watches activations saturate and
# die. There the start is what counts.
