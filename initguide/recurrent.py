"""How is a recurrent layer initialized? Gate by gate, and so that it remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from initguide.orthogonal import orthogonal_
from initguide.parameters import RECURRENT, fill_forget_gate, parameters, write

__all__ = ["recurrent_"]

_Recurrent = TypeVar("_Recurrent", bound=nn.RNNBase | nn.RNNCellBase)


def recurrent_(
    rnn: _Recurrent,
    weight: Callable[..., Tensor] = orthogonal_,
    *,
    forget_bias: float = 1.0,
    generator: torch.Generator | None = None,
) -> _Recurrent:
    r"""Fill the hidden-to-hidden weights of a recurrent layer, each gate's on its own.

    torch packs the weights of all gates into one tensor: three of a GRU, four of an LSTM. An
    initializer that sees the tall matrix makes its columns orthonormal, and each gate's block is
    then far from orthogonal.

    Parameters
    ----------
    rnn : nn.RNN, nn.GRU, nn.LSTM or one of their cells
        Changed in place: every layer, both directions, and the projection of an LSTM that has
        one. Input weights and other biases are left alone. Weights that ``weight_norm``
        computes follow ``weight`` themselves.
    weight : callable
        In-place initializer ``weight(w, generator=...)`` that receives each gate's block of shape
        ``(hidden, state)``, such as `orthogonal_` or `identity_`; ``state`` is ``hidden``, or
        ``proj_size`` if there is a projection, which is then filled too, ``(state, hidden)``.
    forget_bias : float
        What the forget gate of an LSTM adds to its sum: the bias beside its input weight becomes
        this, the one beside its hidden weight 0. At 1 the gate lets 73 % pass, at 0 half.
        [jozefowicz2015]_
    generator : torch.Generator, optional
        Where the draws come from; torch's global one by default.

    Returns
    -------
    nn.Module
        ``rnn``.

    Raises
    ------
    TypeError
        If ``rnn`` is not a recurrent layer.
    ValueError
        If ``forget_bias`` is not finite, or a hidden weight is computed in a way that fixes its
        scale.

    Notes
    -----
    After an error, of ``weight`` too, the layer is unchanged.

    Examples
    --------
    >>> import torch
    >>> lstm = recurrent_(torch.nn.LSTM(3, 5), generator=torch.Generator().manual_seed(0))
    >>> [torch.allclose(w.T @ w, torch.eye(5), atol=1e-6) for w in lstm.weight_hh_l0.split(5)]
    [True, True, True, True]
    >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[5:10].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if not isinstance(rnn, RECURRENT):
        raise TypeError(
            f"{type(rnn).__name__} is not a recurrent layer: expected RNN, GRU, LSTM or one of "
            "their cells. Pass the layer itself, for example model.lstm."
        )
    if not math.isfinite(forget_bias):
        raise ValueError(f"forget_bias={forget_bias!r}: expected a finite number, 1 by default.")
    values = []
    for p in parameters(rnn):
        if p.kind == "weight" and p.attribute.startswith("weight_h"):
            value = p.value()
            for block in p.matrices(value):
                weight(block, generator=generator)
            values.append((p, value))
        elif p.kind == "bias" and isinstance(rnn, nn.LSTM | nn.LSTMCell):
            value = p.value()
            fill_forget_gate(p, value, forget_bias)
            values.append((p, value))
    write(values)
    return rnn
