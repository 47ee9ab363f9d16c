"""A recurrent layer's gates are filled one by one, and its forget gates let it remember."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from initguide import identity_, recurrent_

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def singular_values(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def test_a_recurrent_identity_adds_up_what_it_is_given():
    rnn = recurrent_(nn.RNN(4, 4, nonlinearity="relu", batch_first=True), identity_)
    for bias in (rnn.bias_ih_l0, rnn.bias_hh_l0):
        nn.init.zeros_(bias)
    identity_(rnn.weight_ih_l0)
    x = torch.rand(2, 50, 4, generator=generator())
    _, last = rnn(x)
    np.testing.assert_allclose(last[0].detach(), x.sum(1), rtol=50 * EPS[torch.float32])


RECURRENT = {
    "RNN": (1, lambda: nn.RNN(3, 6)),
    "GRU": (3, lambda: nn.GRU(3, 6, num_layers=2, bidirectional=True)),
    "LSTM": (4, lambda: nn.LSTM(3, 6, num_layers=2)),
    "projected": (4, lambda: nn.LSTM(3, 6, proj_size=2)),
    "RNNCell": (1, lambda: nn.RNNCell(3, 6)),
    "GRUCell": (3, lambda: nn.GRUCell(3, 6)),
    "LSTMCell": (4, lambda: nn.LSTMCell(3, 6)),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_each_gate_is_orthogonal_on_its_own(kind):
    gates, make = RECURRENT[kind]
    rnn = make().double()
    before = {name: p.detach().clone() for name, p in rnn.named_parameters()}
    assert recurrent_(rnn, generator=generator()) is rnn
    seen = []
    for name, p in rnn.named_parameters():
        if name.startswith(("weight_hh", "weight_hr")):
            seen += np.split(p.detach().numpy(), gates if "hh" in name else 1)
        elif "LSTM" in type(rnn).__name__ and name.startswith("bias"):
            forget = torch.arange(24) // 6 == 1
            assert torch.equal(p[~forget], before[name][~forget]), name
        else:
            assert torch.equal(p, before[name]), name
    for block in seen:
        np.testing.assert_allclose(singular_values(block), 1, rtol=1e-13)
    for one, other in itertools.combinations(seen, 2):
        assert one.shape != other.shape or not np.allclose(one, other)
    layers = 1 if kind.endswith("Cell") else rnn.num_layers * (1 + rnn.bidirectional)
    assert len(seen) == layers * (gates + (kind == "projected"))


def test_an_initializer_that_sees_all_gates_at_once_makes_none_orthogonal():
    lstm = nn.LSTM(3, 6).double()
    nn.init.orthogonal_(lstm.weight_hh_l0, generator=generator())
    for block in np.split(lstm.weight_hh_l0.detach().numpy(), 4):
        assert singular_values(block).min() < 0.5


def test_recurrent_layers_take_torch_functions_and_depend_on_the_generator_alone():
    state = torch.get_rng_state()
    one, other = nn.GRU(2, 3), nn.GRU(2, 3)
    torch.set_rng_state(state)
    for rnn in (one, other):
        recurrent_(rnn, nn.init.orthogonal_, generator=generator())
    assert torch.equal(one.weight_hh_l0, other.weight_hh_l0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rule_that_fails_half_way_leaves_the_recurrent_layer_unchanged():
    rnn, calls = nn.GRU(2, 3), []
    before = [p.detach().clone() for p in rnn.parameters()]

    def fails(w, *, generator):
        calls.append(w.zero_())
        if len(calls) == 2:
            raise ArithmeticError("no more")
        return w

    with pytest.raises(ArithmeticError, match="no more"):
        recurrent_(rnn, fails)
    assert all(torch.equal(p, b) for p, b in zip(rnn.parameters(), before, strict=True))


@pytest.mark.parametrize("forget", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["LSTM", "projected", "LSTMCell"])
def test_the_forget_gates_two_biases_sum_to_what_is_asked(kind, forget):
    rnn = recurrent_(RECURRENT[kind][1](), forget_bias=forget)
    biases = {name: p for name, p in rnn.named_parameters() if name.startswith("bias")}
    for name in [n for n in biases if n.startswith("bias_ih")]:
        total = biases[name] + biases[name.replace("ih", "hh")]
        assert (total[6:12] == forget).all()


def test_a_forget_gate_of_one_lets_the_cell_remember():
    # d c_50 / d c_0 is the product of the forget gates: about .5^50 and .73^50.
    sizes = []
    for forget in (0.0, 1.0):
        cell = recurrent_(nn.LSTMCell(4, 16), forget_bias=forget, generator=generator())
        with torch.no_grad():  # so that the gates see their biases only
            for name, p in cell.named_parameters():
                p.copy_(
                    p
                    * (name == "bias_ih")
                    * (torch.arange(64) // 16 == 1).view(-1, *[1] * (p.ndim - 1))
                )
        c = start = torch.randn(1, 16, requires_grad=True)
        h = torch.zeros(1, 16)
        for _ in range(50):
            h, c = cell(torch.zeros(1, 4), (h, c))
        (slope,) = torch.autograd.grad(c.sum(), start)
        sizes.append(slope.mean().item())
    sigmoid = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(sizes, [0.5**50, sigmoid**50], rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("old", [False, True])
def test_a_weight_normed_recurrent_weight_follows_the_rule(old):
    wrap = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    lstm = wrap(nn.LSTM(2, 6), "weight_hh_l0")
    recurrent_(lstm, generator=generator())
    for block in lstm.weight_hh_l0.detach().double().numpy().reshape(4, 6, 6):
        np.testing.assert_allclose(singular_values(block), 1, rtol=1e-5)


def test_a_hidden_weight_whose_scale_is_fixed_is_an_error_that_names_it():
    rnn = nn.utils.parametrizations.spectral_norm(nn.RNN(2, 3), "weight_hh_l0")
    before = [p.detach().clone() for p in rnn.parameters()]
    with pytest.raises(ValueError, match=r"'weight_hh_l0'.*SpectralNorm.*plain layer first"):
        recurrent_(rnn, lambda w, generator: nn.init.constant_(w, 5.0))
    assert all(torch.equal(p, b) for p, b in zip(rnn.parameters(), before, strict=True))


def test_only_recurrent_layers_have_gates():
    with pytest.raises(TypeError, match=r"Linear.*RNN, GRU, LSTM.*model\.lstm"):
        recurrent_(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"forget_bias=nan.*finite"):
        recurrent_(nn.LSTM(2, 2), forget_bias=math.nan)
