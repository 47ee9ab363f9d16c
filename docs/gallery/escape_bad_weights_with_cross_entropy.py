r"""
Escape bad weights with cross-entropy
=====================================

**Can another loss rescue a bad start?** Yes. From a weight of -5 and a bias of -10, the squared
error learns nothing but to answer 0; cross-entropy gets every training point right. From PyTorch's
default weights it adds nothing that matters: both losses learn, and their accuracies differ by less
than a point.

Two tutorials, one the sequel of the other, tell the story. The first,
:cite:t:`mlmastery_logistic_init`, trains the bad weights with the squared error. The second,
:cite:t:`mlmastery_cross_entropy`, trains the default weights with cross-entropy, and credits the
loss for the difference. But two things changed at once. Here are all four combinations.

*What you need:* ``initguide``, and ten seconds on one processor core. Why the squared error fails
is told in :doc:`watch_bad_weights_stop_learning`.
"""

from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from torch import nn
from torch.nn import functional as F

from initguide import (
    Ensemble,
    Scheme,
    claim,
    compare,
    datasets,
    evaluate,
    show,
    train,
)
from initguide.models import logistic_regression
from initguide.plotting import look, plot_curves

data = datasets.threshold()
show(data)

# %%
# The missing run, in plain PyTorch
# ---------------------------------
# Forty points on a line, of class 1 if they are above 0.2; a weight, a bias and a sigmoid; batches
# of two points; fifty epochs; stochastic gradient descent with a learning rate of 2. The start is
# the bad one of the first source, the loss that of the second.

x, y = data.train_inputs, data.train_targets
model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())
nn.init.constant_(model[0].weight, -5.0)
nn.init.constant_(model[0].bias, -10.0)


def train_one(loss_function, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=2)
    for _ in range(epochs):
        for inputs, targets in zip(x.split(2), y.split(2), strict=True):
            loss = loss_function(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return ((model(x) > 0.5) == y).double().mean().item()


right = train_one(F.binary_cross_entropy, epochs=50)
print(f"right: {right:.1%} of the points")
claim("From the bad weights, cross-entropy learns all 40 points.", right, equal=1)

# %%
# Two starts, two losses
# ----------------------
# Each combination runs under a hundred seeds. A seed decides what the default draws and the order
# of the batches, which are shuffled here. The test points are a thousand that no run was trained
# on; the second source's "unseen data" are its forty training points.

schemes = ["torch_default", Scheme("bad", weight=-5.0, bias=-10.0)]
ensemble = Ensemble.build(logistic_regression, schemes=schemes, seeds=range(100))
settings = {"epochs": 50, "lr": 2, "batch_size": 2}

tables, seen = [], []
for name, loss in (
    ("cross-entropy", F.binary_cross_entropy),
    ("squared error", F.mse_loss),
):
    history = train(ensemble, data, loss=loss, evaluate_every=5, **settings)
    tables.append(history.frame().assign(loss=name))
    seen.append(evaluate(history.ensemble, x, y).assign(loss=name))
runs, seen = pd.concat(tables), pd.concat(seen).query("metric == 'accuracy'")

by = ["scheme", "loss"]
ax = plot_curves(runs[runs["step"] <= 60], by=by)
ax.set(title="Three of the four learn", xlabel="step (20 are an epoch)")
plt.show()

# %%
# After fifty epochs, in percent, the mean over seeds. The first source ran "bad" with the squared
# error, the second the default with cross-entropy.

last = runs[(runs["metric"] == "accuracy") & (runs["step"] == runs["step"].max())]
table = pd.DataFrame({"test points": last.groupby(by, sort=False)["value"].mean()})
table["training points"] = seen.groupby(by)["value"].mean()
show((100 * table).rename(index=lambda name: look(name).label).round(2))

# %%
# Compared seed by seed, this is what cross-entropy gains over the squared error, with intervals of
# 95 % over seeds, for all pairs at once.

pairs = compare(runs, by=by).set_index(["a", "b"])[["difference", "low", "high"]]
rescue = pairs.loc[("bad, cross-entropy", "bad, squared error")]
gain = pairs.loc[("torch_default, cross-entropy", "torch_default, squared error")]

for start, row in ("bad weights", rescue), ("default", gain):
    mean, low, high = 100 * row
    print(
        f"from the {start}: {mean:+.2f} [{low:+.2f}, {high:+.2f}] points of accuracy"
    )
claim(
    "From the bad weights, cross-entropy gains more than 30 points.",
    rescue["difference"],
    above=0.3,
)
claim(
    "From the default, the two losses differ by less than 1 point.",
    abs(gain["difference"]),
    below=0.01,
)

# %%
# The second source says more: with "these parameter values" the squared error did not converge. But
# the values that it prints are not the bad ones. From its own, the squared error does learn:

nn.init.constant_(model[0].weight, -0.0075)
nn.init.constant_(model[0].bias, 0.5364)
own = train_one(F.mse_loss, epochs=50)
print(f"right, with the squared error: {own:.1%} of the points")

# %%
# Why: the slope cancels
# ----------------------
# A point :math:`x` of class :math:`y`, 0 or 1, gets the answer :math:`p = \sigma(z)`, where
# :math:`z = wx + b` and :math:`\sigma` is the sigmoid. Cross-entropy is :math:`-\log p` for class 1
# and :math:`-\log(1 - p)` for class 0. Its derivative with respect to :math:`p` is
# :math:`(p - y) / (p(1 - p))`, which is just what cancels the sigmoid's slope :math:`p(1 - p)`:
#
# .. math::
#
#    \text{squared error:}\quad \frac{\partial\ell}{\partial w} = 2(p - y) \, p(1 - p) \, x
#    \qquad
#    \text{cross-entropy:}\quad \frac{\partial\ell}{\partial w} = (p - y) \, x,
#
# where :math:`\ell` is the loss. With cross-entropy, the more a point is wrong, the more it pulls.
#
# Cross-entropy is no trick for that purpose. The model gives class 1 the probability :math:`p`, so
# it gives the labels together the *likelihood* :math:`\prod p^y (1 - p)^{1 - y}`. Minus its
# logarithm is the sum of the cross-entropies: to lower one is to raise the other. This is the
# maximum likelihood estimation that the first source announces.
#
# A computer rounds, though. The figure shows the gradient at a point of class 0 in the 32 bits that
# networks use. For large :math:`z`, :math:`p` is rounded to 1 and the sigmoid's slope to 0, so
# nothing is left to cancel. The third loss takes :math:`z`, the *logit*, instead of :math:`p`. It
# computes the sigmoid and the logarithm in one step, and keeps its gradient.

losses = {  # what follows the linear layer, and the loss
    "squared error": (nn.Sigmoid(), F.mse_loss),
    "cross-entropy": (nn.Sigmoid(), F.binary_cross_entropy),
    "cross-entropy of logits": (nn.Identity(), F.binary_cross_entropy_with_logits),
}
looks = ["#D55E00", "-"], ["#0072B2", "-"], ["#009E73", "--"]

z = torch.linspace(-10, 40, 501, requires_grad=True)
pull = {}
ax = plt.gca()
for (name, (output, loss)), (color, dashes) in zip(
    losses.items(), looks, strict=True
):
    total = loss(output(z), torch.zeros_like(z), reduction="sum")
    (pull[name],) = torch.autograd.grad(total, z)
    ax.semilogy(z.detach(), pull[name], dashes, color=color, label=name)
ax.set(xlabel="logit z (the larger, the more wrong)", ylim=(1e-8, 9))
ax.set_ylabel("size of the gradient at x = 1")
ax.set_title("Cross-entropy keeps pulling where the answer is wrong")
ax.legend(loc="lower right")
plt.show()

p = z.detach().sigmoid()
formula = {"squared error": 2 * p * p * (1 - p), "cross-entropy of logits": p}
errors = [(pull[name] - formula[name]).abs().max() for name in formula]
errors.append((pull["cross-entropy"] - p)[p < 1].abs().max())
# The gradients are below 1; a float32 has 24 bits, and a few of the last are rounding.
claim("Autograd's gradients are those of the formulas.", errors, below=1e-5)
claim(
    "Behind a sigmoid that is rounded to 1, the gradient is exactly 0.",
    pull["cross-entropy"][p == 1],
    equal=0,
)
print(f"p is rounded to 1 from z = {z[p == 1][0]:.1f} on.")

# %%
# Which starts does it save?
# --------------------------
# Each map has 1,886 starts. Blue ones get all forty training points right; the cross is the
# sources' bad start. To train on logits, leave the sigmoid out of the model, and take
# ``F.binary_cross_entropy_with_logits`` as the loss.

grid = [(w, b) for w in range(-20, 26) for b in range(-20, 21)]
starts = [Scheme(f"{w}, {b}", weight=w, bias=b) for w, b in grid]
colors = ListedColormap(["#D55E00", "#0072B2"])
area = {"extent": (-20.5, 25.5, -20.5, 20.5), "origin": "lower"}

shares = []
_, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True)
for ax, (name, (output, loss)) in zip(axes, losses.items(), strict=True):
    make_model = partial(nn.Sequential, nn.Linear(1, 1), output)
    ensemble = Ensemble.build(make_model, schemes=starts, seeds=[0])
    history = train(ensemble, data, loss=loss, batch_order="sequential", **settings)
    end = evaluate(history.ensemble, x, y, loss=loss).query("metric == 'accuracy'")
    learned = (end["value"] == 1).to_numpy()
    shares.append(learned.mean())
    image = learned.reshape(46, 41).T
    ax.imshow(image, cmap=colors, vmin=0, vmax=1, alpha=0.35, **area)
    ax.plot(-5, -10, "X", color="#D55E00")
    ax.set(title=f"{shares[-1]:.1%}: {name}", xlabel="weight at the start")
axes[0].set_ylabel("bias at the start")
plt.show()
claim("Cross-entropy of logits saves every start of the map.", shares[2], equal=1)

# %%
# Cross-entropy behind a sigmoid fails in a corner at the top, where :math:`p` is rounded to 1. (At
# the bottom it is near 0, where 32 bits resolve far smaller differences.) On logits no start of the
# map fails. Use that one.
#
# No minimum to converge to
# -------------------------
# The second source says that its loss converges to a minimum. There is none. Once all points are
# right, twice the weight and twice the bias make every answer surer and the loss smaller, without
# end. It is so whenever a model like this can separate the classes. The run from the source's own
# values:

table = pd.DataFrame(columns=["weight", "bias", "mean loss"])
nn.init.constant_(model[0].weight, -0.0075)
nn.init.constant_(model[0].bias, 0.5364)
done = 0
for epochs in (50, 200, 1000):
    train_one(F.binary_cross_entropy, epochs=epochs - done)
    done = epochs
    mean = F.binary_cross_entropy(model(x), y)
    table.loc[epochs] = [model[0].weight.item(), model[0].bias.item(), mean.item()]
further = table.loc[1000] / table.loc[50]
claim(
    "From epoch 50 to epoch 1,000, the loss falls by more than half.",
    further["mean loss"],
    below=0.5,
)
# sphinx_gallery_start_ignore
is_source = (seen["scheme"] == "torch_default") & (seen["loss"] == "cross-entropy")
source_test = torch.arange(-2, 2, 0.1).view(-1, 1)
findings = {
    "S0.11": rescue,
    "S1.1": seen.loc[is_source, "value"].mean(),
    "S1.2": gain,
    "S1.3": torch.isclose(source_test, x.T).any(dim=1).sum().item(),
    "S1.4": own,
    "S1.5": further["mean loss"],
}
# sphinx_gallery_end_ignore
show(table.rename_axis("epoch"))

# %%
# What this does not show
# -----------------------
# Cross-entropy cancels the slope of the sigmoid it is applied to, and of no other. A saturated unit
# in a hidden layer has hardly any gradient, whatever the loss; see
# :doc:`watch_activations_saturate_and_die`. There the start is what counts.
#
# All claims of the two sources: :doc:`/evidence`. How far the numbers move with other seeds and on
# other processors: :doc:`/replication`.
