"""Is what someone passes usable? Errors that name the value, before it fails elsewhere."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

__all__ = ["check_names", "check_split", "check_type", "part_of", "seed_number", "whole_number"]


def check_type(name: str, value: object, expected: type) -> None:
    """Raise TypeError unless ``value`` is one of ``expected``."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} is {_short(value)}; expected a {expected.__name__}.")


def check_names(name: str, values: object) -> tuple[str, ...]:
    """Return a sequence of strings as a tuple; a string is not one."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {_short(values)}; expected a tuple of str.")
    names = tuple(values)
    if wrong := [each for each in names if not isinstance(each, str)]:
        raise TypeError(f"{name} holds {_short(wrong[0])}; expected str only.")
    return names


def whole_number(name: str, value: object) -> int:
    """Return an int, or a number that stands for one; True and 2.0 do not."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {_short(value)}; expected a whole number.") from None


def part_of(total: int, name: str, value: object) -> int:
    """Return how many of ``total`` are meant by a count or, if it is no integer, a fraction."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {_short(value)}; expected an int or a float between 0 and 1.")
    if isinstance(value, Integral):
        return int(value)
    count = float(value) * total
    return round(count) if math.isfinite(count) else 0


def seed_number(value: object) -> int:
    """Return a seed that every generator takes."""
    seed = whole_number("seed", value)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; expected 0 to 2**64 - 1.")
    return seed


def check_split(split: str, inputs: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
    """Raise unless inputs and targets can be trained on, or tested."""
    for name, values in ((f"{split}_inputs", inputs), (f"{split}_targets", targets)):
        _check_tensor(name, values)
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(
            f"{split}_inputs has {len(inputs)} and {split}_targets {len(targets)} examples; "
            "expected the same number, at least 1. Pass both for each example."
        )
    for name, values in ((f"{split}_inputs", inputs), (f"{split}_targets", targets)):
        if values.numel() == 0:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}, no values; expected at least one for "
                "each example. Look at how it was made."
            )
    if not inputs.is_floating_point():
        raise ValueError(
            f"{split}_inputs is {inputs.dtype}; expected floating point. Convert it with .float()."
        )
    if not targets.is_floating_point() and targets.dtype != torch.int64:
        raise ValueError(
            f"{split}_targets is {targets.dtype}; expected torch.int64 class indices or "
            "floating-point values. Convert it with .long() or .float()."
        )
    for name, values in ((f"{split}_inputs", inputs), (f"{split}_targets", targets)):
        # The extremes are enough, NaN spreads to both; isfinite() would fill a tensor as large.
        low, high = (extreme.item() for extreme in torch.aminmax(values.detach()))
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"{name} holds NaN or infinity; expected finite numbers. Clean it.")
    if not targets.is_floating_point() and not 0 <= low <= high < len(classes):
        raise ValueError(
            f"{split}_targets runs from {low} to {high}; expected class indices in "
            f"range({len(classes)}). Relabel them, or name every class in classes."
        )


def _check_tensor(name: str, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{name} is {_short(values)}; expected a torch.Tensor. Convert it with "
            "torch.as_tensor()."
        )
    if values.layout != torch.strided or values.is_meta:
        raise ValueError(
            f"{name} is {'meta' if values.is_meta else values.layout}; expected dense values in "
            "memory. Convert it, a sparse tensor with .to_dense()."
        )
    if values.dim() == 0:
        raise ValueError(f"{name} is a single number; expected one row an example. Reshape it.")
    if values.grad_fn is not None:
        raise ValueError(
            f"{name} has the gradient history of {values.grad_fn.name()}; expected data. Call "
            ".detach() on it."
        )


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 and "\n" not in words else f"of type {type(value).__name__}"
