"""What is in the output of a layer? Tensors, and their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Bounds = tuple[float, float]


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module's output, each with the expression that selects it."""
    if isinstance(value, Tensor):
        yield path, value
    items: dict[str, Any] = {}
    if isinstance(value, Mapping):
        items = {f"[{key!r}]": part for key, part in value.items()}
    elif isinstance(value, (tuple, list)):
        items = {f"[{key}]": part for key, part in enumerate(value)}
    elif is_dataclass(value):
        items = {f".{key}": part for key, part in vars(value).items()}
    for key, part in items.items():
        yield from tensors(part, path + key)


class Average(NamedTuple):
    """A sum on the device, and the number of its terms: one transfer gets all that there are."""

    total: Tensor
    terms: int


def moments(x: Tensor, bounds: Bounds | None = None) -> dict[str, Average]:
    """Return the mean of a tensor, of its square, ... by quantity.

    Values within 1 % of the bounds are ``saturated``.
    """
    x = x if x.layout is torch.strided else x.to_dense()
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    # In the order of memory, and in parts that fit a cache: no second copy of the whole.
    flat = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)
    sums, squares, zeros, saturated = [], [], [], []
    for part in torch.split(flat, 2**16 if x.device.type == "cpu" else 2**24):
        wide = part.to(dtype, copy=True)
        sums.append(wide.sum())
        squares.append(wide.dot(wide))
        if bounds is not None:
            middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
            saturated.append((wide - middle).abs_().ge_(0.98 * half).sum())
        zeros.append(wide.eq_(0).sum())  # in place and last: the fastest way to count
    totals = {"mean": sums, "second_moment": squares, "zeros": zeros, "saturated": saturated}
    return {
        quantity: Average(torch.stack(parts).sum(), x.numel())
        for quantity, parts in totals.items()
        if parts
    }
