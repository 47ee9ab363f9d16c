"""How do all runs of a stack compute at once? One vmapped call of the architecture.

What is private to a run - weights, buffers, dropout masks - enters as tensors with a leading
dimension of runs; what is common - the program - is written once, by the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from initguide.ensemble import Ensemble, run_generator

Loss = Callable[[Tensor, Tensor], Tensor]
Metrics = Mapping[str, Loss]

_EVALUATION_ROWS = 1000  # examples evaluated at once


class _MaskedDropout(nn.Module):
    """Dropout whose mask is handed in, so that each run draws it from its own seed."""

    mask: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.p: float = layer.p  # type: ignore[assignment]
        self.channels = not isinstance(layer, nn.Dropout)
        self.register_buffer("mask", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask if self.training else x

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of one example's mask, where ``x`` is a batch of inputs."""
        return (*x.shape[1:2], *(1 for _ in x.shape[2:])) if self.channels else x.shape[1:]


class Stacked:
    """One stack of runs on its device: forward, loss and evaluation by one call for all."""

    def __init__(self, ensemble: Ensemble, loss: Loss, device: torch.device) -> None:
        self.loss = loss
        self.seeds = ensemble.seeds
        self.skeleton = copy.deepcopy(ensemble.template).to(device)
        trainable = {n: p.requires_grad for n, p in self.skeleton.named_parameters()}
        # The gradient of x @ W.mT with respect to W comes out transposed. Where W lies in memory
        # like that too, autograd takes the gradient as it is, and else copies it every step.
        self.transposed = {
            f"{name}.weight" for name, m in self.skeleton.named_modules() if type(m) is nn.Linear
        }
        self.leaves = {
            name: _dense(p.detach().mT if name in self.transposed else p.detach(), device)
            for name, p in ensemble.parameters.items()
        }
        for name, leaf in self.leaves.items():
            leaf.requires_grad_(trainable[name])
        self.buffers = {n: b.detach().to(device, copy=True) for n, b in ensemble.buffers.items()}
        self.dropouts = _replace_dropout(self.skeleton)
        self.mask_shapes: dict[str, tuple[int, ...]] = {}
        self.position = {seed: i for i, seed in enumerate(dict.fromkeys(self.seeds))}
        self.seed_of_run = torch.tensor([self.position[s] for s in self.seeds], device=device)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters as the model knows them, ``(runs, *shape)``; views of ``leaves``."""
        return {n: p.mT if n in self.transposed else p for n, p in self.leaves.items()}

    def masks(self, x: Tensor, rows: int, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """Draw ``{name.mask: (runs, rows, *shape)}``, the same for all runs of a seed."""
        if self.dropouts and not self.mask_shapes:
            self._learn_mask_shapes(x[:2])
        drawn = {}
        for name, shape in self.mask_shapes.items():
            layer = self.dropouts[name]
            kept = [torch.rand((rows, *shape), generator=g) >= layer.p for g in generators]
            scale = 1 / (1 - layer.p) if layer.p < 1 else 0.0
            mask = torch.stack(kept).to(x.device, x.dtype) * scale
            drawn[f"{name}.mask"] = mask[self.seed_of_run]
        return drawn

    @torch.no_grad()
    def _learn_mask_shapes(self, x: Tensor) -> None:
        """Run a few examples to see which dropout layers are used, and on what."""

        def note(name: str, layer: _MaskedDropout, inputs: tuple[Tensor]) -> None:
            if name in self.mask_shapes:
                raise ValueError(
                    f"dropout layer {name!r} is called more than once: expected a layer for each "
                    "place, so that each has its own mask. Make one nn.Dropout a call."
                )
            self.mask_shapes[name] = layer.mask_shape(inputs[0])

        self.skeleton.eval()
        hooks = [
            layer.register_forward_pre_hook(partial(note, name))
            for name, layer in self.dropouts.items()
        ]
        try:
            state = {n: t[0] for n, t in {**self.parameters, **self.buffers}.items()}
            functional_call(self.skeleton, state, (x,))
        finally:
            for hook in hooks:
                hook.remove()

    def __call__(
        self, x: Tensor, y: Tensor, masks: Mapping[str, Tensor], *, per_run: bool
    ) -> tuple[Tensor, Tensor]:
        """Return outputs ``(runs, batch, ...)`` and losses ``(runs,)``."""

        def one(state: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = functional_call(self.skeleton, state, (x,))
            return outputs, self.loss(outputs, y)

        dim = 0 if per_run else None
        state = {**self.parameters, **self.buffers, **masks}
        try:
            outputs, losses = vmap(one, in_dims=(0, dim, dim))(state, x, y)
        except RuntimeError as error:
            if "random" not in str(error):
                raise
            raise RuntimeError(
                f"{type(self.skeleton).__name__} draws random numbers while it runs, which would "
                "tie its runs together: expected randomness from nn.Dropout layers only. Replace "
                "functional dropout by a layer."
            ) from error
        return outputs, losses

    @torch.no_grad()
    def evaluate(
        self, x: Tensor, y: Tensor, metrics: Metrics, *, dropout: bool = False
    ) -> dict[str, Tensor]:
        """Return the loss and each metric over all rows, ``(runs,)`` each."""
        generators = [run_generator(seed, "evaluation") for seed in self.position]
        total: dict[str, Tensor] = {}
        for rows, targets in zip(*(torch.split(t, _EVALUATION_ROWS) for t in (x, y)), strict=True):
            masks = self.masks(rows, len(rows), generators) if dropout else {}
            self.skeleton.eval()
            for layer in self.dropouts.values():
                layer.train(dropout)
            outputs, losses = self(rows, targets, masks, per_run=False)
            values = {"loss": losses}
            for name, metric in metrics.items():
                values[name] = vmap(metric, in_dims=(0, None))(outputs, targets)
            for name, value in values.items():
                total[name] = total.get(name, 0) + value.cpu().double() * len(rows) / len(x)
        return total


def _dense(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, copy=True, memory_format=torch.contiguous_format)


def _replace_dropout(skeleton: nn.Module) -> dict[str, _MaskedDropout]:
    """Put a layer whose mask is handed in where each dropout layer stands; return them by name."""
    replaced = {}
    # A layer that stands in two places becomes two, with a mask each.
    for name, layer in list(skeleton.named_modules(remove_duplicate=False)):
        if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
            raise ValueError(
                f"layer {name!r} is {type(layer).__name__}, which cannot be stacked: expected "
                "Dropout, Dropout1d, Dropout2d or Dropout3d."
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            replaced[name] = _MaskedDropout(layer)
            parent, _, child = name.rpartition(".")
            setattr(skeleton.get_submodule(parent), child, replaced[name])
    return replaced


def tolerant(loss: Loss) -> Loss:
    """Return the loss, made to give NaN where torch's binary cross-entropy would raise."""
    guarded = loss is F.binary_cross_entropy or isinstance(loss, nn.BCELoss)
    return partial(_nan_if_broken, loss) if guarded else loss


def _nan_if_broken(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    # torch refuses NaN probabilities; a run that overflowed must not end the others.
    broken = outputs.isnan()
    value = loss(outputs.masked_fill(broken, 0.5), targets)
    return torch.where(broken.any(), torch.nan, value)
