"""
Initialize a model you did not write
====================================

**You take a model from a library. How do you initialize all of it, and what is left?** One call
fills every matrix as if it stood alone, and prints a table of what it did to each parameter and why
it left others alone.

A real model packs several matrices into one tensor, clones layers, shares weights and freezes some.
An initializer that sees only tensors gets the sizes of such layers wrong without a word. Three
models show it here: a residual network, an encoder-decoder, and a trained body with new heads.

*What you need:* ``initguide``, and a few seconds.
"""

import copy
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torchvision
from torch import nn

from initguide import claim, initialize_, show
from initguide.plotting import look

# %%
# A residual network
# ------------------
# In plain PyTorch one loops over the modules: He's weights for convolutions, LeCun's for the last
# layer, biases 0. Normalization starts at a scale of 1 and a shift of 0, and stays so.


def by_hand(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(model.fc.weight, nonlinearity="linear")
    nn.init.zeros_(model.fc.bias)


by_hand(torchvision.models.resnet18())

# %%
# The same by one call. ``rules`` name what the scheme is not for: a name, or a pattern with ``*``. A
# pattern that fits nothing is an error, so a misspelt name does not pass.

model = torchvision.models.resnet18()
built = {n: p.square().mean().sqrt().item() for n, p in model.named_parameters()}
generator = torch.Generator().manual_seed(0)
rules = {"fc": "lecun_normal"}
done = initialize_(model, "he_normal", rules=rules, generator=generator)
table = done.frame()[["what", "fan_in", "rule", "wanted", "found", "why"]]
show(table.iloc[[0, 1, 2, 3, -2, -1]].round(4).astype(object).fillna(""))

filled = table[table["what"].str.startswith("weight")]
fan = filled["fan_in"].astype(float)
_, ax = plt.subplots()
ax.loglog(
    fan, [built[n] for n in filled.index], "x", color="#8c8c8c", label="as built"
)
ax.loglog(
    fan, filled["found"], "o", color=look("he_normal").color, label="after the call"
)
line = fan.sort_values()
ax.loglog(
    line, (2 / line) ** 0.5, "--", color="#56B4E9", label="He: root of 2 / fan-in"
)
ax.set(title="Every convolution lies on He's line, the last layer a little below")
ax.set(xlabel="fan-in of a matrix", ylabel="root mean square of its weights")
ax.legend()
plt.show()

entries = done.frame().loc[filled.index, "shape"].map(math.prod)
errors = (filled["found"] / filled["wanted"] - 1).abs() * (2 * entries) ** 0.5
# 21 matrices: the largest of as many normal errors exceeds 5 once in 80,000 runs.
claim(
    "Each matrix has the size its rule wants, within standard errors",
    errors.max(),
    below=5,
)
left = set(done.left_alone)
norms = {n for n in left if model.get_parameter(n).ndim == 1}
claim("Nothing but normalization is left alone", len(left - norms), equal=0)

# %%
# An encoder-decoder
# ------------------
# ``nn.Transformer`` keeps the matrices of query, key and value in one tensor of shape :math:`(3d, d)`.
# Xavier's variance is 2 / (inputs + outputs), and a function that is given the whole tensor counts
# three times the outputs. So the weights get too small by the factor :math:`\sqrt{2d / 4d}`. And its
# layers are copies of one layer: until someone draws again, they start equal.

d = 128
transformer = nn.Transformer(d, 4, 2, 2, 256, batch_first=True)
packed = transformer.encoder.layers[0].self_attn.in_proj_weight
torch.manual_seed(0)
whole = nn.init.xavier_normal_(torch.empty_like(packed))
alone = torch.cat([nn.init.xavier_normal_(torch.empty(d, d)) for _ in range(3)])
ratio = (whole.std() / alone.std()).item()
print(
    f"packed, the weights are {ratio:.3f} times as large as query, key and value alone"
)
# Each of 49,152 draws: the ratio's standard error is 0.0032.
claim(
    "Packed as one matrix, they are too small by the root of 1/2",
    ratio - 0.5**0.5,
    above=-0.02,
    below=0.02,
)

model = copy.deepcopy(transformer)
cloned = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(d, 4, 256), 2, enable_nested_tensor=False
)
before = initialize_(copy.deepcopy(cloned), "xavier_normal", rules={"*": None})
after = initialize_(cloned, "xavier_normal", generator=generator)
print("equal as built:", *before.identical[0])
claim(
    "As built, the encoder's layers hold equal matrices",
    len(before.identical),
    above=0.5,
)
claim("Afterwards no two matrices are equal", len(after.identical), equal=0)

done = initialize_(model, "xavier_normal", generator=generator)
table = done.frame()[["what", "matrices", "fan_in", "fan_out", "wanted", "found"]]
show(table[table["matrices"] > 1].round(4))

# %%
# A trained body with new heads
# -----------------------------
# What is frozen is left alone. This model has two heads that end in zeros, so that it starts as a
# guess. Which layers those are shows in a forward pass of one batch: the last ones before an
# output, wherever the class declares them.


class TwoHeads(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.kind, self.age = nn.Linear(64, 10), nn.Linear(64, 1)
        self.body, self.neck = body, nn.Linear(512, 64)

    def forward(self, images):
        features = torch.relu(self.neck(self.body(images)))
        return self.kind(features), self.age(features)


body = torchvision.models.resnet18()  # in earnest: weights="DEFAULT"
body.fc = nn.Identity()
model = TwoHeads(body.requires_grad_(False))
trained = copy.deepcopy(model.body.state_dict())
batch = torch.rand(2, 3, 64, 64)
rules = {"kind": "zeros", "age": "zeros"}
done = initialize_(model, "he_normal", rules=rules, generator=generator)
show(
    done.frame()
    .loc[lambda t: t["rule"] != "", ["what", "shape", "rule", "found"]]
    .round(4)
)

same = [torch.equal(p, trained[n]) for n, p in model.body.state_dict().items()]
claim("The frozen body is what it was", sum(same) / len(same), equal=1)

# %%
# The heads were named here. A :class:`~initguide.Scheme` with a ``readout`` finds them by itself, if
# it is given a batch:

from initguide import Scheme, he_normal_

scheme = Scheme("zero heads", he_normal_, readout=0.0)
done = initialize_(model, scheme, batch=batch, generator=generator)
print("output layers:", *done.readouts)
heads = [model.kind.weight.abs().max().item(), model.age.weight.abs().max().item()]
claim("The forward pass finds both heads", len(done.readouts), equal=2)
claim("Both are zero", heads, equal=0)

# %%
# How much of a model is that?
# ----------------------------
# Of all entries of matrices, the share that a stated rule fills. The rest is in the table with the
# reason: an embedding is looked up, not summed, so that no fan tells its size.

names = [
    "alexnet",
    "vgg11",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
]
names += ["vit_b_16", "swin_t"]
models = {name: torchvision.models.get_model(name, weights=None) for name in names}
models["nn.Transformer"] = transformer
models["LSTM with embedding"] = nn.Sequential(
    nn.Embedding(500, 64), nn.LSTM(64, 128)
)
shares = {}
for name, model in models.items():
    table = initialize_(model, "he_normal", generator=generator).frame()
    table = table[table["shape"].map(len) > 1].assign(
        entries=lambda t: t["shape"].map(math.prod)
    )
    known = table["rule"] != ""
    rest = list(table.index[~known])
    shares[name] = {
        "matrices": len(table),
        "share of entries filled": table.loc[known, "entries"].sum()
        / table["entries"].sum(),
        "left alone": ", ".join(rest[:2]) + ", ..." * (len(rest) > 2) or "none",
    }
shares = pd.DataFrame(shares).T
show(shares)
vision = shares.loc[names, "share of entries filled"].astype(float)
claim("Of each model for images over 97 % are filled", vision, above=0.97)

# %%
# What this does not show
# -----------------------
# That these weights train better than those which the libraries ship. They are drawn with care, and
# for a network with residual branches the scale of the branches matters more:
# :doc:`/how-to-choose`. A layer of a kind that is not known here is listed, not guessed; ``rules`` and
# ``splits`` of :func:`~initguide.initialize_` tell what it is.
#
# To see whether a signal gets through your model, measure it:
# :doc:`follow_a_signal_through_fifty_layers`.
