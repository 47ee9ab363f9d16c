"""What does each layer return, and which gradient reaches it? `Recorder` follows one pass."""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from initguide._outputs import Average, Axes, Bounds, moments, tensors

if TYPE_CHECKING:
    import pandas as pd

# Activations by their names in torch, and the bounds of those that level off on both sides.
_BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(["tanh", "softsign", "erf"], (-1.0, 1.0)),
    **dict.fromkeys(["sigmoid", "hardsigmoid"], (0.0, 1.0)),
}
_ACTIVATIONS = {
    *("relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "gelu"),
    *("silu", "mish", "hardswish", "softplus", "log_sigmoid", "threshold"),
    *("softshrink", "hardshrink", "tanhshrink", "hardtanh", *_BOUNDS),
}


class _Row(NamedTuple):
    """Whose numbers they are: a layer's output, its gradient, or a parameter's gradient."""

    layer: int
    name: str
    prefix: str = ""


class _Seen(NamedTuple):
    """What is known of a tensor as long as it has this version."""

    tensor: weakref.ref[Tensor]
    version: int
    measured: bool
    bounds: Bounds | None


class Recorder(TorchFunctionMode):
    """Follow a forward pass: moments of each layer's output and, by hooks, of its gradient.

    Global module hooks leave each module's own dicts of hooks alone. The function mode sees the
    activations that are no modules; and while it is on, torch's Transformer layers do not take
    their fused path, where no layer has an output.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, gradients: bool) -> None:
        super().__init__()
        self.model, self.gradients = model, gradients
        self.args, self.kwargs = inputs
        self.axes = Axes(model, inputs)
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
        self.first = {"": 1}  # a module's name -> its first layer
        self.layers = 0
        self.counts: Counter[str] = Counter()
        self.seen: dict[int, _Seen] = {}  # by id
        self.found: dict[_Row, dict[str, Average]] = {}  # by quantity
        self.hooks = ExitStack()  # on tensors; a layer may return a parameter

    def forward(self) -> Any:
        """Call the model. The hooks end with it: a checkpoint calls layers again in backward."""
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # else nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "Using `torch.compile")  # with global hooks
            stack.callback(register_module_forward_pre_hook(self.enter).remove)
            stack.callback(register_module_forward_hook(self.leave, always_call=True).remove)
            for _, tensor in tensors((self.args, self.kwargs)):
                self.note(tensor, True)
            stack.enter_context(self)
            try:
                return self.model(*self.args, **self.kwargs)
            except TypeError as error:
                error.add_note(
                    f"probe called the model with {len(self.args)} positional inputs and the "
                    f"keywords {list(self.kwargs)}: leave out targets, and put a single input in "
                    "a tuple."
                )
                raise

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")  # relu_, _threshold
        if name in _ACTIVATIONS and self.calling and isinstance(result, Tensor):
            module, bounds = self.calling[-1], _BOUNDS.get(name)
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
            self.axes.enter(module, args)
            self.first.setdefault(self.names[module], self.layers + 1)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self.names:
            self.calling.pop()
            with torch._C.DisableTorchFunction():
                name = self.names[module] or type(module).__name__
                self.record(name, output, module, always=module in self.functions)

    def note(self, tensor: Tensor, measured: bool, bounds: Bounds | None = None) -> None:
        self.seen[id(tensor)] = _Seen(weakref.ref(tensor), _version(tensor), measured, bounds)

    def look_up(self, tensor: Tensor) -> tuple[bool, Bounds | None]:
        seen = self.seen.get(id(tensor))
        if seen is None or seen.tensor() is not tensor or seen.version != _version(tensor):
            return False, None
        return seen.measured, seen.bounds

    def record(
        self, name: str, output: Any, module: nn.Module | None = None, *, always: bool = False
    ) -> None:
        """Measure the tensors of an output, unless a layer has returned them already."""
        found = [(path, t) for path, t in tensors(output) if t.is_floating_point()]
        new = [(path, t) for path, t in found if always or not self.look_up(t)[0]]
        if new:
            self.counts[name] += 1
            name += f"#{self.counts[name]}" if self.counts[name] > 1 else ""
        for path, tensor in new:
            self.layers += 1
            row = _Row(self.layers, name + path if len(found) > 1 else name)
            examples, unit = self.axes.of(module, tensor.shape)
            bounds = self.look_up(tensor)[1]
            self.found[row] = moments(tensor.detach(), bounds, examples=examples, unit=unit)
            self.note(tensor, True)
            if self.gradients and tensor.requires_grad:
                keep = partial(self.keep, row._replace(prefix="gradient_"))
                handle = tensor.register_hook(keep)  # type: ignore[no-untyped-call]
                self.hooks.callback(handle.remove)

    def keep(self, row: _Row, gradient: Tensor) -> None:
        self.found[row] = moments(gradient.detach())

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
        # The model or the loss may have taken derivatives for itself.
        self.found = {row: values for row, values in self.found.items() if not row.prefix}
        if trained and loss.requires_grad:
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
                self.keep(_Row(self.first[owner], name, "weight_gradient_"), gradient)

    def table(self) -> pd.DataFrame:
        """Return the layers table, with one transfer from the device."""
        import pandas as pd

        if not self.found:
            raise ValueError(
                f"{type(self.model).__name__} has no layer to measure: expected a module that is "
                "called and returns floating-point tensors. Register layers as attributes or in "
                "an nn.ModuleList, and call them, not their forward()."
            )
        found = [
            (row, quantity, average)
            for row, by_quantity in sorted(self.found.items(), key=lambda item: item[0].layer)
            for quantity, average in by_quantity.items()
        ]
        device = found[0][2].total.device
        totals = torch.stack([average.total.to(device) for _, _, average in found]).tolist()
        rows = [
            (row.layer, row.name, row.prefix + quantity, total / n if n else math.nan, "measured")
            for (row, quantity, (_, n)), total in zip(found, totals, strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "name", "quantity", "value", "origin"])


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _plain(name: str) -> str:
    """Return a module's or parameter's name without the wrappers of torch.compile."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
