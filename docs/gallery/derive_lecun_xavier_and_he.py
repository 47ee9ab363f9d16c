r"""
Derive LeCun, Xavier and He
===========================

**Where do the variances** :math:`1/n`, :math:`2/(n + m)` **and** :math:`2/n` **come from?** From
one line: a layer multiplies the mean square of its signal by :math:`n \operatorname{Var}(w)`.
LeCun sets this factor to 1. A gradient on its way back meets :math:`m \operatorname{Var}(w)`:
Xavier sets the average of the two to 1. ReLU lets half of a mean square through: He doubles the
variance.

:cite:t:`dlwizard_init` derives the first rule; :cite:t:`mlmastery_logistic_init` and
:cite:t:`gfg_init` state the others. Here SymPy derives each, ten seeds check each, and what
those pages get wrong is put right.

*What you need:* ``initguide``, half a minute, and the rule that the mean of a product of
independent numbers is the product of their means.
"""

import inspect
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sympy as sp
import torch
from scipy import stats
from torch import nn

from initguide import SCHEMES, datasets, initialize_, summarize
from initguide.theory import derivations as derive

n, m, v, b, q = sp.symbols("n m v b q", positive=True)
a, z = sp.symbols("a z", real=True)
E, p = sp.Function("E"), sp.Function("p")
w, x = sp.IndexedBase("w"), sp.IndexedBase("x")


def solve(equation, unknown):
    return sp.Eq(unknown, *sp.solve(equation, unknown))


# %%
# One layer
# ---------
# A unit with three inputs is :math:`y = w_1 x_1 + w_2 x_2 + w_3 x_3`. How large is :math:`y^2`?

y = sum(w[k] * x[k] for k in (1, 2, 3))
sp.expand(y**2)

# %%
# Take the mean over all draws. Let the weights be independent of each other and of the inputs, with
# mean 0 and variance :math:`v`. Each mixed term then has a factor :math:`E(w_i) = 0`, so that this
# is left:

derive.expect(y**2)

# %%
# With :math:`n` inputs, step by step:

print(derive.forward())

# %%

derive.forward().result

# %%
# :math:`E(x^2)` is the average over the inputs. As :math:`y` has mean 0, :math:`E(y^2)` is its
# variance. :cite:t:`dlwizard_init` takes the weights to be Gaussian; no step needs that, nor that
# the inputs have mean 0 or are independent. So normal weights, uniform ones and tossed coins, all
# of variance :math:`1/n`, should keep the mean square of the digits' pixels.
#
# In all tables ``std`` is the spread of ten seeds, ``low`` to ``high`` the 95 % interval of their
# mean. The page fails to build if one mean of a table is farther from SymPy's prediction than
# chance allows (t-tests, 99 % for the whole table).


def check(experiment):
    rows = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        for name, predicted, measured in experiment(generator):
            rows.append((name, float(predicted), seed, float(measured)))
    runs = pd.DataFrame(rows, columns=["quantity", "predicted", "seed", "value"])
    table = summarize(runs, by=["quantity", "predicted"]).set_index("quantity")
    error = table["std"] / table["n"] ** 0.5
    chance = stats.t.ppf(1 - 0.01 / 2 / len(table), table["n"] - 1) * error
    far = (table["mean"] - table["predicted"]).abs() > chance
    assert not far.any(), table[far]
    return table.drop(columns="n").rename_axis(None)


def change(output, signal):
    return output.square().mean() / signal.square().mean()


digits = datasets.mnist().test_inputs[:500].flatten(1)


def one_layer(generator):
    weights = {
        "normal": torch.randn(784, 2000, generator=generator),
        "uniform": 3**0.5 * (2 * torch.rand(784, 2000, generator=generator) - 1),
        "coin": 2.0 * torch.randint(2, (784, 2000), generator=generator) - 1,
    }
    for kind, weight in weights.items():
        yield kind, 1, change(digits @ weight / 784**0.5, digits)


check(one_layer).round(3)

# %%
# LeCun: forwards
# ---------------
# After many layers the factor stands to the power of their number, so it had better be 1. This is
# the rule of "Efficient BackProp" (:cite:t:`lecun1998`):

lecun = solve(sp.Eq(n * v, 1), v)
lecun

# %%
# A linear layer then keeps the mean square. tanh is linear near 0 only: of a normal :math:`z` of
# variance :math:`q` it keeps less than :math:`q`, as its series says.

normal = sp.exp(-(z**2) / (2 * q)) / sp.sqrt(2 * sp.pi * q)
series = sp.series(sp.tanh(z) ** 2, z, 0, 6).removeO()
kept = sp.integrate(series * normal, (z, -sp.oo, sp.oo))
sp.Eq(E(sp.tanh(z) ** 2), kept + sp.O(q**3))

# %%
# Xavier: both directions
# -----------------------
# The gradient of an input sums over the :math:`m` outputs that it feeds. If those gradients,
# :math:`g`, are independent of the weights, the same steps give:

derive.backward().result

# %%
# So a layer should have :math:`n v = 1`, and :math:`m v = 1` too. When can it?

(both,) = sp.solve([sp.Eq(n * v, 1), sp.Eq(m * v, 1)], [v, m], dict=True)
sp.Eq(m, both[m])

# %%
# Only when it is square. :cite:t:`glorot2010` compromise, and ask for 1 on average:

xavier = solve(sp.Eq((n * v + m * v) / 2, 1), v)
xavier

# %%
# So the 2 counts the directions. :cite:t:`dlwizard_init` has :math:`1/(n + m)`, which is half of
# this. For uniform weights we need the variance of :math:`U(-b, b)`,

spread = sp.Integral(z**2 / (2 * b), (z, -b, b))
sp.Eq(spread, spread.doit())

# %%
# and the bound at which it is Xavier's:

solve(sp.Eq(spread.doit(), xavier.rhs), b)

# %%
# From 784 units to 100, LeCun would keep the signal and lose most of the gradient. Xavier
# keeps neither, but its two factors average 1:


def both_directions(generator):
    factors = [(fan * xavier.rhs).subs({n: 784, m: 100}) for fan in (n, m)]
    for fill_ in (nn.init.xavier_normal_, nn.init.xavier_uniform_):
        layer = nn.Linear(784, 100, bias=False)
        fill_(layer.weight, generator=generator)
        inputs = digits.clone().requires_grad_()
        outputs = layer(inputs)
        arriving = torch.randn(outputs.shape, generator=generator)
        (leaving,) = torch.autograd.grad(outputs, inputs, arriving)
        changes = change(outputs.detach(), digits), change(leaving, arriving)
        yield f"{fill_.__name__}, forwards", factors[0], changes[0]
        yield f"{fill_.__name__}, backwards", factors[1], changes[1]


check(both_directions).round(3)

# %%
# He: half is lost
# ----------------
# ReLU cuts off what is below 0. Of a normal :math:`z` of variance :math:`q` this is left:

upper = sp.Integral(z**2 * normal, (z, 0, sp.oo))
sp.Eq(upper, upper.doit())

# %%
# The half needs no normal density :math:`p` either, only a symmetric one, :math:`p(-z) = p(z)`.
# Mirror the lower part:

lower = sp.Integral(z**2 * p(z), (z, -sp.oo, 0))
sp.Eq(lower, lower.transform(-z, z))

# %%
# By symmetry the right side is the upper part, so either is half of :math:`E(z^2)`. And a unit is
# symmetric if its weights and its bias are. A leaky ReLU of slope :math:`a` keeps :math:`a z` below 0, so
# :math:`a^2` of the lower half:

derive.rectify(a).result

# %%
# The next layer gets this for its :math:`E(x^2)`. Demand that both together change nothing:

share = derive.rectify(a).result.rhs / E(z**2)
he = solve(sp.Eq(n * v * share, 1), v)
he

# %%
# For ReLU, :math:`a = 0`, that is :math:`2/n` (:cite:t:`he2015`). It is the variance; the standard
# deviation is :math:`\sqrt{2/n}`, which :cite:t:`mlmastery_logistic_init` takes for the variance.
# ``torch.nn.init.calculate_gain`` is the root of :math:`n v`, and agrees:

for slope in (0, 0.01, 0.2, 1):
    gain = float(sp.sqrt(n * he.rhs).subs(a, slope))
    assert np.isclose(gain, nn.init.calculate_gain("leaky_relu", slope))
    print(f"slope {slope}: gain {gain:.4f}")

# %%
# Measured with a uniform, so not normal, :math:`z`. The last row is what :cite:t:`dlwizard_init`
# advises, :math:`2/n` for leaky ReLU too: every layer then adds :math:`a^2`. That is real at slope
# 0.2, and nothing to speak of at 0.01.


def rectified(generator):
    z = 2 * torch.rand(500, 1000, generator=generator) - 1
    relu, leaky = z.relu(), nn.functional.leaky_relu(z, 0.2)
    he_ = nn.init.kaiming_normal_(torch.empty(1000, 1000), generator=generator)
    fitted = nn.init.kaiming_normal_(
        torch.empty_like(he_), a=0.2, generator=generator
    )
    yield "ReLU alone", share.subs(a, 0), change(relu, z)
    yield "ReLU, then 2/n", 1, change(relu @ he_.T, z)
    yield "leaky ReLU, then 2/((1 + a²)n)", 1, change(leaky @ fitted.T, z)
    excess = (he.rhs.subs(a, 0) / he.rhs).subs(a, 0.2)
    yield "leaky ReLU, then 2/n", excess, change(leaky @ he_.T, z)


check(rectified).round(3)

# %%
# PyTorch's default
# -----------------
# What does a new ``nn.Linear`` hold? torch's own lines:

print(inspect.getsource(nn.Linear.reset_parameters))

# %%
# No unit here has the slope :math:`\sqrt 5`. Put into He's rule, it makes the variance

default = he.subs(a, sp.sqrt(5))
default

# %%
# and the bound :math:`1/\sqrt n`, which the biases get too:

solve(sp.Eq(spread.doit(), default.rhs), b)

# %%
# The run that :cite:t:`dlwizard_init` calls LeCun has this third of LeCun's variance.
# :cite:t:`mlmastery_logistic_init` calls it Xavier; it is what :cite:t:`glorot2010` began with and
# improved on. Behind a ReLU it divides the mean square :math:`q` by six, and the biases add theirs:

step = n * default.rhs * share.subs(a, 0) * q + default.rhs
sp.Eq(E(sp.Symbol("y") ** 2), step)

# %%
# So the signal dies out, until nothing but biases is left:

solve(sp.Eq(step, q), q)

# %%
# Twelve layers
# -------------
# From 784 pixels down to 100 units. For ReLU the lines are the factors above, layer after layer,
# and hold at any width. tanh has no such factor, for :math:`E(\tanh^2 z)` depends on the density:
# its lines take :math:`z` to be normal, which wide layers come close to.

widths = np.geomspace(784, 100, 13).round().astype(int).tolist()
rules = dict(torch_default=default, lecun_normal=lecun, xavier_normal=xavier)
rules["he_normal"] = he.subs(a, 0)
activations = {"ReLU": torch.relu, "tanh": torch.tanh}
nodes, mass = map(torch.tensor, np.polynomial.hermite_e.hermegauss(60))
mass /= mass.sum()  # now sum(mass * f(nodes)) is the mean of f(z) for a normal z


def twelve_layers(generator):
    for activation, name in product(activations, rules):
        phi, signal = activations[activation], digits
        square = digits.double().square().mean(dim=1, keepdim=True)  # per image
        for depth, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            layer = nn.Linear(fan_in, fan_out).requires_grad_(False)
            initialize_(layer, name, generator=generator)
            variance = float(rules[name].rhs.subs({n: fan_in, m: fan_out}))
            bias = variance if name == "torch_default" else 0
            output, square = layer(signal), fan_in * variance * square + bias
            yield (activation, name, depth), square.mean(), output.square().mean()
            signal = phi(output)
            square = phi(square.sqrt() * nodes).square() @ mass[:, None]


deep = check(twelve_layers)
deep.index = pd.MultiIndex.from_tuples(deep.index)

fig, axes = plt.subplots(1, 2, figsize=(8, 4.4), sharex=True, sharey=True)
for (activation, name), rows in deep.groupby(level=[0, 1], sort=False):
    ax, look = axes[[*activations].index(activation)], SCHEMES[name]
    depth = range(1, len(rows) + 1)
    ax.plot(depth, rows["predicted"], color=look.color)
    style = dict(color=look.color, marker=look.marker, linestyle="none")
    ax.errorbar(depth, rows["mean"], rows["std"], label=look.label, **style)
    ax.set(yscale="log", xlabel="layer")
axes[0].set_ylabel("mean square of a layer's outputs")
axes[0].set_title("ReLU: only He stays level")
axes[1].set_title("tanh: LeCun and Xavier sink slowly")
axes[0].legend(title="lines: predicted\npoints: ten seeds ± std", alignment="left")
plt.show()

# %%
# On the left, PyTorch's default turns up again: what is left there are the biases, and
# :math:`2/(5n)` grows as the layers narrow. The last layer in numbers:

deep.xs(12, level=2).rename(lambda name: SCHEMES[name].label, level=1).round(6)

# %%
# What this page found of the sources' claims; the page on evidence collects them. A claim implies
# the value that is ``tested``, and holds if the interval includes it. Only the last implies any
# other, and holds if the interval leaves it out.


def claims(generator):
    rule = nn.init.uniform_(
        torch.empty(400, 400), -1 / 20, 1 / 20, generator=generator
    )
    glorot = nn.init.xavier_normal_(torch.empty(100, 400), generator=generator)
    kaiming = nn.init.kaiming_normal_(torch.empty(100, 400), generator=generator)
    torch.manual_seed(generator.initial_seed())  # nn.Linear takes no generator
    linear = nn.Linear(400, 100).weight.detach()
    signal = {kind: value for kind, _, value in one_layer(generator)}
    *_, (_, excess, behind_leaky) = rectified(generator)
    yield "S0.6", (default.rhs / xavier.rhs).subs(m, n), rule.var() * 400
    yield "S0.7", n * he.rhs.subs(a, 0), kaiming.var() * 400
    yield "S2.1", xavier.rhs * (n + m) / 2, glorot.var() * 500 / 2
    yield "S2.2", n * he.rhs.subs(a, 0) / 2, kaiming.var() * 400 / 2
    yield "S3.7", xavier.rhs * (n + m), glorot.var() * 500
    yield "S3.8", default.rhs / lecun.rhs, linear.var() * 400
    yield "S3.15", excess, behind_leaky
    yield "S3.16", 1, signal["uniform"] / signal["normal"]


said = {
    "S0.6": "U(±1/√n) is Xavier",
    "S0.7": "He's variance is √(2/n)",
    "S2.1": "Xavier's variance is 2/(n + m)",
    "S2.2": "He's variance is 2/n",
    "S3.7": "Xavier's variance is 1/(n + m)",
    "S3.8": "PyTorch's default is LeCun",
    "S3.15": "2/n suits leaky ReLU",
    "S3.16": "weights must be Gaussian",
}
table = check(claims).assign(tested=1.0, claim=pd.Series(said))
table.loc["S0.7", "tested"] = 400 * (2 / 400) ** 0.5  # n times that variance
holds = table["tested"].between(table["low"], table["high"])
holds["S3.16"] = not holds["S3.16"]
table["verdict"] = holds.map({True: "holds", False: "wrong"})
columns = ["verdict", "value", "low", "high"]
findings = table.rename(columns={"mean": "value"})[columns].T.to_dict()
table[["claim", "tested", "mean", "low", "high", "verdict"]].round(3)

# %%
# What this does not show
# -----------------------
# That networks train as these factors say. They describe a network before its first step, and on
# average over draws: one draw strays from it, more so if narrow and deep. Gradients are not
# independent of the weights that they pass. And a kept mean square is not yet information kept:
# the biases of PyTorch's default keep one up by themselves. How signals fare in deep networks is
# next: keep the variance level.
