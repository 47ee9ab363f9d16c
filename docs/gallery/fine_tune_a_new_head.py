"""
Fine-tune a new head
====================

**A trained network gets a new output layer for new classes. Does it matter how that layer is
initialized?** Only that the numbers are small; zeros will do. Between small ones ten seeds show no
difference. Weights from :math:`N(0, 1)` cost so much that the network ends below one that was never
trained before.

The new layer is called the *head*, and the trained layers below it the *body*. :cite:t:`gfg_init`
advises starting from a trained network. That gives weights to the body, but none to the head.

*What you need:* ``initguide``, and half a minute on two processor cores.
"""

import math
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from initguide import Ensemble, compare, datasets, describe, mlp, summarize, train
from initguide.plotting import look, plot_curves

data = datasets.fashion_mnist()
old = data.select_classes(
    ["T-shirt/top", "Trouser", "Pullover", "Sandal", "Ankle boot"]
)
new = data.select_classes(["Dress", "Coat", "Shirt", "Sneaker", "Bag"])
data

# %%
# A body, trained on half of the classes
# --------------------------------------
# Two hidden layers of 100 ReLU units learn five classes under ten seeds, in 900 steps: three epochs
# of the complete data.

make_model = partial(mlp, 784, 100, 100, 5)
bodies = train(
    Ensemble.build(make_model, schemes=["he_normal"], seeds=range(100, 110)),
    old,
    epochs=900 * 100 // len(old.train_inputs),
    lr=0.001,
    optimizer=torch.optim.Adam,
)
reached = bodies.values["test", "accuracy"][-1]
print(f"accuracy on the old classes: {reached.min():.1%} to {reached.max():.1%}")

# %%
# A new head, in plain PyTorch
# ----------------------------
# There are ten images of each new class. The head is replaced, and the two lines with ``nn.init``
# are its initialization.


def ten_of_each(seed):
    """Return the new classes with fifty training images, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(new.train_inputs), generator=generator)
    targets = new.train_targets[order]
    rows = torch.cat([order[targets == number][:10] for number in range(5)])
    inputs, targets = new.train_inputs[rows], new.train_targets[rows]
    return replace(new, train_inputs=inputs, train_targets=targets)


few = ten_of_each(0)
model = bodies.ensemble.model("he_normal", seed=100)
model.output = nn.Linear(100, 5)
nn.init.zeros_(model.output.weight)
nn.init.zeros_(model.output.bias)

torch.manual_seed(0)
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
largest = []  # gradient in the body
for _ in range(40):
    for batch in torch.randperm(50).split(10):
        loss = F.cross_entropy(
            model(few.train_inputs[batch]), few.train_targets[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        largest.append(model.hidden2.weight.grad.abs().max().item())
        optimizer.step()

with torch.no_grad():
    right = model(new.test_inputs).argmax(dim=1) == new.test_targets
print(f"accuracy on the new classes: {right.double().mean():.1%}")
print(f"largest gradient in the body, step 1: {largest[0]}, 2: {largest[1]:.1g}")
assert largest[0] == 0 < largest[1]

# %%
# A network of zeros does not learn, but a head of zeros does. Its inputs come from the trained body
# and differ from each other, so its weights get gradients, and different ones. Only in the first
# step does it pass no gradient on to the body.
#
# Five heads, ten seeds
# ---------------------
# Now each of five heads on ten bodies, each body with fifty images of its own. The body is either
# frozen, and the head learns alone at a learning rate of 0.01, or trained along, at 0.001. For
# comparison, the same network learns the same images from scratch.

heads = ["zeros", "torch_default", "lecun_normal", "he_normal", "standard_normal"]


def make_frozen():
    model = make_model()
    model.hidden1.requires_grad_(False)
    model.hidden2.requires_grad_(False)
    return model


def with_body(ensemble, seed):
    """Put the trained body of that seed, which build has overwritten, under each head."""
    trained = bodies.ensemble.model("he_normal", seed=100 + seed).state_dict()
    parameters = {
        name: own if name.startswith("output") else trained[name].expand_as(own)
        for name, own in ensemble.parameters.items()
    }
    return replace(ensemble, parameters=parameters)


build = Ensemble.build
tables, shares = [], []
for seed in range(10):
    starts = {
        "frozen": with_body(build(make_frozen, schemes=heads, seeds=[seed]), seed),
        "trained": with_body(build(make_model, schemes=heads, seeds=[seed]), seed),
        "none": build(
            make_model, schemes={"from scratch": "he_normal"}, seeds=[seed]
        ),
    }
    for body, start in starts.items():
        history = train(
            start,
            ten_of_each(seed),
            epochs=40,
            batch_size=10,
            lr=0.01 if body == "frozen" else 0.001,
            optimizer=torch.optim.Adam,
            evaluate_every=20,
        )
        tables.append(history.frame().assign(body=body))
        before, after = start.parameters, history.ensemble.parameters
        if body == "frozen":  # it is the trained body, and it has not moved
            trained = bodies.ensemble.parameters["hidden2.weight"][seed]
            assert (after["hidden2.weight"] == trained).all()
        before, after = (
            each["output.weight"].flatten(1) for each in (before, after)
        )
        share = (after - before).norm(dim=1) / after.norm(dim=1)
        share = pd.DataFrame({"scheme": start.schemes, "value": share})
        shares.append(share.assign(seed=seed, body=body))
runs = pd.concat(tables)

# %%
# What a head starts with, and what stays
# ---------------------------------------
# A head that knows nothing should give all five classes the same probability. Its loss is then
# :math:`\ln 5`. Zeros do that. The larger the random weights, the higher the loss begins. The other
# columns tell how much of the head is learned in the end: the size of its change, relative to its
# own size. Of a head from :math:`N(0, 1)` it is the least. The rest is still the random draw.

first = runs[(runs["metric"] == "loss") & (runs["step"] == 0)]
loss = summarize(first[first["body"] == "trained"]).set_index("scheme")
learned = summarize(pd.concat(shares), by=["body", "scheme"])
learned = learned.set_index(["body", "scheme"])

small = heads[:-1]
assert abs(loss.loc["zeros", "mean"] - math.log(5)) < 1e-6  # float32
assert loss.loc[heads, "mean"].is_monotonic_increasing
assert loss.loc["standard_normal", "low"] > loss.loc[small, "high"].max()
for body in ("frozen", "trained"):
    of = learned.loc[body]
    assert of.loc["standard_normal", "high"] < of.loc[small, "low"].min()

table = {"first loss": loss["mean"]}
for body in ("frozen", "trained"):
    table[f"learned, body {body}"] = learned.loc[body, "mean"]
pd.DataFrame(table).loc[heads].rename(index=lambda name: look(name).label).round(3)

# %%
# Accuracy on the new classes
# ---------------------------
# Bands are 95 % intervals of the mean over seeds. They are wide because each seed has other images.
# That does not blur the comparisons below, which are made seed by seed.

accuracy = runs[(runs["metric"] == "accuracy") & (runs["step"] > 0)]
titles = {
    "frozen": "Body frozen: N(0, 1) has a long way to go",
    "trained": "Body trained: N(0, 1) ends below 'from scratch'",
}
fig, axes = plt.subplots(2, 1, figsize=(6.4, 6.8), sharex=True)
for ax, (body, title) in zip(axes, titles.items(), strict=True):
    plot_curves(accuracy[accuracy["body"].isin([body, "none"])], ax=ax)
    ax.set(title=title, xlabel="step (mini-batches of 10)")
    ax.label_outer()
plt.show()

# %%
# With the body frozen, the loss is convex in the head: no start is a trap, but from a large one the
# way is long. With the body trained, the network fits the images by changing the body under a head
# that stays random. What a large head costs, in points of accuracy: the mean of the four small ones
# minus :math:`N(0, 1)`.

wide = accuracy[accuracy["body"] != "none"].pivot(
    index=["body", "step", "seed"], columns="scheme", values="value"
)
cost = (wide[small].mean(axis=1) - wide["standard_normal"]).rename("value")
cost = summarize(cost.reset_index(), by="body").set_index(["body", "step"])
cost = cost.loc[[(body, step) for body in titles for step in (20, 200)]]
assert (cost["low"] > 0).all()
(100 * cost[["mean", "low", "high"]]).round(2)

# %%
# In the end, with the body trained, the choice between small heads is free. A large one loses more
# than the body brings:

end = accuracy[(accuracy["body"] != "frozen") & (accuracy["step"] == 200)]
small_and_none = compare(end[end["scheme"] != "standard_normal"])
print(describe(small_and_none))
assert not small_and_none["real"].any()

two = end[end["scheme"].isin(["standard_normal", "from scratch"])]
below = compare(two, baseline="from scratch").iloc[0]
print(f"N(0, 1) minus from scratch: {100 * below['difference']:.1f} points")
assert below["high"] < 0

# %%
# What this page found; :doc:`/evidence` says what the claim is.

two = end[end["scheme"].isin(["torch_default", "from scratch"])]
default = compare(two, baseline="from scratch").iloc[0]
value, low, high = cost.loc[("trained", 200), ["mean", "low", "high"]]
if low <= 0:
    verdict = "holds"  # no head costs anything
elif default["high"] >= 0:
    verdict = "holds with conditions"  # some do, and PyTorch's default does not
else:
    verdict = "wrong"
findings = {"S2.10": {"verdict": verdict, "value": value, "low": low, "high": high}}
pd.DataFrame(findings).T

# %%
# What this does not show
# -----------------------
# That pretraining is of no use. No gain is shown in the end, but the network is small, the images
# are simple, and fifty of them go far. Another network, other classes or fewer images may say
# otherwise. Another learning rate may, too: a larger one unlearns a large head sooner. Why a whole
# network of zeros learns nothing is told in :doc:`break_the_symmetry`.
