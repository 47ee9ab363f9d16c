r"""How large should the weights of *this* model be on *this* data? Measure, and rescale.

Layer-sequential unit-variance initialization: the weights of each layer, in order of execution,
are divided by the standard deviation of the layer's output until that is 1. No gain is needed,
whatever stands between the layers. `lsuv_` does it in one pass through the model.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from initguide.layers import LAYERS, arguments, check_memory, weight_views
from initguide.orthogonal import orthogonal_

__all__ = ["LSUVLayer", "LSUVReport", "lsuv_"]

# The one kind of layer whose evaluation mode is not what a first training step computes.
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class LSUVLayer(NamedTuple):
    """What `lsuv_` measured at one layer, and how often it rescaled.

    Attributes
    ----------
    name : str
        Qualified name of the module.
    before, after : float
        Variance of the layer's output with its starting weight, and with its last one.
    rescales : int
        How often the weight was divided by the standard deviation.
    """

    name: str
    before: float
    after: float
    rescales: int


@dataclass(frozen=True)
class LSUVReport:
    """What `lsuv_` did to a model.

    Attributes
    ----------
    layers : tuple of LSUVLayer
        In order of execution; ``pandas.DataFrame(report.layers)`` is a table.
    left_alone : tuple of str
        Names of the parameters that were not touched: they are what they were.
    """

    layers: tuple[LSUVLayer, ...]
    left_alone: tuple[str, ...]

    def __repr__(self) -> str:
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':{width}}  variance before  after  rescales"]
        lines += [
            f"{name:{width}}  {before:15.4g}  {after:5.3f}  {rescales:8}"
            for name, before, after, rescales in self.layers
        ]
        return "\n".join([*lines, f"left alone: {', '.join(self.left_alone) or 'nothing'}"])

    def _repr_html_(self) -> str:
        import pandas as pd

        columns = ["layer", "variance before", "after", "rescales"]
        table = pd.DataFrame(self.layers).set_axis(columns, axis=1)
        rows = table.to_html(index=False, border=0, float_format="{:.4g}".format)
        left = html.escape(", ".join(self.left_alone) or "nothing")
        return f"{rows}<p>Left alone: {left}</p>"


def lsuv_(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any],
    *,
    tolerance: float = 0.1,
    max_rescales: int = 10,
    orthogonal: bool = True,
    generator: torch.Generator | None = None,
) -> LSUVReport:
    r"""Give the output of every layer variance 1 on a batch of real data [mishkin2016]_.

    Parameters
    ----------
    model : nn.Module
        Changed in place: its Linear, Conv and ConvTranspose layers, the output layer too.
    batch : Tensor, tuple, list or mapping
        A tensor, positional inputs, or keyword inputs: some hundred examples of the training
        set, prepared as for training; no labels.
    tolerance : float
        By how much a variance may miss 1, between 0 and 1.
    max_rescales : int
        How often a layer's weight may be rescaled, at least once.
    orthogonal : bool
        Start from orthogonal weights (a convolution's seen as a matrix) and zero biases.
        Otherwise rescale the weights that the model has, and keep its biases.
    generator : torch.Generator, optional
        Where the orthogonal weights come from, layer by layer in order of execution; torch's
        global one by default.

    Returns
    -------
    LSUVReport
        Variances and rescales by layer, and the parameters that were left alone: those of other
        kinds of layers, and of layers that the batch did not reach.

    Raises
    ------
    ValueError
        If an argument is out of range, no layer can be rescaled or none was reached, or if a
        layer's output is not finite, does not vary, or cannot be given variance 1.
    TypeError
        If ``batch`` is none of these.

    Notes
    -----
    The variance is that over all elements of the output: examples, units, positions. Without a
    bias it is :math:`v` times that of :math:`W / \sqrt v`, so one rescale is enough; a bias that
    is kept does not shrink with the weight, and takes several.

    The model runs once, without gradients. Before a layer runs, its output is computed, and again
    after each rescale, from inputs that passed through rescaled layers only. Dropout, and what
    else asks for the mode, is off, so that nothing is random; batch normalization keeps its mode,
    as it normalizes while it trains. A layer or a weight that is used more than once is rescaled
    at its first use. A weight that a module of another kind owns too, such as a tied embedding,
    is left alone.

    Modes, buffers and hooks, and if ``generator`` is given torch's global one, are afterwards
    what they were; after an error, the parameters too.

    Examples
    --------
    >>> import torch
    >>> from initguide import mlp
    >>> g = torch.Generator().manual_seed(0)
    >>> model = mlp(20, *[50] * 10, 3, activation="gelu")
    >>> report = lsuv_(model, torch.randn(200, 20, generator=g), generator=g)
    >>> max(layer.rescales for layer in report.layers), report.left_alone
    (1, ())
    """
    args, kwargs = arguments(batch)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r}: expected between 0 and 1. Leave it at 0.1.")
    if max_rescales < 1:
        raise ValueError(f"max_rescales={max_rescales!r}: expected at least 1. Leave it at 10.")
    names = _layers(model)
    before: dict[nn.Parameter, Tensor] = {}  # what to put back after an error
    layers: list[LSUVLayer] = []

    def visit(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weight, bias = layer.weight, layer.bias
        if orthogonal and bias is not None and bias not in before:
            before[bias] = bias.detach().clone()
            bias.detach().zero_()
        if weight in before:
            return
        before[weight] = weight.detach().clone()
        if orthogonal:
            for view in weight_views(layer):
                orthogonal_(view, generator=generator)

        def output() -> Tensor:
            # forward, not a call: nobody's hooks see the outputs that are thrown away.
            return layer.forward(*args, **kwargs)  # type: ignore[no-any-return]

        layers.append(_rescale(names[layer], layer, output, tolerance, max_rescales))

    handles = [m.register_forward_pre_hook(visit, with_kwargs=True) for m in names]
    try:
        # Without a generator of the caller's, the global one must move on: it gave the weights.
        with _undisturbed(model, restore_rng=generator is not None or not orthogonal):
            model(*args, **kwargs)
        if not layers:
            raise ValueError(
                f"the batch reached none of {', '.join(names.values())}: expected a layer to be "
                "called. Pass inputs for which the model calls its layers."
            )
    except BaseException:  # an interrupt too
        for p, value in before.items():
            p.detach().copy_(value)
        raise
    finally:
        for handle in handles:
            handle.remove()
    left = tuple(name for name, p in model.named_parameters() if p not in before)
    return LSUVReport(tuple(layers), left)


def _layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers to rescale and their names."""
    check_memory([*model.named_parameters(), *model.named_buffers()])
    modules = dict(model.named_modules())
    # A tied embedding ran before the output layer: to rescale it there would undo what is done.
    others = {
        p for m in modules.values() if not isinstance(m, LAYERS) for p in m._parameters.values()
    }
    layers: dict[nn.Module, str] = {
        m: name
        for name, m in modules.items()
        # A parametrized or pruned layer computes its weight, whenever it is asked for it: a
        # change would be lost.
        if isinstance(m, LAYERS)
        and (weight := m._parameters.get("weight")) is not None
        and weight.is_floating_point()
        and weight not in others
    }
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer to rescale: expected at least one Linear, Conv "
            "or ConvTranspose with a weight of its own."
        )
    return layers


@contextmanager
def _undisturbed(model: nn.Module, *, restore_rng: bool) -> Iterator[None]:
    """Run a model without randomness or gradients; leave no trace of it outside parameters."""
    modes = {m: m.training for m in model.modules()}
    # A scripted module's buffers cannot be exchanged.
    buffers = [(m._buffers, dict(m._buffers)) for m in modes if isinstance(m._buffers, dict)]
    values = [(b, b.detach().clone()) for b in model.buffers()]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    # torch's fused transformer layers, which evaluation mode switches on, call no sublayer.
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices, enabled=restore_rng), torch.no_grad():
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            for m in modes:
                # Not m.eval(): a model may have its own, with side effects.
                m.training = m.training and isinstance(m, _BATCH_NORM)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for m, mode in modes.items():
                m.training = mode
            for held, kept in buffers:
                held.update(kept)
            for b, value in values:
                if not torch.equal(b, value):  # an expanded buffer cannot be written to
                    b.detach().copy_(value)


def _rescale(
    name: str, layer: Any, output: Callable[[], Tensor], tolerance: float, max_rescales: int
) -> LSUVLayer:
    """Divide the weight by the output's standard deviation until that is 1."""
    std = _std(name, output())
    before, rescales = std * std, 0
    # Mishkin & Matas 2016, algorithm 1
    while abs(std * std - 1) > tolerance:
        if rescales == max_rescales:
            if layer.bias is not None and layer.bias.any():
                cure = "Its bias, which is not rescaled, varies: pass orthogonal=True to zero it."
            else:
                cure = (
                    "Raise tolerance or max_rescales, if the output grows with the weight at all."
                )
            raise ValueError(
                f"layer {name!r} has an output of variance {std * std:.4g} after {rescales} "
                f"rescales: expected 1 within {tolerance:g}. {cure}"
            )
        layer.weight.detach().div_(std)
        rescales += 1
        std = _std(name, output())
    return LSUVLayer(name, before, std * std, rescales)


def _std(name: str, y: Tensor) -> float:
    """Return the standard deviation over all elements, if it is positive and finite."""
    peak = torch.stack(y.aminmax()).abs().max().item() if y.numel() else 0.0
    if not math.isfinite(peak):
        raise ValueError(
            f"layer {name!r} gives outputs that are not finite: expected numbers. Look for NaN and "
            "infinity in the batch, and in the weights if orthogonal=False."
        )
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    # Squares of the numbers over the largest one neither overflow nor vanish.
    relative = (wide / peak).std(correction=0).item() if peak else 0.0
    if relative <= torch.finfo(wide.dtype).eps:  # equal but for rounding
        raise ValueError(
            f"layer {name!r} has an output of shape {tuple(y.shape)} that does not vary: expected "
            "a positive variance. If its inputs are alike, pass different examples; if they are "
            "zero, the activation before it is dead."
        )
    return relative * peak
