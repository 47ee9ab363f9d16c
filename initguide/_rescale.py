"""What gives a layer's output variance 1? One pass that visits each layer before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from initguide._outputs import Axes, moments, tensors
from initguide._unchanged import copies
from initguide.layers import LAYERS, check_memory, is_adapter, weight_views
from initguide.orthogonal import orthogonal_

Layer: TypeAlias = nn.Linear | nn.modules.conv._ConvNd

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
    between : float
        Variance of the last output over the examples, averaged over units and positions; NaN if
        it has no batch dimension (see `probe`).
    """

    name: str
    before: float
    after: float
    rescales: int
    between: float = math.nan


def layers_of(model: nn.Module, frozen: bool) -> dict[nn.Module, str]:
    """Return the layers to rescale and their names."""
    named = list(model.named_parameters())
    check_memory([*named, *model.named_buffers()])
    modules = dict(model.named_modules())
    # A tied embedding ran before the output layer: to rescale it there would undo what is done.
    others = {
        p for m in modules.values() if not isinstance(m, LAYERS) for p in m._parameters.values()
    }
    weights: dict[nn.Module, nn.Parameter] = {
        m: weight
        for m in modules.values()
        # A parametrized or pruned layer computes its weight, whenever it is asked for it: a
        # change would be lost.
        if isinstance(m, LAYERS)
        and (weight := m._parameters.get("weight")) is not None
        and weight.is_floating_point()
        and weight not in others
    }
    partly = not all(p.requires_grad for _, p in named)
    layers: dict[nn.Module, str] = {
        m: name
        for name, m in modules.items()
        if m in weights and (frozen or not (partly and _is_fixed(name, weights[m])))
    }
    if not layers:
        found = f"{len(weights)} frozen layers" if weights else "no layer to rescale"
        cure = "Pass frozen=True, or let a weight require a gradient." if weights else ""
        raise ValueError(
            f"{type(model).__name__} has {found}: expected at least one Linear, Conv or "
            f"ConvTranspose with a weight of its own. {cure}".rstrip()
        )
    for m, name in layers.items():
        if hasattr(weights[m], "placements"):
            raise ValueError(
                f"the weight of {name!r} is sharded: expected a whole one. Call lsuv_ before "
                "fully_shard."
            )
    return layers


def _is_fixed(name: str, weight: nn.Parameter) -> bool:
    """Tell, in a model that is partly frozen, what is frozen and what adapts it."""
    return not weight.requires_grad or is_adapter(name, weight, partly_frozen=True)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a model without randomness and gradients, and so that it calls all its layers."""
    modes = {m: m.training for m in model.modules()}
    # torch lets nobody else write to the tensors of a model that was built in inference mode.
    built = any(t.is_inference() for t in (*model.parameters(), *model.buffers()))
    # torch's fused transformer layers, which evaluation mode switches on, call no sublayer.
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode(built), torch.no_grad():
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


@dataclass
class Rescale:
    """One pass through a model: each layer is changed before it is called first."""

    model: nn.Module
    names: dict[nn.Module, str]
    axes: Axes
    frozen: bool
    tolerance: float
    max_rescales: int
    orthogonal: bool
    generator: torch.Generator | None
    layers: list[LSUVLayer] = field(default_factory=list)
    changed: set[Tensor] = field(default_factory=set)

    def visit(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give a layer its weight and bias; a hook."""
        weight, bias = layer.weight, layer.bias
        if bias is not None and self.orthogonal and self.may_change(bias):
            self.changed.add(bias)
            bias.detach().zero_()
        if not self.may_change(weight):
            return
        self.changed.add(weight)
        if self.orthogonal:
            for view in weight_views(layer):
                orthogonal_(view, generator=self.generator)
        elif not weight.any():
            raise ValueError(
                f"the weight of {self.names[layer]!r} is zero: expected one that can be rescaled. "
                "Freeze it with requires_grad_(False), or pass orthogonal=True."
            )
        self.rescale(layer, args, kwargs)

    def may_change(self, p: Tensor) -> bool:
        """Tell whether a parameter is neither frozen nor done, at an earlier use."""
        return p not in self.changed and (self.frozen or p.requires_grad)

    def rescale(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Divide the weight by the output's standard deviation until that is 1."""
        y, std = self.output(layer, args, kwargs)
        before, rescales = std * std, 0
        # Mishkin & Matas 2016, algorithm 1
        while abs(std * std - 1) > self.tolerance:
            if rescales == self.max_rescales:
                raise ValueError(
                    f"layer {self.names[layer]!r} has an output of variance {std * std:.4g} after "
                    f"{rescales} rescales: expected 1 within {self.tolerance:g}. "
                    + self.cure(layer)
                )
            layer.weight.detach().div_(std)
            rescales += 1
            y, std = self.output(layer, args, kwargs)
        examples, unit = self.axes.of(layer, y.shape)
        between = math.nan
        if examples is not None:
            total, terms = moments(y, examples=examples, unit=unit)["example_variance"]
            between = total.item() / terms
        self.layers.append(LSUVLayer(self.names[layer], before, std * std, rescales, between))

    def output(
        self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, float]:
        """Return a layer's output and its standard deviation, if that is positive and finite."""
        torch.clear_autocast_cache()  # which may hold the last weight in half precision
        args, kwargs = copies((args, kwargs))
        # forward, not a call: nobody's hooks see the outputs that are thrown away.
        y: Tensor = layer.forward(*args, **kwargs)
        peak = torch.stack(y.aminmax()).abs().max().item() if y.numel() else 0.0
        if not math.isfinite(peak):
            raise ValueError(
                f"layer {self.names[layer]!r} gives outputs that are not finite: expected numbers. "
                "Look for NaN and infinity in the batch, and in the weights if orthogonal=False."
            )
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        # Squares of the numbers over the largest one neither overflow nor vanish.
        relative = (wide / peak).std(correction=0).item() if peak else 0.0
        if relative <= torch.finfo(wide.dtype).eps:  # equal but for rounding
            given = [t for _, t in tensors((args, kwargs))]
            raise ValueError(
                f"layer {self.names[layer]!r} has an output of shape {tuple(y.shape)} that does "
                f"not vary: {self.reason(given)}"
            )
        return y, relative * peak

    def cure(self, layer: Layer) -> str:
        """Say what to do about an output that does not come near variance 1."""
        if layer.bias is None or not layer.bias.any():
            return "Raise tolerance or max_rescales, if the output grows with the weight at all."
        option = "frozen" if self.orthogonal else "orthogonal"
        return f"Its bias, which is not rescaled, varies: pass {option}=True to zero it."

    def reason(self, given: list[Tensor]) -> str:
        """Say why an output does not vary."""
        if not all(t.numel() for t in given):
            return "it has no element. Pass a batch of examples."
        if any(t.any() for t in given):
            return "its inputs are alike. Pass different examples."
        matrices = [(name, p) for name, p in self.model.named_parameters() if p.ndim > 1]
        zero = [name for name, p in matrices if not p.any()]
        if zero:
            return (
                f"its inputs are zero, and so is {', '.join(zero)}. Give that other values, or "
                "freeze this layer with requires_grad_(False)."
            )
        return "its inputs are zero. Look for zeros in the batch and for a dead activation."
