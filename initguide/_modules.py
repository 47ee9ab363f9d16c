"""What does a user's module hold, and how is it called?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["CONVOLUTIONS", "LAYERS", "TRANSPOSED", "arguments", "check_memory"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (nn.Linear, *CONVOLUTIONS)  # those whose weights a scheme fills


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
