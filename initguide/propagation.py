"""How do a signal and its gradient travel through a model? `probe` measures, layer by layer.

One forward pass, and with a loss one backward pass, of any torch module. The model is left
exactly as it was.
"""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from initguide.layers import arguments, check_memory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["probe"]

Bounds = tuple[float, float]
Key = tuple[int, str, str]  # layer, name, prefix of the quantities

# Activations by their names in torch, with the bounds of those that level off on both sides.
_BOUNDS: dict[str, Bounds | None] = {
    **dict.fromkeys(["relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "gelu"]),
    **dict.fromkeys(["silu", "mish", "hardswish", "softplus", "log_sigmoid", "threshold"]),
    **dict.fromkeys(["softshrink", "hardshrink", "tanhshrink", "hardtanh"]),
    **dict.fromkeys(["tanh", "softsign", "erf"], (-1.0, 1.0)),
    **dict.fromkeys(["sigmoid", "hardsigmoid"], (0.0, 1.0)),
}
_QUANTITIES = ("mean", "second_moment", "zeros", "saturated")


def probe(
    model: nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None = None
) -> pd.DataFrame:
    """Measure the activations and gradients of every layer on one batch.

    Parameters
    ----------
    model : nn.Module
        Measured in the mode it is in, train or eval.
    batch : Tensor, tuple, list or mapping
        A tensor, positional inputs, or keyword inputs.
    loss : callable, optional
        Maps the model's output to a scalar: ``lambda out: F.cross_entropy(out, targets)``. With
        it, gradients are measured too.

    Returns
    -------
    pandas.DataFrame
        The layers table: ``layer, name, quantity, value, origin``. ``layer`` counts from 1 in
        the order of execution; ``origin`` is ``measured``. Of each layer's output:

        - ``mean``, ``second_moment``, ``zeros`` (the fraction that is exactly 0);
        - ``saturated``, the fraction within 1 % of the range of a bound, if it is the result of
          tanh, sigmoid, hardtanh, hardsigmoid, softsign or erf;
        - with a loss, ``gradient_mean``, ``gradient_second_moment`` and ``gradient_zeros`` of
          the loss's gradient with respect to it.

        With a loss also ``weight_gradient_mean`` ... of each parameter, in rows that have the
        parameter's name and the layer of the module that owns it.

    Raises
    ------
    TypeError
        If the model, the batch or the loss is of another type.
    ValueError
        If the model has no layer, a parameter or buffer has no memory (lazy or meta device), or
        the loss does not return a scalar tensor or has no gradient.

    Notes
    -----
    A layer is a module without submodules; an activation function that another module's
    ``forward`` calls (``block.relu`` for ``F.relu(x)`` in ``block``); and whatever else such a
    module computes and returns, ``block`` itself for a residual sum. A name met again ends in
    ``#2``, ``#3``, ...; several tensors of one output are told apart as in Python: ``lstm[0]``,
    ``lstm[1][0]``, ``heads['logits']``. Only floating-point tensors count, with the values that
    the layer returned: before any in-place operation behind it.

    ReLU6, like ReLU, is judged by ``zeros``. Sums are taken in double precision (single on a
    device that has no other). Values that are not finite are recorded as they are. No gradient
    is listed where autograd computes none: nothing in or before the layer requires it, the loss
    does not depend on it, or the output is a view that is then overwritten in place.

    Afterwards parameters, buffers, their ``.grad`` and ``requires_grad``, each module's
    attributes (its mode and hooks; lists, sets and dicts one level deep) and torch's random
    state are what they were, also after an error. The batch's tensors are copied. Compiled
    modules run uncompiled.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional as F
    >>> from initguide import mlp
    >>> x, y = torch.rand(50, 784), torch.arange(50) % 10
    >>> table = probe(mlp(784, 100, 10), x, lambda out: F.cross_entropy(out, y))
    >>> list(table["name"].unique()[1:5])
    ['hidden1', 'hidden1.weight', 'hidden1.bias', 'activation1']
    >>> moments = table[table["quantity"] == "second_moment"].set_index("name")["value"]
    >>> bool(moments["activation1"] < moments["hidden1"])  # what a ReLU takes away
    True
    """
    import pandas as pd

    if not isinstance(model, nn.Module) or not (loss is None or callable(loss)):
        raise TypeError(
            f"model is of type {type(model).__name__}, loss of type {type(loss).__name__}: "
            "expected a torch.nn.Module and a function of its output, as in "
            "probe(model, x, lambda out: F.cross_entropy(out, y))."
        )
    check_memory([*model.named_parameters(), *model.named_buffers()])
    graph = loss is not None or torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(graph), _unchanged(model, batch):
        recorder = _Recorder(model, gradients=loss is not None)
        with recorder.hooks:
            output = recorder.forward(*arguments(batch))
            if loss is not None:
                recorder.backward(loss(output))
    columns = ["layer", "name", "quantity", "value", "origin"]
    return pd.DataFrame(recorder.rows(), columns=columns)


class _Recorder(TorchFunctionMode):
    """Follow a forward pass: sums over each layer's output and, by hooks, over its gradient.

    Global module hooks leave each module's own dicts of hooks alone. The function mode sees the
    activations that are no modules; and while it is on, torch's Transformer layers do not take
    their fused path, where no layer has an output.
    """

    def __init__(self, model: nn.Module, *, gradients: bool) -> None:
        super().__init__()
        self.model, self.gradients = model, gradients
        self.names = {
            module: _plain(name)
            for name, module in model.named_modules()
            if ".parametrizations." not in f".{name}."  # those return weights
        }
        self.functions = {  # no parts, no weights: one layer, whatever its forward calls
            m
            for m in self.names
            if not (isinstance(m, nn.Sequential) or [*m.children(), *m.parameters(recurse=False)])
        }
        self.calling: list[nn.Module] = []
        self.first = {"": 1}  # module -> its first layer
        self.layers = 0
        self.counts: Counter[str] = Counter()
        # By id: a tensor and its version, whether it is measured, its bounds as long as not.
        self.seen: dict[int, tuple[weakref.ref[Tensor], int, bool, Bounds | None]] = {}
        self.sums: dict[Key, tuple[int, list[Tensor]]] = {}
        self.hooks = ExitStack()  # on tensors; a layer may return a parameter

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model. The hooks end with it: a checkpoint calls layers again in backward."""
        # Copies: a layer may overwrite its input in place.
        args = tuple(_copy(x) for x in args)
        kwargs = {name: _copy(x) for name, x in kwargs.items()}
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # else nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "Using `torch.compile")  # with global hooks
            stack.callback(register_module_forward_pre_hook(self.enter).remove)
            stack.callback(register_module_forward_hook(self.leave, always_call=True).remove)
            for _, tensor in _tensors((args, kwargs)):
                self.note(tensor, True)
            stack.enter_context(self)
            try:
                return self.model(*args, **kwargs)
            except TypeError as error:
                error.add_note(
                    f"probe called the model with {len(args)} positional inputs and the keywords "
                    f"{list(kwargs)}: leave out targets, and put a single input in a tuple."
                )
                raise

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")  # relu_, _threshold
        if name in _BOUNDS and self.calling and isinstance(result, Tensor):
            module, bounds = self.calling[-1], _BOUNDS[name]
            if name == "hardtanh" and kwargs.get("min_val"):  # 0 in torch's ReLU6
                bounds = kwargs["min_val"], kwargs["max_val"]
            self.note(result, False, bounds)
            # erf alone is part of GELU's formula more often than an activation.
            if name != "erf" and module not in self.functions:
                self.record(f"{self.names[module]}.{name}".lstrip("."), result)
        return result

    def enter(self, module: nn.Module, args: Any) -> None:
        if module in self.names:
            self.calling.append(module)
            self.first.setdefault(self.names[module], self.layers + 1)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self.names:
            self.calling.pop()
            with torch._C.DisableTorchFunction():
                name = self.names[module] or type(module).__name__
                self.record(name, output, always=module in self.functions)

    def note(self, tensor: Tensor, measured: bool, bounds: Bounds | None = None) -> None:
        self.seen[id(tensor)] = weakref.ref(tensor), _version(tensor), measured, bounds

    def look_up(self, tensor: Tensor) -> tuple[bool, Bounds | None]:
        ref, version, measured, bounds = self.seen.get(id(tensor), (None, 0, False, None))
        known = ref is not None and ref() is tensor and version == _version(tensor)
        return (measured, bounds) if known else (False, None)

    def record(self, name: str, output: Any, *, always: bool = False) -> None:
        """Measure the tensors of an output, unless a layer has returned them already."""
        found = [(path, t) for path, t in _tensors(output) if t.is_floating_point()]
        new = [(path, t) for path, t in found if always or not self.look_up(t)[0]]
        if new:
            self.counts[name] += 1
            name += f"#{self.counts[name]}" if self.counts[name] > 1 else ""
        for path, tensor in new:
            self.layers += 1
            label = name + path if len(found) > 1 else name
            self.measure((self.layers, label, ""), tensor, self.look_up(tensor)[1])
            self.note(tensor, True)
            if self.gradients and tensor.requires_grad:
                measure = partial(self.measure, (self.layers, label, "gradient_"))
                handle = tensor.register_hook(measure)  # type: ignore[no-untyped-call]
                self.hooks.callback(handle.remove)

    def measure(self, key: Key, tensor: Tensor, bounds: Bounds | None = None) -> None:
        self.sums[key] = tensor.numel(), _sums(tensor.detach(), bounds)

    def backward(self, loss: object) -> None:
        """Differentiate the loss; nothing is added to any ``.grad``."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f" and shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            raise ValueError(
                f"the loss returned a value of type {type(loss).__name__}{shape}: expected a "
                "scalar tensor. Average with .mean() or reduction='mean'; leave out .item() and "
                ".backward()."
            )
        trained = {_plain(n): p for n, p in self.model.named_parameters() if p.requires_grad}
        gradients: tuple[Tensor | None, ...] = ()
        self.sums = {key: sums for key, sums in self.sums.items() if not key[2]}
        if trained and loss.requires_grad:  # ^ the loss may have taken derivatives for itself
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"the loss has no gradient with respect to the model's {len(trained)} trainable "
                "parameters: expected a differentiable function of the output. Take out .detach() "
                "and argmax, let a parameter require a gradient, or probe without a loss."
            )
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                owner = name.rpartition(".")[0]
                while owner not in self.first:  # never called itself, as attention's out_proj
                    owner = owner.rpartition(".")[0]
                self.measure((self.first[owner], name, "weight_gradient_"), gradient)

    def rows(self) -> list[tuple[int, str, str, float, str]]:
        """Turn sums into moments and fractions, with one transfer from the device."""
        flat = [value for _, sums in self.sums.values() for value in sums]
        if not flat:
            raise ValueError(
                f"{type(self.model).__name__} has no layer to measure: expected a module that is "
                "called and returns floating-point tensors. Register layers as attributes or in "
                "an nn.ModuleList, and call them, not their forward()."
            )
        values = iter(torch.stack([value.to(flat[0].device) for value in flat]).tolist())
        rows = []
        for (layer, name, prefix), (n, sums) in self.sums.items():
            for quantity, value in zip(_QUANTITIES[: len(sums)], values, strict=False):
                total = n - value if quantity == "zeros" else value
                value = total / n if n else math.nan
                rows.append((layer, name, prefix + quantity, value, "measured"))
        return sorted(rows, key=lambda row: row[0])


def _sums(x: Tensor, bounds: Bounds | None) -> list[Tensor]:
    """Return the sum, the sum of squares, the number of nonzeros and that of saturated values."""
    x = x if x.layout is torch.strided else x.to_dense()
    # In the order of memory, and in parts that fit a cache: no second copy of the whole.
    flat = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    total: list[Tensor] = []
    for part in torch.split(flat, 2**16 if x.device.type == "cpu" else 2**24):
        wide = part.to(dtype, copy=True)
        sums = [wide.sum(), wide.dot(wide)]
        if bounds is not None:
            middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
            sums.append((wide - middle).abs_().ge_(0.98 * half).sum())
        sums.insert(2, wide.ne_(0).sum())  # in place and last: the fastest way to count
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    return total


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
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
        yield from _tensors(part, path + key)


@contextmanager
def _unchanged(model: nn.Module, batch: Any) -> Iterator[None]:
    """Put parameters, buffers, gradients, attributes and random states back at the end."""
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    tensors = [*model.parameters(), *model.buffers()]
    # A forward may write into them (BatchNorm, Embedding's max_norm) or rebind .data, which
    # shares their memory but not the version that a pending graph checks. Where elements
    # overlap, as in an expanded tensor, torch refuses to write.
    writable = [t for t in tensors if torch._debug_has_internal_overlap(t) != 1]
    values = [(t, t.data, t.data.clone()) for t in writable]
    attributes: list[tuple[Any, Any]] = [(vars(m), dict(vars(m))) for m in model.modules()]
    contents = [part for _, saved in attributes for part in saved.values()]
    kinds = (dict, OrderedDict, list, set)
    attributes += [(part, part.copy()) for part in contents if type(part) in kinds]
    devices = {t.device for _, t in _tensors((tensors, batch))}
    kind = next((d.type for d in devices if d.type != "cpu"), None)
    with torch.random.fork_rng([d for d in devices if d.type == kind], device_type=kind or "cuda"):
        try:
            for p, _, _ in parameters:
                p.grad = None  # should the loss call backward()
            yield
        finally:
            for now, saved in attributes:
                now.clear()
                (now.extend if isinstance(now, list) else now.update)(saved)
            for tensor, alias, copy in values:
                tensor.data = alias
                alias.copy_(copy)
            for p, gradient, required in parameters:
                p.grad = gradient
                p.requires_grad_(required)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _plain(name: str) -> str:
    """Return a module's or parameter's name without the wrappers of torch.compile."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
