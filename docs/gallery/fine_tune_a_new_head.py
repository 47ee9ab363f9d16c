"""
Fine-tune a new head
====================

**A trained network gets a new output layer for new classes. Does it matter how that layer is
initialized?** It should be small, and zeros will do. With 25 images and 100 steps of Adam, weights
from :math:`N(0, 1)` take away what the trained layers bring.

The new layer is called the *head*, and the trained layers below it the *body*. :cite:t:`gfg_init`
says that with a pretrained network you may not need to worry about initialization, for its weights
might be a fine starting point. That gives weights to the body, but none to the head.

*What you need:* ``initguide``, and half a minute.
"""

import math
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
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
from initguide.plotting import look, plot_curves

# Fashion-MNIST as a bad camera would see it.


def noisy(images):
    return images + 0.5 * torch.randn_like(images)


torch.manual_seed(0)
data = datasets.fashion_mnist().map(noisy)
old = data.select_classes(
    ["T-shirt/top", "Trouser", "Pullover", "Sandal", "Ankle boot"]
)
new = data.select_classes(["Dress", "Coat", "Shirt", "Sneaker", "Bag"])
show(data)

# %%
# A body, trained on half of the classes
# --------------------------------------
# Two hidden layers of 100 ReLU units learn five classes under twenty seeds, in 300 steps: one epoch
# of the complete data.

make_model = partial(mlp, 784, 100, 100, 5)
bodies = train(
    Ensemble.build(make_model, schemes=["he_normal"], seeds=range(100, 120)),
    old,
    epochs=300 * 100 // len(old.train_inputs),
    lr=0.001,
    optimizer=torch.optim.Adam,
)
reached = bodies.values["test", "accuracy"][-1]
print(f"accuracy on the old classes: {reached.min():.1%} to {reached.max():.1%}")

# %%
# A new head, in plain PyTorch
# ----------------------------
# There are five images of each new class. The head is replaced, and the two lines with ``nn.init``
# are its initialization.


def five_of_each(seed):
    """Return the new classes with 25 training images, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(new.train_inputs), generator=generator)
    targets = new.train_targets[order]
    rows = torch.cat([order[targets == number][:5] for number in range(5)])
    inputs, targets = new.train_inputs[rows], new.train_targets[rows]
    return replace(new, train_inputs=inputs, train_targets=targets)


few = five_of_each(0)
model = bodies.ensemble.model("he_normal", seed=100)
model.output = nn.Linear(100, 5)
nn.init.zeros_(model.output.weight)
nn.init.zeros_(model.output.bias)

optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
largest = []  # gradient in the body
for _ in range(20):
    for batch in torch.randperm(25).split(5):
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
claim(
    "A head of zeros passes a gradient on to the body, but not in step 1.",
    largest[0] == 0 < largest[1],
)

# %%
# A network of zeros does not learn, but a head of zeros does. Its inputs come from the trained body
# and differ from each other, so its weights get gradients, and different ones.
#
# Four heads, twenty seeds
# ------------------------
# Now each of four heads on twenty bodies, each body with 25 images of its own. The body is either
# frozen, and the head learns alone at a learning rate of 0.01, or trained along, at 0.001. For
# comparison, the same network learns the same images from scratch: He's weights, rate 0.001. All
# use Adam, 100 steps, batches of five.

heads = ["zeros", "torch_default", "he_normal", "standard_normal"]


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
tables = []
for seed in range(20):
    scratch = {"from scratch": "he_normal"}
    starts = {
        "frozen": with_body(build(make_frozen, schemes=heads, seeds=[seed]), seed),
        "trained": with_body(build(make_model, schemes=heads, seeds=[seed]), seed),
        "none": build(make_model, schemes=scratch, seeds=[seed]),
    }
    for body, start in starts.items():
        history = train(
            start,
            five_of_each(seed),
            epochs=20,
            batch_size=5,
            lr=0.01 if body == "frozen" else 0.001,
            optimizer=torch.optim.Adam,
            evaluate_every=10,
        )
        tables.append(history.frame().assign(body=body))
runs = pd.concat(tables)

# %%
# What a head starts with
# -----------------------
# A head that knows nothing should give all five classes the same probability. Its loss is then
# :math:`\ln 5`. Zeros do that. Large random weights are sure of themselves, and wrong.

first = runs[(runs["metric"] == "loss") & (runs["step"] == 0)]
loss = summarize(first[first["body"] == "trained"]).set_index("scheme")["mean"]
claim(
    "The first loss of a head of zeros is the logarithm of 5.",
    abs(loss["zeros"] - math.log(5)),
    below=1e-6,  # float32, near 1.6
)
show(loss[heads].rename(index=lambda name: look(name).label).to_frame("first loss"))

# %%
# Accuracy on the new classes
# ---------------------------
# Bands are 95 % intervals of the mean over seeds. They are wide because each seed has other images.
# That does not blur the comparisons below, which are made seed by seed.

accuracy = runs[(runs["metric"] == "accuracy") & (runs["step"] > 0)]
titles = {
    "frozen": "Body frozen: N(0, 1) has a long way to go",
    "trained": "Body trained: N(0, 1) spoils it",
}
fig, axes = plt.subplots(2, 1, figsize=(6.4, 6.8), sharex=True)
for ax, (body, title) in zip(axes, titles.items(), strict=True):
    plot_curves(accuracy[accuracy["body"].isin([body, "none"])], ax=ax)
    ax.set(title=title, xlabel="step (mini-batches of 5)")
    ax.label_outer()
plt.show()

# %%
# With the body frozen, the loss is convex in the head: no start is a trap, but from a large one the
# way is long. With the body trained, the network can fit its few images by changing the body under
# a head that stays random. After 100 steps, in points of accuracy more than a head of zeros:

end = accuracy[accuracy["step"] == 100]
more = pd.concat(
    {
        body: compare(end[end["body"] == body], baseline="zeros").set_index("a")
        for body in titles
    }
)
heads_than_zeros = more["difference"].unstack()
claim(
    "A head from N(0, 1) ends over 5 points below zeros, body frozen or trained.",
    heads_than_zeros["standard_normal"],
    below=-0.05,
)
claim(
    "A head from He's normal ends over 1 point below zeros, body trained.",
    heads_than_zeros.loc["trained", "he_normal"],
    below=-0.01,
)
claim(
    "PyTorch's default ends less than 2 points above zeros, body frozen or trained.",
    heads_than_zeros["torch_default"],
    below=0.02,
)
table = 100 * more[["difference", "low", "high"]]
show(table.rename(index=lambda name: look(name).label, level=1).round(1))

# %%
# What the body brings
# --------------------
# Trained along, under a head of zeros and under one from :math:`N(0, 1)`, in points of accuracy
# more than the network from scratch:

ends = end[end["body"] != "frozen"]
brings = {
    head: compare(
        ends[ends["scheme"].isin([head, "from scratch"])], baseline="from scratch"
    ).iloc[0]
    for head in ("zeros", "standard_normal")
}
claim(
    "Under a head of zeros a trained body brings over 5 points.",
    brings["zeros"]["difference"],
    above=0.05,
)
claim(
    "Under a head from N(0, 1) it brings less than 2 points.",
    brings["standard_normal"]["difference"],
    below=0.02,
)
table = pd.DataFrame(brings).T[["difference", "low", "high"]].astype(float)
show((100 * table).rename(index=lambda name: look(name).label).round(1))

# %%
# So a pretrained body may be a fine starting point, and the head still has to be initialized:
# small, or with zeros. How each claim of the source fares is told in :doc:`/evidence`.
#
# What this does not show
# -----------------------
# That pretraining always helps: noise and few images make a task in which it does. Both learning
# rates are common ones, not tuned; other rates and more steps may unlearn a large head. Intervals
# are over seeds: they leave out the sampling of the test set. And a seed does not pin a run across
# processors, for rounding grows in training: :doc:`/replication`.
#
# Why a whole network of zeros learns nothing is told in :doc:`break_the_symmetry`.

# sphinx_gallery_start_ignore
findings = {
    "S2.10": more.loc[("trained", "standard_normal")],
    "S2.15": brings["zeros"],
}
# sphinx_gallery_end_ignore
