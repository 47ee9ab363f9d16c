"""What is each parameter of a model? What it does, and the matrices that it holds.

A layer's weight may be several matrices in one tensor (groups, gates, query, key and value,
experts), lie in memory the other way round, or be computed from other tensors (weight_norm).
`parameters` finds all of that, so that a rule sees each matrix as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from initguide.layers import LAYERS, check_memory, weight_views

__all__ = ["Parameter", "parameters"]

Kind = Literal["weight", "bias", "embedding", "norm", "other"]
Splits = Mapping[str, int | Sequence[int]]

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_GATES = {"LSTM": "input, forget, cell and output gate", "GRU": "reset, update and new gate"}


@dataclass(frozen=True, eq=False)
class Parameter:
    """A tensor that a model computes with, whether it is stored so or made of others.

    Attributes
    ----------
    name : str
        As in ``named_parameters()``; of a computed weight the name of the result, ``"0.weight"``.
    kind : {"weight", "bias", "embedding", "norm", "other"}
    what : str
        The same in words, with its layer.
    layer : str
        Name of the module that owns it.
    module : nn.Module
        That module.
    stored : dict of Tensor
        The parameters that hold it, by name: itself, or those it is computed from.
    splits : tuple of int
        Into how many blocks its outputs fall, level by level.
    tied : tuple of str
        Other names of the same tensor.
    """

    name: str
    kind: Kind
    what: str
    layer: str
    module: nn.Module
    stored: dict[str, Tensor]
    splits: tuple[int, ...] = ()
    tied: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        """Name of the tensor in its module."""
        return self.name.rpartition(".")[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor; of a sharded one, the whole."""
        return tuple(self.current().shape)

    @property
    def frozen(self) -> bool:
        """Whether nothing of it is trained."""
        return not any(p.requires_grad for p in self.stored.values())

    def value(self) -> Tensor:
        """Return a copy of what the model computes with; of a sharded tensor, the whole."""
        value = self.current()
        if _is_sharded(value):
            return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        return value.clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def current(self) -> Tensor:
        """Return what the model computes with, sharded if it is."""
        modes = {m: m.training for m in self.module.modules()}
        try:
            for m in modes:
                m.training = False  # spectral_norm would go on iterating
            current: Tensor = getattr(self.module, self.attribute)
        finally:
            for m, mode in modes.items():
                m.training = mode
        return current.detach()

    def matrices(self, value: Tensor, *, pointwise: bool = False) -> list[Tensor]:
        """Return views of ``value``, one a matrix, each of shape ``(out, in, *kernel)``.

        ``pointwise``: the input of a transposed convolution has a single position.
        """
        module, attribute = self.module, self.attribute
        views = [value]
        if isinstance(module, LAYERS) and attribute == "weight":
            views = weight_views(module, value, pointwise=pointwise)
        elif isinstance(module, RECURRENT) and "_hr" not in attribute:
            views = list(torch.split(value, int(module.hidden_size)))
        elif isinstance(module, nn.MultiheadAttention) and attribute == "in_proj_weight":
            views = list(value.chunk(3))
        elif isinstance(module, nn.Bilinear):
            views = [value.flatten(1)]
        elif _is_conv1d(module):
            views = [value.T]
        elif _is_experts(module):
            experts = list(value.mT if module.is_transposed else value)
            packed = 2 if attribute.startswith("gate_up") else 1
            views = [block for expert in experts for block in expert.chunk(packed)]
        for count in self.splits:
            views = [block for view in views for block in _blocks(self.name, view, count)]
        return views

    def set(self, value: Tensor) -> None:
        """Make the model compute with ``value``."""
        module, attribute = self.module, self.attribute
        if attribute in module._parameters:
            _copy(module._parameters[attribute], value)
        elif parametrize.is_parametrized(module, attribute):
            with torch.no_grad():
                setattr(module, attribute, value)
            self._verify(value)
        else:
            self._set_hooked(value)

    def _set_hooked(self, value: Tensor) -> None:
        """Set what the hooks of before ``torch.nn.utils.parametrizations`` compute."""
        module, attribute = self.module, self.attribute
        held = {name.rpartition(".")[2]: p.detach() for name, p in self.stored.items()}
        hook = _hook(module, attribute)
        mask = module._buffers.get(f"{attribute}_mask")
        if type(hook).__name__ == "WeightNorm":
            held[f"{attribute}_g"].copy_(torch.norm_except_dim(value, 2, hook.dim))
            held[f"{attribute}_v"].copy_(value)
            setattr(module, attribute, hook.compute_weight(module))
            self._verify(value)
        elif mask is not None:  # pruned: what is cut stays cut
            held[f"{attribute}_orig"].copy_(value)
            setattr(module, attribute, value * mask)
        else:
            self._refuse(type(hook).__name__)

    def _verify(self, value: Tensor) -> None:
        slack = 1e-4 * float(value.abs().max())
        if not torch.allclose(self.value(), value, rtol=1e-3, atol=slack):
            made: Any = getattr(self.module, "parametrizations", nn.ModuleDict())
            kinds = [type(k).__name__ for n, ks in made.items() for k in ks if n == self.attribute]
            self._refuse(", ".join(kinds) or "WeightNorm")

    def _refuse(self, because: str) -> None:
        raise ValueError(
            f"{self.name!r} is computed by {because.strip('_')}, which does not give back the "
            "weight that it is given: initialize the plain layer first and apply that afterwards, "
            f"or leave it alone with rules={{{self.name!r}: None}}."
        )


def parameters(model: nn.Module, *, splits: Splits | None = None) -> list[Parameter]:
    """Return what a model computes with, in the order of its modules, weights before biases.

    Parameters
    ----------
    model : nn.Module
    splits : mapping of str to int or sequence of int, optional
        By glob over names of parameters: into how many blocks the outputs of a packed weight
        fall, ``{"*.qkv.weight": 3}``; level by level for experts that are packed in turn,
        ``{"*.gate_up": (8, 2)}``.

    Returns
    -------
    list of Parameter

    Raises
    ------
    ValueError
        If a parameter has no memory, is a piece of a flat one, or a glob of ``splits`` meets none.
    """
    check_memory([*model.named_parameters(), *model.named_buffers()])
    places: dict[tuple[int, ...], list[_Place]] = {}
    for layer, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        tensors = list(_tensors(layer, module))
        for name, stored in sorted(tensors, key=lambda t: "bias" in t[0].rpartition(".")[2]):
            key = tuple(map(id, stored.values()))
            places.setdefault(key, []).append(_Place(name, layer, module, stored))
    names = [place.name for same in places.values() for place in same]
    for glob in splits or {}:
        if not any(fnmatchcase(name, glob) for name in names):
            raise unknown("splits", glob, names)
    return [_parameter(same, splits or {}) for same in places.values()]


class _Place(NamedTuple):
    """Where a tensor is found; a tied one is in several."""

    name: str
    layer: str
    module: nn.Module
    stored: dict[str, Tensor]


def _parameter(places: list[_Place], splits: Splits) -> Parameter:
    name, layer, module, stored = places[0]
    others = tuple(place.name for place in places[1:])
    told = [n for glob, n in splits.items() if any(fnmatchcase(p.name, glob) for p in places)]
    # A tied embedding is an embedding, whichever comes first.
    main = next((p for p in places if isinstance(p.module, _EMBEDDINGS)), places[0])
    kind, what = _describe(main.module, main.name, stored, bool(told))
    count = told[-1] if told else ()
    blocks = (count,) if isinstance(count, int) else tuple(count)
    return Parameter(name, kind, what, layer, module, stored, blocks, others)


def write(values: Sequence[tuple[Parameter, Tensor]]) -> None:
    """Make a model compute with all the values, or on an error with none."""
    state = [t for p, _ in values for t in (*p.stored.values(), *p.module.buffers())]
    kept = [(t, t.detach().clone()) for t in state]  # buffers: spectral_norm moves its own
    computed = [  # by hooks, and held until the next forward pass
        (vars(p.module), p.attribute, vars(p.module)[p.attribute])
        for p, _ in values
        if p.attribute in vars(p.module)
    ]
    try:
        for p, value in values:
            p.set(value)
    except BaseException:  # an interrupt too
        for tensor, value in kept:
            tensor.detach().copy_(value)
        for held, name, value in computed:
            held[name] = value
        raise


def fill_forget_gate(bias: Parameter, value: Tensor, forget: float) -> None:
    """Let an LSTM remember: both biases of its forget gate, the second of four, sum to this."""
    if isinstance(bias.module, nn.LSTM | nn.LSTMCell):
        size = int(bias.module.hidden_size)
        value[size : 2 * size] = forget if bias.attribute.startswith("bias_ih") else 0.0


def identical(known: list[Parameter]) -> tuple[tuple[str, ...], ...]:
    """Return the sets of parameters that are equal without being constant."""
    groups: dict[Any, list[tuple[str, Tensor]]] = {}
    for p in known:
        tensors = list(p.stored.values())
        if len(tensors) == 1 and tensors[0].ndim > 1 and not hasattr(tensors[0], "placements"):
            tensor = tensors[0].detach()
            key = (tensor.shape, tensor.dtype, *tensor.flatten()[:4].tolist())  # a first look
            groups.setdefault(key, []).append((p.name, tensor))
    found = []
    for group in groups.values():
        while len(group) > 1:
            first = group[0][1]
            same = [name for name, tensor in group if torch.equal(tensor, first)]
            if len(same) > 1 and bool((first != first.flatten()[0]).any()):
                found.append(tuple(same))
            group = [(name, tensor) for name, tensor in group[1:] if name not in same]
    return tuple(found)


def unknown(argument: str, glob: str, names: Sequence[str]) -> ValueError:
    """Return the error for a glob that meets nothing; it lists names that are near."""
    import difflib

    near = difflib.get_close_matches(glob.replace("*", ""), names, n=3, cutoff=0.3)
    return ValueError(
        f"{argument} {glob!r} meets nothing: expected a name such as {near or names[:3]}."
    )


def _tensors(layer: str, module: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each tensor that a module computes with, and the parameters that hold it."""

    def full(attribute: str) -> str:
        return f"{layer}.{attribute}".lstrip(".")

    held = {name: p for name, p in module._parameters.items() if p is not None}
    for hook in _hooks(module):
        parts = [p for p in held if p.startswith(f"{hook.name}_")]
        if parts:
            yield full(hook.name), {full(p): held.pop(p) for p in parts}
    for name in [n for n in held if n.endswith("_orig")]:  # pruned
        yield full(name.removesuffix("_orig")), {full(name): held.pop(name)}
    for name, p in held.items():
        if name == "_flat_param":
            raise ValueError(
                f"{full(name)!r} is FSDP's flat parameter, in which no matrix can be told: "
                "initialize before you wrap the model, or use fully_shard."
            )
        yield full(name), {full(name): p}
    if parametrize.is_parametrized(module):
        for attribute, made in module.parametrizations.items():  # type: ignore[union-attr, operator]
            place = full(f"parametrizations.{attribute}")
            own = made.named_parameters(recurse=False)
            yield full(attribute), {f"{place}.{n}": p for n, p in own}


def _hooks(module: nn.Module) -> list[Any]:
    """Return the hooks of the old weight_norm and spectral_norm."""
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if type(hook).__name__ in ("WeightNorm", "SpectralNorm")]


def _hook(module: nn.Module, attribute: str) -> Any:
    return next((hook for hook in _hooks(module) if hook.name == attribute), None)


def _describe(
    module: nn.Module, name: str, stored: dict[str, Tensor], told: bool
) -> tuple[Kind, str]:
    attribute, owner = name.rpartition(".")[2], type(module).__name__
    dims = max(p.ndim for p in stored.values())
    if isinstance(module, _EMBEDDINGS):
        return "embedding", owner
    if "Norm" in owner and dims < 2:
        return "norm", f"{'shift' if 'bias' in attribute else 'scale'} of {owner}"
    if isinstance(module, RECURRENT):
        gates = _GATES.get(owner.removesuffix("Cell"))
        kind: Kind = "bias" if attribute.startswith("bias") else "weight"
        return kind, f"{kind} of {owner}" + f": {gates}" * bool(gates and "_hr" not in attribute)
    if isinstance(module, nn.MultiheadAttention):
        if attribute in ("bias_k", "bias_v"):
            return "other", f"{attribute} of {owner}"
        packed = ": query, key and value" * attribute.startswith("in_proj")
        kind = "bias" if attribute.endswith("bias") else "weight"
        return kind, f"{kind} of {owner}{packed}"
    if isinstance(module, (*LAYERS, nn.Bilinear)) or _is_conv1d(module):
        if attribute == "weight":
            if dims < 2:
                shapes = [tuple(p.shape) for p in stored.values()]
                raise ValueError(
                    f"{name!r} has shape {shapes[0]}, a piece of a sharded weight: initialize "
                    "before you wrap the model, or use fully_shard."
                )
            return "weight", f"weight of {owner}"
        if attribute == "bias":
            return "bias", f"bias of {owner}"
    if told or (_is_experts(module) and dims == 3):
        return "weight", f"weight of {owner}"
    return "other", f"{'matrix' if dims > 1 else 'vector'} of {owner}"


def _is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, which stores its weight as ``(in, out)``."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_experts(module: nn.Module) -> bool:
    """Whether this holds stacked experts as transformers does, ``(experts, out, in)``."""
    return type(module).__name__.endswith("Experts") and hasattr(module, "is_transposed")


def _is_sharded(tensor: object) -> bool:
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def _blocks(name: str, view: Tensor, count: int) -> list[Tensor]:
    if count < 1 or view.shape[0] % count:
        raise ValueError(
            f"splits={count!r} does not divide the {view.shape[0]} outputs of {name!r}, shape "
            f"{tuple(view.shape)}: expected the number of blocks packed in it."
        )
    blocks = list(view.chunk(count))
    # Experts, (e, out, in), are matrices stacked in a new dimension.
    return [b[0] if b.ndim > 2 and len(b) == 1 and count > 1 else b for b in blocks]


def _copy(p: Any, value: Tensor) -> None:
    if _is_sharded(p):
        from torch.distributed.tensor import distribute_tensor

        # From the first rank's draws, so that all ranks hold pieces of one tensor.
        pieces = distribute_tensor(value, p.device_mesh, p.placements)
        p.detach().to_local().copy_(pieces.to_local())
    else:
        p.detach().copy_(value)
