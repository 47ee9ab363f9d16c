"""Which network is initialized? Plain torch modules whose layers have names."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from initguide.activations import Activation, get_activation

__all__ = ["logistic_regression", "mlp"]


def logistic_regression(in_features: int = 1) -> nn.Sequential:
    """Return a linear layer with one output and a sigmoid behind it.

    Parameters
    ----------
    in_features : int
        Number of inputs.

    Returns
    -------
    nn.Sequential
        Layers ``linear`` and ``sigmoid``; maps ``(batch, in_features)`` to probabilities of
        shape ``(batch, 1)``.

    Examples
    --------
    >>> import torch
    >>> p = logistic_regression(2)(torch.zeros(5, 2))
    >>> p.shape, bool(((p > 0) & (p < 1)).all())
    (torch.Size([5, 1]), True)
    """
    return nn.Sequential(OrderedDict(linear=nn.Linear(in_features, 1), sigmoid=nn.Sigmoid()))


def mlp(
    *widths: int,
    activation: str | Activation = "relu",
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Return a fully connected network.

    Parameters
    ----------
    *widths : int
        Inputs, hidden units of each layer, outputs: ``mlp(784, 100, 10)`` has one hidden layer.
    activation : str or Activation
        What follows each hidden layer.
    dropout : float
        Probability of dropping a hidden unit, after the activation.
    batch_norm : bool
        Whether to normalize each hidden layer's output before the activation.

    Returns
    -------
    nn.Sequential
        Layers ``flatten``, ``hidden1``, ``norm1``, ``activation1``, ``dropout1``, ...,
        ``output``; maps ``(batch, ...)`` to ``(batch, widths[-1])`` without an activation at
        the end.

    Raises
    ------
    ValueError
        If there are fewer than two widths, one is not positive, or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> mlp(784, 100, 10)(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"widths {widths} do not make a network: expected at least two positive sizes, inputs "
            "first and outputs last, as in mlp(784, 100, 10)."
        )
    phi = get_activation(activation)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (n_in, n_out) in enumerate(pairwise(widths[:-1]), start=1):
        layers[f"hidden{number}"] = nn.Linear(n_in, n_out)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(n_out)
        layers[f"activation{number}"] = phi.module()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(widths[-2], widths[-1])
    return nn.Sequential(layers)
