"""Orthogonal weights have the singular values they promise, as numpy computes them."""

import math

import jax
import numpy as np
import pytest
import torch
from torch import nn

from initguide import Scheme, initialize_
from initguide.layers import weight_views
from initguide.orthogonal import delta_orthogonal_, identity_, orthogonal_

SHAPES = [(5, 5), (7, 4), (4, 7), (1, 6), (6, 1), (8, 3, 3, 3), (3, 8, 5), (4, 2, 2, 3, 2)]
CONVOLUTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}

LAYERS = {
    "conv1": lambda: nn.Conv1d(3, 4, 3, padding="same"),
    "conv2": lambda: nn.Conv2d(3, 4, (5, 1), padding="same"),
    "conv3": lambda: nn.Conv3d(2, 2, 3, padding="same"),
    "circular": lambda: nn.Conv2d(2, 3, 3, padding="same", padding_mode="circular"),
    "even": lambda: nn.Conv1d(3, 4, 4, padding="same"),
    "even oblong": lambda: nn.Conv2d(2, 3, (2, 3), padding="same"),
    "dilated": lambda: nn.Conv1d(3, 4, 3, dilation=2, padding="same"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1),
    "transposed1": lambda: nn.ConvTranspose1d(3, 4, 3, padding=1),
    "transposed2": lambda: nn.ConvTranspose2d(2, 3, 5, padding=2),
    "transposed grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, padding=1),
}

# An entry of a product of n terms is off by n roundings at most; so is a singular value of a
# matrix from QR, up to a small constant.
EPS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(rule, *shape, dtype=torch.float64, seed=0, **options):
    return rule(torch.empty(shape, dtype=dtype), **options, generator=generator(seed))


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)


def dense(layer, size=6):
    """Return the matrix of a convolution without bias, from torch's own derivative."""
    channels, kernel = layer.in_channels, layer.weight.ndim - 2
    size = size if kernel < 3 else 4
    x = torch.zeros(1, channels, *(size,) * kernel, dtype=layer.weight.dtype)
    return torch.autograd.functional.jacobian(layer, x).reshape(-1, x.numel())


def spectrum(w, size):
    """Return the singular values of a circular convolution: one matrix at each frequency."""
    w = np.asarray(w, dtype=np.float64)
    n = w.ndim - 2
    per_frequency = np.fft.fftn(w, s=(size,) * n, axes=range(2, w.ndim))
    return np.linalg.svd(np.moveaxis(per_frequency, (0, 1), (-2, -1)), compute_uv=False)


def circular(x, w, weight_ndim):
    for axis, size in enumerate(w.shape[2:], start=2):
        left = (size - 1) // 2
        parts = [x.narrow(axis, x.shape[axis] - left, left), x, x.narrow(axis, 0, size - 1 - left)]
        x = torch.cat(parts, axis)
    return CONVOLUTIONS[weight_ndim - 2](x, w)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_draws_are_those_of_torch(shape, dtype):
    ours = filled(orthogonal_, *shape, dtype=dtype, gain=1.5)
    theirs = filled(nn.init.orthogonal_, *shape, dtype=dtype, gain=1.5)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("gain", [0.0, 1.0, math.sqrt(2)])
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_singular_values_are_the_gain(shape, dtype, gain):
    values = singular_values(filled(orthogonal_, *shape, dtype=dtype, gain=gain).flatten(1))
    assert len(values) == min(shape[0], math.prod(shape[1:]))
    np.testing.assert_allclose(values, gain, rtol=8 * math.prod(shape) * EPS[dtype])


@pytest.mark.parametrize(("n_out", "n_in"), [(6, 6), (9, 4), (4, 9)])
def test_signals_or_gradients_keep_their_length(n_out, n_in):
    w, g = filled(orthogonal_, n_out, n_in), generator(1)
    x = torch.randn(n_in, dtype=torch.float64, generator=g)
    delta = torch.randn(n_out, dtype=torch.float64, generator=g)
    kept = [(w @ x).norm() / x.norm(), (w.T @ delta).norm() / delta.norm()]
    promised = [n_out >= n_in, n_in >= n_out]
    for ratio, isometry in zip(kept, promised, strict=True):
        assert (abs(ratio.item() - 1) < 1e-13) == isometry


def test_a_narrowing_layer_keeps_the_mean_square_on_average():
    n_out, n_in, g = 4, 9, generator(2)
    x = torch.arange(1.0, n_in + 1)
    draws = [orthogonal_(torch.empty(n_out, n_in), generator=g) @ x for _ in range(2000)]
    ratios = torch.stack(draws).square().mean(1).numpy() / x.square().mean().item()
    assert abs(ratios.mean() - 1) < 5 * ratios.std() / math.sqrt(ratios.size)


@pytest.mark.parametrize("rule", [orthogonal_, delta_orthogonal_])
def test_all_directions_are_equally_likely(rule):
    # Uniform on O(n): E[trace] = 0, E[trace^2] = 1, E[w_ij^2] = 1/n for every i, j. The Q of a
    # QR decomposition as LAPACK returns it has a negative one: its signs are not random.
    g, shape = generator(3), (4, 4) if rule is orthogonal_ else (4, 4, 1)
    draws = torch.stack(
        [rule(torch.empty(shape), generator=g).flatten(1) for _ in range(3000)]
    ).numpy()
    traces = np.trace(draws, axis1=1, axis2=2)
    for values, mean in [(traces, 0), (traces**2, 1), (draws**2, 1 / 4)]:
        error = values.std(axis=0) / math.sqrt(len(values))
        assert (abs(values.mean(axis=0) - mean) < 5 * error).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_single_precision_rounded(dtype):
    for rule, shape in [(orthogonal_, (7, 4)), (delta_orthogonal_, (7, 4, 3))]:
        single = filled(rule, *shape, dtype=torch.float32)
        assert torch.equal(filled(rule, *shape, dtype=dtype), single.to(dtype))


@pytest.mark.parametrize("rule", [orthogonal_, delta_orthogonal_, identity_])
def test_in_place_reproducible_and_the_global_generator_untouched(rule):
    shape = (4, 3, 3) if rule is delta_orthogonal_ else (4, 3)
    state = torch.get_rng_state()
    w = nn.Parameter(torch.full(shape, torch.nan))
    assert rule(w, generator=generator()) is w and w.requires_grad and w.grad_fn is None
    assert torch.equal(w, filled(rule, *shape, dtype=torch.float32))
    assert torch.equal(torch.get_rng_state(), state)
    transposed = torch.full((3, 4, *shape[2:]), torch.nan).transpose(0, 1)
    assert torch.equal(rule(transposed, generator=generator()), w)


@pytest.mark.parametrize("kind", LAYERS)
def test_orthogonal_is_a_rule_for_schemes(kind):
    layer = LAYERS[kind]().double()
    initialize_(layer, Scheme("mine", orthogonal_), generator=generator())
    for view in weight_views(layer):
        np.testing.assert_allclose(singular_values(view.flatten(1)), 1, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # slower, no less right
@pytest.mark.parametrize("kind", LAYERS)
def test_delta_orthogonal_layers_keep_the_length_of_every_signal(kind):
    layer = LAYERS[kind]().double()
    initialize_(layer, Scheme("mine", delta_orthogonal_), generator=generator())
    matrix = dense(layer)
    values = singular_values(matrix)
    assert len(values) == matrix.shape[1]  # no signal has length 0 afterwards
    np.testing.assert_allclose(values, 1, rtol=1e-13)


@pytest.mark.parametrize("kernel", [(3,), (4,), (2, 5)])
def test_the_middle_is_where_jax_puts_it(kernel):
    ours = filled(delta_orthogonal_, 5, 4, *kernel).numpy().any(axis=(0, 1))
    theirs = jax.nn.initializers.delta_orthogonal()(jax.random.key(0), (*kernel, 4, 5))
    np.testing.assert_array_equal(ours, np.asarray(theirs).any(axis=(-2, -1)))


@pytest.mark.parametrize("gain", [1.0, 0.5])
@pytest.mark.parametrize(
    "shape", [(6, 6, 3), (7, 4, 4), (5, 5, 3, 3), (8, 3, 5, 2), (3, 2, 3, 3, 3)]
)
def test_spectrum_of_a_delta_orthogonal_convolution_is_one_point(shape, gain):
    values = spectrum(filled(delta_orthogonal_, *shape, gain=gain), size=8)
    assert values.shape == (*(8,) * (len(shape) - 2), shape[1])
    np.testing.assert_allclose(values, gain, rtol=1e-13)


def test_spectrum_by_frequency_is_that_of_the_operator():
    layer = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular").double()
    whole = singular_values(dense(layer))
    by_frequency = np.sort(spectrum(layer.weight.detach(), size=6).ravel())[::-1]
    np.testing.assert_allclose(by_frequency, whole, atol=1e-13)


def test_a_flattened_orthogonal_convolution_keeps_no_length():
    values = spectrum(filled(orthogonal_, 16, 16, 3, 3), size=16)
    assert values.min() < 0.1 and values.max() > 1.5


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 3, 3), (4, 4, 3, 3, 3)])
def test_a_thousand_circular_convolutions_keep_the_norm(shape, dtype):
    g, depth = generator(4), 1000
    w = torch.empty(shape, dtype=dtype)
    x = torch.randn(1, shape[1], *(4,) * (len(shape) - 2), dtype=dtype, generator=g)
    before = np.linalg.norm(x.double().numpy())
    for _ in range(depth):
        x = circular(x, delta_orthogonal_(w, generator=g), len(shape))
    ratio = np.linalg.norm(x.double().numpy()) / before
    # Each layer: some roundings, of either sign, so that they add up like a random walk.
    assert abs(ratio - 1) < 5 * math.sqrt(depth) * 2 * EPS[dtype]  # 2e-5 with 32 bits


def test_spectrum_of_a_flattened_orthogonal_convolution():
    # At each frequency 3 times a block, n x n, of an orthogonal matrix of 9n rows: with a = 1/9
    # its squares have the moments 1 and 2 - a and end at 36 a (1 - a), by free probability.
    values = np.stack([spectrum(filled(nn.init.orthogonal_, 64, 64, 3, 3, seed=s), 16)
                       for s in range(4)])  # fmt: skip
    assert (values**2).mean() == pytest.approx(1, rel=1e-12)
    fourth = (values**4).mean(axis=(1, 2, 3))
    assert abs(fourth.mean() - (2 - 1 / 9)) < 5 * fourth.std(ddof=1) / 2 + 1 / 64**2
    edge = math.sqrt(32 / 9)  # 1.886; beyond it by chance, in the order of n^(-2/3)
    assert abs(values.max() - edge) < edge * 64 ** (-2 / 3) and values.min() < 0.002
    ours = spectrum(filled(orthogonal_, 64, 64, 3, 3), 16)
    np.testing.assert_array_equal(ours, values[0])


def test_a_product_of_orthogonal_matrices_is_one():
    g, product = generator(), np.eye(50)
    for _ in range(100):
        product = orthogonal_(torch.empty(50, 50).double(), generator=g).numpy() @ product
    np.testing.assert_allclose(singular_values(product), 1, rtol=1e-13)


def test_a_thousand_flattened_orthogonal_convolutions_do_not():
    g, w = generator(4), torch.empty(8, 8, 3, 3)
    x = torch.randn(1, 8, 4, 4, generator=g)
    before = x.norm()
    for _ in range(1000):
        x = circular(x, orthogonal_(w, generator=g), 4)
    assert x.norm() / before < 1e-3


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_identity_equals_numpy(shape):
    for gain in (1.0, 0.01, 0.0):
        w = filled(identity_, *shape, gain=gain)
        np.testing.assert_array_equal(w.numpy(), gain * np.eye(*shape))


ALL = [orthogonal_, delta_orthogonal_, identity_]
MISTAKES = [
    *((rule, (3,), {}, ValueError, r"\(3,\).*expected \(out, in, \*kernel\).*constant_")
      for rule in ALL),
    *((rule, (0, 2, 3), {}, ValueError, r"\(0, 2, 3\).*at least one") for rule in ALL),
    *((rule, (2, 2, 3), {"gain": gain}, ValueError, rf"gain={gain}.*finite.*sqrt\(2\)")
      for rule in ALL for gain in (-1.0, math.nan, math.inf)),
    (delta_orthogonal_, (3, 2), {}, ValueError, r"\(3, 2\).*convolution.*orthogonal_"),
    (delta_orthogonal_, (2, 1, 3, 3, 3, 3), {}, ValueError, "one to three kernel dimensions"),
    (delta_orthogonal_, (2, 3, 3), {}, ValueError,
     "3 channels to 2.*at least as many outputs.*Widen"),
    (identity_, (2, 2, 3), {}, ValueError, r"\(2, 2, 3\).*\(out, in\).*dirac_"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "shape", "options", "kind", "words"), MISTAKES)
def test_errors_name_value_expectation_and_next_step(rule, shape, options, kind, words):
    w = torch.full(shape, 7.0)
    with pytest.raises(kind, match=words):
        rule(w, **options)
    assert (w == 7).all()


@pytest.mark.parametrize("rule", ALL)
def test_integers_are_refused(rule):
    for dtype in (torch.int64, torch.complex64):
        w = torch.ones(3, 3, dtype=dtype)
        with pytest.raises(TypeError, match=rf"{dtype}.*floating point.*quantizing"):
            rule(w)
        assert (w == 1).all()
