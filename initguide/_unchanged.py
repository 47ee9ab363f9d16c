"""How is a model run without a trace? `unchanged` puts back what a forward pass may change.

`copies` gives it inputs of its own, for a model may work in place on those it gets.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_PLAIN = {type(None), bool, int, float, str, type, FunctionType}  # most of what there is
_SEQUENCES = (list, tuple, set, frozenset, deque)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


@contextmanager
def unchanged(model: nn.Module, batch: object, *, draws: bool = True) -> Iterator[set[Tensor]]:
    """Put a model and the random states back at the end, also after an error.

    Parameters
    ----------
    model : nn.Module
        Its parameters, buffers and attributes: tensors, numpy arrays, random generators, and
        the contents of dicts, lists, sets and deques, at any depth, also in tuples, dataclasses
        and modules. What objects of other classes hold is not known, and not put back.
    batch : object
        Of its tensors the ``.grad``, and the random states of their devices.
    draws : bool
        Whether torch's global random state is put back, too.

    Yields
    ------
    set of Tensor
        Add the tensors that are to keep their new values.
    """
    roots = [*model.parameters(), *model.buffers(), model]  # a scripted one has no other way in
    held = _reach(roots)
    tensors = [_Saved.of(t) for t in held if isinstance(t, Tensor) and not is_lazy(t)]
    given = [t for t in _reach([batch], objects=True) if isinstance(t, Tensor)]
    leaves = [t for t in given if t.is_leaf]
    gradients = [(t, t.grad) for t in [*(saved.tensor for saved in tensors if saved.leaf), *leaves]]
    others = [put_back for value in held if (put_back := _restorer(value)) is not None]
    others += [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state(legacy=False)),
    ]
    kept: set[Tensor] = set()
    with _forked([*(saved.tensor for saved in tensors), *given], enabled=draws):
        try:
            for tensor, _ in gradients:
                tensor.grad = None  # should anyone call backward()
            yield kept
        finally:
            for put_back in others:
                put_back()
            for saved in tensors:
                saved.put_back(values=saved.tensor not in kept)
            for tensor, gradient in gradients:
                tensor.grad = gradient
            # It may hold a copy, in half precision, of values that are no longer there.
            torch.clear_autocast_cache()


def copies(inputs: Any) -> Any:
    """Copy the tensors and arrays of a model's inputs, at any depth.

    A tensor that requires a gradient still does, and the caller's takes part: a loss may
    differentiate by it. An object that cannot be copied, an open file for instance, is passed on.
    """
    held = [v for v in _reach([inputs], objects=True) if isinstance(v, (Tensor, nn.Module))]
    # What occurs twice is one copy: attention looks whether query and key are the same.
    return _copied(inputs, {id(v): _clone(v) if isinstance(v, Tensor) else v for v in held})


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, dict(memo))  # a copy that fails leaves halves in it
    except Exception:  # whatever a class raises
        if type(value) in (list, tuple):
            return type(value)(_copied(part, memo) for part in value)
        if type(value) is dict:
            return {key: _copied(part, memo) for key, part in value.items()}
        return value


def _clone(tensor: Tensor) -> Tensor:
    if not tensor.requires_grad:
        return tensor.detach().clone()
    with torch.enable_grad():
        return tensor.clone() if not tensor.is_inference() else tensor.clone().requires_grad_()


def _reach(roots: Iterable[object], *, objects: bool = False) -> list[Any]:
    """Return all that can be put back or copied in some values: the values and their parts.

    With ``objects`` also in the attributes of objects other than modules.
    """
    found: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN or id(value) in found:
            continue
        if isinstance(value, dict):
            parts = list(value.values())
        elif isinstance(value, _SEQUENCES):
            parts = list(value)
        elif isinstance(value, (Tensor, np.ndarray, *_GENERATORS)):
            parts = []
        elif isinstance(value, nn.Module):
            parts = [] if objects else [vars(value)]
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            if not (is_dataclass(value) or (objects and not callable(value))):
                continue
            parts = [vars(value)]
        else:
            continue
        found[id(value)] = value
        waiting += parts
    return list(found.values())


class _Saved(NamedTuple):
    """A tensor, and what is put back: its memory, values, and whether it requires a gradient."""

    tensor: Tensor
    memory: Tensor  # as .data may be rebound
    values: Tensor | None
    requires_grad: bool
    leaf: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Saved:
        # .data shares the memory but not the version that a pending graph checks.
        data = tensor.data
        # Where elements overlap, as in an expanded tensor, torch refuses to write.
        values = None if torch._debug_has_internal_overlap(tensor) == 1 else data.clone()
        return cls(tensor, data, values, tensor.requires_grad, tensor.is_leaf)

    def put_back(self, *, values: bool) -> None:
        if values:
            self.tensor.data = self.memory
            if self.values is not None:
                self.memory.copy_(self.values)
        if self.leaf and not self.tensor.is_leaf and not self.tensor._is_view():
            self.tensor.detach_()  # a buffer that was overwritten with what has a gradient
        if self.tensor.requires_grad != self.requires_grad and self.tensor.is_leaf:
            self.tensor.requires_grad_(self.requires_grad)


def _restorer(value: Any) -> Callable[[], object] | None:
    """Return what puts back the contents of a container, an array or a random generator."""
    if isinstance(value, (dict, list, set, deque)):
        if not value:
            return value.clear  # most are dicts of hooks, without any
        # The base's methods: Counter.update adds, and a subclass may have effects of its own.
        base: Any = next(c for c in (OrderedDict, dict, list, set, deque) if isinstance(value, c))
        contents = tuple(base.items(value) if isinstance(value, dict) else value)
        return partial(_refill, base, value, contents)
    if isinstance(value, np.ndarray) and value.flags.writeable:
        return partial(np.copyto, value, value.copy())
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state(legacy=False))
    return None


def _refill(base: Any, value: Any, contents: tuple[Any, ...]) -> None:
    base.clear(value)
    (base.update if hasattr(base, "update") else base.extend)(value, contents)


@contextmanager
def _forked(tensors: Iterable[Tensor], *, enabled: bool) -> Iterator[None]:
    """Put torch's random states back: the global one and those of the tensors' devices."""
    devices = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
    kind = next((d.type for d in devices), "cuda")
    own = [d for d in devices if d.type == kind]
    with torch.random.fork_rng(own, enabled=enabled, device_type=kind):
        yield
