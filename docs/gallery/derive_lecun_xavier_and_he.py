r"""
Derive LeCun, Xavier and He
===========================

**Where do the variances** :math:`1/n`, :math:`2/(n + m)` **and** :math:`2/n` **come from?** A layer
with :math:`n` inputs, :math:`m` outputs and weights of variance :math:`v` multiplies the mean
square of its signal by :math:`n v`. LeCun makes this factor 1. A gradient on its way back is
multiplied by :math:`m v`: Xavier makes the average of the two factors 1. ReLU lets only half of a
mean square through: He doubles LeCun's variance.

:cite:t:`dlwizard_init` derives the first rule; :cite:t:`mlmastery_logistic_init` and
:cite:t:`gfg_init` state the others. Here SymPy derives all three, and ten seeds check each. What
those pages get wrong is corrected on the way; :doc:`/evidence` lists it.

*What you need:* ``initguide``, half a minute, and the rule that the mean of a product of
independent numbers is the product of their means.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sympy as sp
import torch
from torch import nn
from torch.nn import functional as F

from initguide import claim, datasets, show, summarize
from initguide.theory import derivations as derive

# %%
# One layer
# ---------
# A unit with three inputs computes :math:`y = w_1 x_1 + w_2 x_2 + w_3 x_3`. How large is
# :math:`y^2`?

w, x = sp.IndexedBase("w"), sp.IndexedBase("x")
y = w[1] * x[1] + w[2] * x[2] + w[3] * x[3]
sp.expand(y**2)

# %%
# Take the mean :math:`E` over all draws of the weights and inputs. Let the weights be independent
# of each other and of the inputs, with mean 0 and variance :math:`v`. Then each mixed term has a
# factor :math:`E(w_i) = 0`, and only the squares are left:

derive.expect(y**2)

# %%
# The same with :math:`n` inputs, step by step:

print(derive.forward())

# %%
# Here :math:`E(x^2)` is the average over the inputs, and ``KroneckerDelta(i, j)`` is 1 if
# :math:`i = j` and else 0. The result once more:

derive.forward().result

# %%
# :cite:t:`dlwizard_init` takes weights and inputs to be Gaussian with mean 0. No step needs them to
# be Gaussian. Nor need the inputs have mean 0 or be independent of each other. So normal weights,
# uniform ones and tossed coins, all of mean 0 and variance :math:`1/n`, should keep the mean square
# of the pixels of MNIST.

pixels = datasets.mnist().test_inputs[:500].flatten(1)


def measure(experiment):
    """Run it with ten seeds; average over them."""
    rows = []
    for seed in range(10):
        torch.manual_seed(seed)
        for name, (predicted, measured) in experiment().items():
            rows.append((name, float(predicted), seed, float(measured)))
    runs = pd.DataFrame(rows, columns=["quantity", "predicted", "seed", "value"])
    table = summarize(runs, by=["quantity", "predicted"]).set_index("quantity")
    return table[["predicted", "mean", "low", "high"]].rename_axis(None)


def off(table):
    return (table["mean"] / table["predicted"] - 1).abs()


def change(signal, after):
    return after.square().mean() / signal.square().mean()


def one_layer():
    bound = 3**0.5  # U(-bound, bound) has variance 1
    weights = {
        "normal": torch.randn(784, 2000),
        "uniform": torch.empty(784, 2000).uniform_(-bound, bound),
        "coin": 2.0 * torch.randint(2, (784, 2000)) - 1,
    }
    return {
        kind: (1, change(pixels, pixels @ weight / 784**0.5))
        for kind, weight in weights.items()
    }


layers = measure(one_layer)
# The mean of ten seeds strays by 0.5 %, as 2,000 units see the same few images.
claim(
    "Normal, uniform and coin weights keep the mean square, to 3 %",
    off(layers),
    below=0.03,
)
show(layers.round(3))

# %%
# In all tables ``low`` to ``high`` is the 95 % interval of the mean over ten seeds. So by chance
# one in twenty misses the prediction.
#
# What is kept is the mean square. :cite:t:`dlwizard_init` asks for the *variance* of :math:`y`, and
# starts from that of a product. With :math:`p, q` for the means of two independent numbers and
# :math:`r, s` for their variances, the mean square of one is :math:`r + p^2`, and so

p, q, r, s = sp.symbols("p q r s")
product = sp.expand((r + p**2) * (s + q**2) - (p * q) ** 2)
product

# %%
# as it says. With :math:`p = q = 0` only :math:`r s` is left. But pixels are from 0 to 1, and their
# mean is not 0. Behind weights of variance :math:`1/n` and mean 0, the variance of :math:`y` is the
# pixels' mean square, so more than their variance:

square, spread = pixels.square().mean().item(), pixels.var().item()
print(
    f"mean square {square:.3f}, variance {spread:.3f}: ratio {square / spread:.2f}"
)

# sphinx_gallery_start_ignore
findings = {
    "S3.16": layers.loc["normal"],
    "S3.30": float(sp.expand(product - (p**2 * s + q**2 * r + r * s))),
}
# sphinx_gallery_end_ignore

# %%
# LeCun: forwards
# ---------------
# In a deep network these factors multiply, so each had better be 1. This is the rule of "Efficient
# BackProp" (:cite:t:`lecun1998`):

n, m, v = sp.symbols("n m v", positive=True)
(lecun,) = sp.solve(sp.Eq(n * v, 1), v)
sp.Eq(v, lecun)

# %%
# It keeps the signal of linear layers, and nearly that of tanh layers while the signal is small,
# for then :math:`\tanh z \approx z`. The sigmoid :math:`\sigma` differs, although
# :math:`\tanh z = 2 \sigma(2z) - 1`:

z = sp.Symbol("z", real=True)
tanh, sigmoid = sp.tanh(z), 1 / (1 + sp.exp(-z))
difference = sp.simplify(tanh.rewrite(sp.exp) - 2 * sigmoid.subs(z, 2 * z) + 1)
slopes = [function.diff(z).subs(z, 0) for function in (tanh, sigmoid)]
print(
    "tanh z - (2 sigmoid(2z) - 1) = {}; slopes at 0: {}, {}".format(
        difference, *slopes
    )
)

# sphinx_gallery_start_ignore
findings["S3.33"] = float(difference)
# sphinx_gallery_end_ignore

# %%
# Xavier: both directions
# -----------------------
# On the way back, the gradient :math:`h` of an input is the sum of the gradients :math:`g` of the
# :math:`m` outputs, times the weights. If these are independent, the same steps give:

derive.backward().result

# %%
# So the signal asks for :math:`n v = 1`, and the gradient for :math:`m v = 1`. Only a square layer,
# :math:`n = m`, can have both. For all others :cite:t:`glorot2010` compromise: the average of the
# two factors should be 1.

(xavier,) = sp.solve(sp.Eq((n * v + m * v) / 2, 1), v)
sp.Eq(v, xavier)

# %%
# The 2 is there because two directions are averaged. :cite:t:`dlwizard_init` has :math:`1/(n + m)`,
# half of this. For uniform weights between :math:`-b` and :math:`b` we need their variance,

b = sp.Symbol("b", positive=True)
variance = sp.Integral(z**2 / (2 * b), (z, -b, b))
sp.Eq(variance, variance.doit())

# %%
# and the bound at which it is Xavier's:

sp.Eq(b, *sp.solve(sp.Eq(variance.doit(), xavier), b))

# %%
# In a layer from 784 units to 100, LeCun's weights keep the signal but lose most of the gradient.
# Xavier's keep neither, but their two factors average 1:


def both_directions():
    size = {n: 784, m: 100}
    rows = {}
    for fill_ in (nn.init.xavier_normal_, nn.init.xavier_uniform_):
        weight = fill_(torch.empty(100, 784))
        inputs = pixels.clone().requires_grad_()
        outputs = F.linear(inputs, weight)
        gradient = torch.randn(outputs.shape)
        outputs.backward(gradient)
        forwards = (n * xavier).subs(size), change(pixels, outputs.detach())
        backwards = (m * xavier).subs(size), change(gradient, inputs.grad)
        rows[f"{fill_.__name__}, forwards"] = forwards
        rows[f"{fill_.__name__}, backwards"] = backwards
    return rows


factors = measure(both_directions)
# Forwards the mean of ten seeds strays by 2 %: there are only 100 outputs.
claim("Xavier's two factors are as derived, to 10 %", off(factors), below=0.1)
show(factors.round(3))

# %%
# He: half is lost
# ----------------
# ReLU sets a negative :math:`z` to 0. Let :math:`p` be the density of :math:`z`. Then
# :math:`E(z^2)` is the area under :math:`z^2 p(z)`, and ReLU keeps its right half:

grid = np.linspace(-4, 4, 401)
area = grid**2 * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
plt.fill_between(grid, area, where=grid >= 0, color="#D55E00", label="kept")
plt.fill_between(grid, area, where=grid <= 0, color="#8c8c8c", label="lost")
plt.title("ReLU keeps half of the mean square of a normal z")
plt.xlabel("z")
plt.ylabel("z² p(z)")
plt.ylim(bottom=0)
plt.legend()
plt.show()

# %%
# Nothing else about :math:`p` matters but that it is symmetric, :math:`p(-z) = p(z)`. It is, if the
# weights are symmetric and the bias is 0 or symmetric too. Leaky ReLU, written :math:`\phi` here,
# multiplies a negative :math:`z` by a slope :math:`a`, and so keeps :math:`a^2` of the left half:

a = sp.Symbol("a", real=True)
kept = derive.rectify(a).result
kept

# %%
# Demand that this and the next layer's :math:`n v` together change nothing:

share = kept.rhs / sp.Function("E")(z**2)
(he,) = sp.solve(sp.Eq(share * n * v, 1), v)
sp.Eq(v, he)

# %%
# For ReLU, :math:`a = 0`, this is :math:`2/n` (:cite:t:`he2015`). It is the variance; its root
# :math:`\sqrt{2/n}` is the standard deviation, which :cite:t:`mlmastery_logistic_init` takes for
# the variance. What torch calls the gain is the root of :math:`n v`:

slopes = [0, 0.01, 0.2, 1]
gains = np.array([float(sp.sqrt(n * he).subs(a, slope)) for slope in slopes])
torchs = [nn.init.calculate_gain("leaky_relu", slope) for slope in slopes]
claim(
    "torch's gain for leaky ReLU is He's, at four slopes",
    abs(gains - torchs),
    below=1e-12,
)
show(pd.DataFrame({"gain": gains}, index=slopes).round(4))

# %%
# Measured with a uniform :math:`z`. The last two rows are what :cite:t:`dlwizard_init` advises,
# :math:`2/n` for leaky ReLU too. Every layer then adds :math:`a^2`. That hardly counts at torch's
# slope of 0.01; at 0.2 the mean square triples in thirty layers.


def rectified():
    z = torch.empty(500, 1000).uniform_(-1, 1)
    relu, leaky = F.relu(z), F.leaky_relu(z, 0.2)
    weight = nn.init.kaiming_normal_(torch.empty(1000, 1000))
    for_leaky = nn.init.kaiming_normal_(torch.empty(1000, 1000), a=0.2)
    little = F.leaky_relu(z, 0.01)
    return {
        "ReLU alone": (share.subs(a, 0), change(z, relu)),
        "ReLU, then 2/n": (1, change(z, relu @ weight.T)),
        "slope 0.2, then 2/((1 + a²)n)": (1, change(z, leaky @ for_leaky.T)),
        "slope 0.01, then 2/n": (1 + 0.01**2, change(z, little @ weight.T)),
        "slope 0.2, then 2/n": (1 + 0.2**2, change(z, leaky @ weight.T)),
    }


rectifiers = measure(rectified)
# The mean of ten seeds strays by 0.5 %: there are 1,000 outputs.
claim(
    "ReLU halves the mean square, and 2/n restores it, to 3 %",
    off(rectifiers),
    below=0.03,
)
show(rectifiers.round(3))

# %%
# PyTorch's default
# -----------------
# What are the weights of a new ``nn.Linear``? In torch's own lines:

print(inspect.getsource(nn.Linear.reset_parameters))

# %%
# No unit here has the slope :math:`\sqrt 5`. Put into He's rule, it gives the variance

default = he.subs(a, sp.sqrt(5))
sp.Eq(v, default)

# %%
# and the bound, which the biases get too:

sp.Eq(b, *sp.solve(sp.Eq(variance.doit(), default), b))

# %%
# So the run that :cite:t:`dlwizard_init` calls LeCun's has a third of LeCun's variance, and its
# biases, which the derivation takes to be constant, are random too.
# :cite:t:`mlmastery_logistic_init` calls :math:`U(-1/\sqrt n, 1/\sqrt n)` Xavier's, and
# :math:`U(\pm\sqrt{6/(n+m)})` its normalized form; to :cite:t:`glorot2010` the first is what was
# usual, and the second their own. Here are the variances of what torch draws.


@torch.no_grad()
def variances():
    layer = nn.Linear(400, 100)
    xavier_weight = nn.init.xavier_normal_(torch.empty(100, 400))
    he_weight = nn.init.kaiming_normal_(torch.empty(100, 400))
    return {
        "new nn.Linear, weights, times n": (n * default, 400 * layer.weight.var()),
        "new nn.Linear, biases, times n": (n * default, 400 * layer.bias.var()),
        "xavier_normal_, times n + m": (
            (n + m) * xavier,
            500 * xavier_weight.var(),
        ),
        "kaiming_normal_, times n": (n * he.subs(a, 0), 400 * he_weight.var()),
    }


drawn = measure(variances)
# The mean of ten seeds strays by 0.15 %; that of the biases, which are few, by 3 %.
claim(
    "A new nn.Linear's weights have a third of LeCun's variance",
    drawn.loc["new nn.Linear, weights, times n", "mean"],
    above=0.32,
    below=0.35,
)

# sphinx_gallery_start_ignore
weights, biases, xaviers, hes = (row for _, row in drawn.iterrows())
findings |= {
    "S0.6": weights,
    "S0.7": hes,
    "S2.1": xaviers,
    "S2.2": hes,
    "S3.7": xaviers,
    "S3.8": weights,
    "S3.15": rectifiers.loc["slope 0.2, then 2/n"],
    "S3.34": hes,
}
# sphinx_gallery_end_ignore
show(drawn.round(3))

# %%
# What this does not show
# -----------------------
# That networks train as these factors say. They describe a network before its first step, and the
# mean over draws: a single draw strays from it, the more so in a narrow and deep network. The
# gradients are not quite independent of the weights. And a mean square that is kept is not yet
# information that is kept. :doc:`move_from_constants_to_normal_weights` trains networks.
