"""What are the layers of a model? Their weights, fans and arguments.

A convolution with groups is several layers in one tensor, and a transposed one stores its weight
the other way round: `fans` and `weight_views` know.
"""

from __future__ import annotations

import math
import re
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
    both fans of a transposed one. Nor does it tell a stride. A transposed convolution of stride
    :math:`s` sums, in each dimension, one of :math:`s` elements of its kernel, and a layer's
    fan-in here counts those that meet. The stride of other convolutions concerns the fan-out
    only, and is not counted, by the convention of [he2015]_.

    Examples
    --------
    >>> from torch import nn
    >>> fans(nn.Linear(784, 100))
    Fans(fan_in=784, fan_out=100)
    >>> fans(nn.Conv2d(32, 32, 3, groups=32))  # depthwise: one channel in, one out
    Fans(fan_in=9, fan_out=9)
    >>> fans(nn.ConvTranspose2d(8, 4, 4, stride=2)).fan_in  # 2 x 2 of the 4 x 4 meet an output
    32
    """
    steps = 1
    if isinstance(layer, nn.Module):
        if isinstance(layer, CONVOLUTIONS):
            groups, transposed = layer.groups, isinstance(layer, TRANSPOSED)
            steps = math.prod(_periods(layer))
        elif not isinstance(layer, nn.Linear):
            raise TypeError(
                f"cannot count the fans of a {type(layer).__name__}: expected Linear, Conv or "
                "ConvTranspose. Pass the weight tensor itself, shaped (out, in, *kernel)."
            )
        layer = layer.weight
    if is_lazy(layer):
        check_memory([("weight", layer)])
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
    return Fans(fan_in=max(round(second * kernel / steps), 1), fan_out=first * kernel)


def weight_views(
    layer: nn.Module, weight: Tensor | None = None, *, pointwise: bool = False
) -> list[Tensor]:
    """Return the weight as views of shape ``(out, in, *kernel)``, one a matrix.

    Each group of a convolution is a layer of its own, and a transposed convolution stores
    its weight the other way round; if it has a stride, its outputs fall into classes that meet
    different elements of the kernel. On these views the fans of any initializer written for
    plain tensors are right, torch's own included.

    Parameters
    ----------
    layer : nn.Module
        A Linear, Conv or ConvTranspose layer.
    weight : Tensor, optional
        In place of ``layer.weight``, of its shape.
    pointwise : bool
        Whether the layer's input has a single position, so that every output of a transposed
        convolution meets one element of the kernel only.

    Returns
    -------
    list of Tensor
        Views that share memory with the weight.
    """
    whole: Tensor = layer.weight if weight is None else weight  # type: ignore[assignment]
    views = list(whole.detach().chunk(int(getattr(layer, "groups", 1))))
    if not isinstance(layer, TRANSPOSED):
        return views
    views = [view.transpose(0, 1) for view in views]
    periods = whole.shape[2:] if pointwise else _periods(layer)
    for axis, period in enumerate(periods, start=2):
        starts = range(min(period, whole.shape[axis]))
        views = [_every(view, axis, start, period) for view in views for start in starts]
    return views


def _every(view: Tensor, axis: int, start: int, period: int) -> Tensor:
    index = [slice(None)] * axis + [slice(start, None, period)]
    return view[tuple(index)]


def _periods(layer: nn.Module) -> tuple[int, ...]:
    """Return after how many elements of the kernel the same outputs are met again."""
    if not isinstance(layer, TRANSPOSED):
        return (1,)
    sizes = zip(layer.stride, layer.dilation, layer.kernel_size, strict=True)
    return tuple(min(s // math.gcd(s, d), k) for s, d, k in sizes)


def check_memory(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse named tensors without values: those of a lazy module or on the meta device."""
    for name, tensor in tensors:
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"{name!r} has no memory yet: expected a materialized tensor. Run one batch "
                "through a lazy model; call model.to_empty(device='cpu') on a meta one and "
                "initialize it."
            )


def is_adapter(name: str, weight: Tensor, *, partly_frozen: bool) -> bool:
    """Whether a weight adapts a trained model: its zeros leave that as it is at first."""
    named = re.search(r"(^|[._])lora", name.lower()) is not None
    if named or not partly_frozen:
        return named
    size: Any = weight.detach().abs().sum()
    return not bool(size.full_tensor() if hasattr(size, "full_tensor") else size)


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
