"""Which layer feeds which? One forward pass tells, whatever the model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initguide._outputs import tensors
from initguide._unchanged import copies, unchanged
from initguide.layers import arguments


@dataclass(frozen=True)
class Flow:
    """What a forward pass showed.

    Attributes
    ----------
    order : tuple of str
        Layers by their first call.
    sources : dict of str to frozenset of str
        The layers whose output reaches a layer through nothing but modules and functions that are
        no layer; none where the model's input does.
    readouts : frozenset of str
        The layers whose output reaches the model's output like that.
    pointwise : frozenset of str
        Convolutions whose input had a single position.
    """

    order: tuple[str, ...]
    sources: dict[str, frozenset[str]]
    readouts: frozenset[str]
    pointwise: frozenset[str]


def follow(model: nn.Module, layers: Mapping[str, nn.Module], batch: object) -> Flow:
    """Run a batch through a model and see which of its ``layers`` feeds which.

    Every output of a layer is replaced by a copy that begins a new graph of autograd's; the
    graph behind a tensor then ends at the layers that it comes from. The model and the batch are
    afterwards what they were.
    """
    args, kwargs = arguments(copies(batch))
    born: dict[int, str] = {}  # a leaf's identity -> its layer
    leaves: list[Tensor] = []  # kept alive, so that no identity is used twice
    sources: dict[str, set[str]] = {}
    pointwise: set[str] = set()
    names = {module: name for name, module in layers.items()}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        name = names[module]
        given = [t for _, t in tensors((args, kwargs))]
        sources.setdefault(name, set()).update(_origins(given, born))
        if given and given[0].ndim > 2 and set(given[0].shape[2:]) == {1}:
            pointwise.add(name)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        def fresh(tensor: Tensor) -> Tensor:
            if not (tensor.is_floating_point() or tensor.is_complex()):
                return tensor
            leaf = tensor.detach().requires_grad_()
            leaves.append(leaf)
            born[id(leaf)] = names[module]
            return leaf.clone()  # which may be changed in place

        return _replaced(output, fresh)

    fast = torch.backends.mha.get_fastpath_enabled()
    # What `unchanged` puts back must not hold the hooks, so they come after it.
    with unchanged(model, batch), torch.inference_mode(False), torch.enable_grad():
        handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in names]
        handles += [m.register_forward_hook(after) for m in names]
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # it calls no sublayer
            for m in model.modules():
                m.training = False
            output = model(*args, **kwargs)
            readouts = _origins([t for _, t in tensors(output)], born)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for handle in handles:
                handle.remove()
    return Flow(
        tuple(sources),
        {name: frozenset(found) for name, found in sources.items()},
        frozenset(readouts),
        frozenset(pointwise),
    )


def _origins(tensors: list[Tensor], born: Mapping[int, str]) -> set[str]:
    """Return the layers at which the graphs behind the tensors end."""
    todo = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, found = set(todo), set()
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) in born:
            found.add(born[id(leaf)])
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return found


def _replaced(value: Any, function: Any) -> Any:
    """Return the value with each tensor in it replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        copy = type(value)() if type(value) is not dict else {}
        copy.update({key: _replaced(each, function) for key, each in value.items()})
        return copy
    if isinstance(value, tuple | list):
        parts = [_replaced(each, function) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
