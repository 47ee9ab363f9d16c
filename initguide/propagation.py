"""How do a signal and its gradient travel through a model? `probe` measures, layer by layer.

One forward pass, and with a loss one backward pass, of any torch module. The model is left
exactly as it was.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from initguide._outputs import Average, Axes, Bounds, moments, tensors
from initguide._unchanged import copies, unchanged
from initguide.layers import arguments, check_memory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["probe"]

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
        - if it has a batch dimension: ``example_variance``, each unit's variance over the examples
          at each position, and their mean, ``output.var(dim=0).mean()``; and ``dead_units``, the
          fraction of units that are 0 for every example at every position;
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

    A batch dimension is one, of two or more, whose size is that of the inputs' first dimension; or
    of their second, if the first module with ``batch_first=False`` gets them that way. An output
    without one, as of a position embedding, has no ``example_variance`` and no ``dead_units``, nor
    has one of less than two dimensions, or a batch of one example. Units are channels behind a
    convolution, batch or group normalization, and the last dimension behind other layers.

    ``second_moment`` does not tell a signal from biases, which are the same for all examples;
    ``example_variance`` does. ReLU6, like ReLU, is judged by ``zeros``. Sums are taken in double
    precision (single on a device that has no other). Values that are not finite are recorded as
    they are. No gradient is listed where autograd computes none: nothing in or before the layer
    requires it, the loss does not depend on it, or the output is a view that is then overwritten
    in place.

    Afterwards the model is what it was, also after an error: parameters and buffers, their
    ``.grad`` and ``requires_grad``; each module's attributes, its mode and hooks among them; and
    what these hold, at any depth: tensors, numpy arrays, random generators, and the contents of
    lists, dicts, sets, deques, of their subclasses (``Counter``), tuples, dataclasses and modules
    that are no submodules. So are the random states of torch, numpy and Python. Not put back is
    what else a forward reaches: attributes of objects of other classes, iterators, global
    variables, files, and the history of a tensor that has one. A compiled module runs uncompiled.

    The model gets copies of the batch's tensors and arrays, at any depth. Where one requires a
    gradient the copy does, and the loss may differentiate by the one in the batch.

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
    if not isinstance(model, nn.Module) or not (loss is None or callable(loss)):
        raise TypeError(
            f"model is of type {type(model).__name__}, loss of type {type(loss).__name__}: "
            "expected a torch.nn.Module and a function of its output, as in "
            "probe(model, x, lambda out: F.cross_entropy(out, y))."
        )
    named = [*model.named_parameters(), *model.named_buffers()]
    check_memory(named)
    frozen = [name for name, tensor in named if tensor.is_inference()]
    if frozen and loss is not None:
        raise ValueError(
            f"{frozen[0]!r} was made in inference mode, without gradients: expected an ordinary "
            "tensor. Probe copy.deepcopy(model), or leave out the loss."
        )
    graph = loss is not None or torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(graph), unchanged(model, batch):
        # torch lets nobody write to the tensors of inference mode; those of a copy are ordinary.
        measured = copy.deepcopy(model) if frozen else model
        recorder = _Recorder(measured, copies(arguments(batch)), gradients=loss is not None)
        with recorder.hooks:
            output = recorder.forward()
            if loss is not None:
                recorder.backward(loss(output))
        return recorder.table()


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


class _Recorder(TorchFunctionMode):
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
