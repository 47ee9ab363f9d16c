"""What are the layers of a model? Their weights, fans and arguments.

A convolution with groups is several layers in one tensor, and a transposed one stores its weight
the other way round: `fans` and `weight_views` know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["Fans", "fans", "weight_views"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (nn.Linear, *CONVOLUTIONS)  # those whose weights a scheme fills


class Fans(NamedTuple):
    """How many inputs one output sums, and how many outputs one input feeds.

    Attributes
    ----------
    fan_in, fan_out : int
    """

    fan_in: int
    fan_out: int


def fans(layer: Tensor | nn.Module, *, groups: int = 1, transposed: bool = False) -> Fans:
    r"""Count the connections of a layer in both directions.

    A linear layer has :math:`\text{fan}_\text{in} = n_\text{in}` and
    :math:`\text{fan}_\text{out} = n_\text{out}`. A convolution with :math:`g` groups and
    :math:`k` kernel elements has :math:`k\, c_\text{in} / g` and
    :math:`k\, c_\text{out} / g`.

    Parameters
    ----------
    layer : Tensor or nn.Module
        A weight of shape ``(out, in / groups, *kernel)``, or ``(in, out / groups,
        *kernel)`` if ``transposed``; or a Linear, Conv or ConvTranspose layer, which knows
        its own groups and direction.
    groups : int
        Groups of the convolution; read from the layer if one is given.
    transposed : bool
        Whether the weight is a transposed convolution's; read from the layer if one is given.

    Returns
    -------
    Fans

    Raises
    ------
    ValueError
        If the weight has fewer than two dimensions or no element, or if ``groups`` does not
        divide its first dimension.
    TypeError
        If the layer is of another kind.

    Notes
    -----
    A tensor does not say how many groups it serves nor in which direction, so torch's own
    count is ``groups`` times too large for the fan-out of a grouped convolution and swaps
    both fans of a transposed one. Strides are not counted, by the convention of
    [he2015]_ and of every framework: a transposed convolution of stride :math:`s` in
    :math:`d` dimensions sums :math:`s^d` times fewer inputs than its fan-in says.

    Examples
    --------
    >>> from torch import nn
    >>> fans(nn.Linear(784, 100))
    Fans(fan_in=784, fan_out=100)
    >>> fans(nn.Conv2d(32, 32, 3, groups=32))  # depthwise: one channel in, one out
    Fans(fan_in=9, fan_out=9)
    """
    if isinstance(layer, nn.Module):
        if isinstance(layer, CONVOLUTIONS):
            groups, transposed = layer.groups, isinstance(layer, TRANSPOSED)
        elif not isinstance(layer, nn.Linear):
            raise TypeError(
                f"cannot count the fans of a {type(layer).__name__}: expected Linear, Conv or "
                "ConvTranspose. Pass the weight tensor itself, shaped (out, in, *kernel)."
            )
        layer = layer.weight
    if layer.ndim < 2:
        raise ValueError(
            f"cannot count the fans of a weight of shape {tuple(layer.shape)}: expected at least "
            "2 dimensions (out, in, *kernel). For a bias or a scale use constant_."
        )
    if layer.numel() == 0:
        raise ValueError(
            f"cannot count the fans of the empty weight of shape {tuple(layer.shape)}: expected "
            "at least one input and one output. Build the layer with positive sizes first."
        )
    if groups < 1 or layer.shape[0] % groups:
        raise ValueError(
            f"groups={groups} does not divide the first dimension of a weight of shape "
            f"{tuple(layer.shape)}. Pass the groups that the convolution was built with."
        )
    first, second = layer.shape[0] // groups, layer.shape[1]
    kernel = math.prod(layer.shape[2:])
    if transposed:
        first, second = second, first
    return Fans(fan_in=second * kernel, fan_out=first * kernel)


def weight_views(layer: nn.Module) -> list[Tensor]:
    """Return the weight as views of shape ``(out, in, *kernel)``, one a group.

    Each group of a convolution is a layer of its own, and a transposed convolution stores
    its weight the other way round. On these views the fans of any initializer written for
    plain tensors are right, torch's own included.

    Parameters
    ----------
    layer : nn.Module
        A Linear, Conv or ConvTranspose layer.

    Returns
    -------
    list of Tensor
        Views that share memory with ``layer.weight``.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    views = weight.detach().chunk(int(getattr(layer, "groups", 1)))
    return [view.transpose(0, 1) if isinstance(layer, TRANSPOSED) else view for view in views]


def check_memory(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse named tensors without values: those of a lazy module or on the meta device."""
    for name, tensor in tensors:
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"{name!r} has no memory yet: expected a materialized tensor. Run one batch "
                "through a lazy model; call model.to_empty(device='cpu') on a meta one and "
                "initialize it."
            )


def arguments(batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that a batch stands for."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    if type(batch) in (tuple, list):  # not a named tuple: a PackedSequence is one argument
        return tuple(batch), {}  # type: ignore[arg-type]
    if isinstance(batch, Mapping):
        return (), dict(batch)
    raise TypeError(
        f"batch is of type {type(batch).__name__}: expected a tensor, a tuple or list of "
        "positional inputs, or a dict of keyword inputs. Take a batch from a loader with "
        "next(iter(loader)), leave out its targets, make a tensor of an array with "
        "torch.as_tensor, and put any other single input x in a tuple: (x,)."
    )
