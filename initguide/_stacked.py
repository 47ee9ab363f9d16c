"""How do all runs of a stack compute at once? One vmapped call of the architecture.

What is private to a run - weights, buffers, dropout masks - enters as tensors with a leading
dimension of runs; what is common - the program - is written once, by the model itself. A program
that vmap does not take, because it holds an LSTM or asks a tensor for its value, is called run by
run: slower, with the same results.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from initguide.ensemble import Ensemble, run_generator

Loss = Callable[[Tensor, Tensor], Tensor]
Metrics = Mapping[str, Loss]

_EVALUATION_ROWS = 1000  # examples evaluated at once
_EVALUATION_BYTES = 2**28  # of outputs kept at once, for metrics of all rows


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
    """One stack of runs on its device: losses and evaluation by one call for all.

    `rehearse` it before anything else.
    """

    def __init__(self, ensemble: Ensemble, loss: Loss, device: torch.device) -> None:
        self.loss = loss
        self.device = device
        self.run_by_run = False
        self.output_bytes = 0  # of one example
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
            functional_call(self.skeleton, state, (x.clone(),))
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def rehearse(self, x: Tensor, y: Tensor, *, training: bool, per_run: bool = False) -> None:
        """Learn from a few examples whether vmap takes the model; nothing changes but that.

        With ``training``, as `losses` will be called; always as `evaluate` will.
        """
        state = {**self.parameters, **{n: b.clone() for n, b in self.buffers.items()}}
        examples = [t.expand(len(self.seeds), *t.shape) if per_run else t for t in (x, y)]
        dim = 0 if per_run else None
        try:
            if training:
                self.skeleton.train()
                vmap(self._loss, in_dims=(0, dim, dim))(state, *(t.clone() for t in examples))
            self.skeleton.eval()
            vmap(self._forward, in_dims=(0, None))(state, x.clone())
        except Exception as error:  # one that is the model's own comes again when it runs alone
            if _is_random(error):
                raise self._draws() from error
            self.run_by_run = True
        self.skeleton.eval()
        self.output_bytes = self._alone(self._forward, next(_split(state)), x[:1]).nbytes

    def losses(self, x: Tensor, y: Tensor, masks: Mapping[str, Tensor], *, per_run: bool) -> Tensor:
        """Return the loss of each run ``(runs,)``, of one batch for all or one ``per_run``."""
        self.skeleton.train()
        state = {**self.parameters, **self.buffers, **masks}
        if self.run_by_run:
            batches = zip(x, y, strict=True) if per_run else itertools.repeat((x, y))
            each = zip(_split(state), batches, strict=False)
            return torch.stack([self._alone(self._loss, run, *batch) for run, batch in each])
        dim = 0 if per_run else None
        losses: Tensor = vmap(self._loss, in_dims=(0, dim, dim))(state, x, y)
        return losses

    @torch.no_grad()
    def evaluate(
        self, x: Tensor, y: Tensor, metrics: Metrics, *, dropout: bool = False
    ) -> dict[str, Tensor]:
        """Return the loss and each metric of all rows, ``(runs,)`` each."""
        values: dict[str, list[Tensor]] = {}
        group = max(1, _EVALUATION_BYTES // max(1, self.output_bytes * len(x)))
        for start in range(0, len(self.seeds), group):
            generators = [run_generator(seed, "evaluation") for seed in self.position]
            outputs = []
            for rows in torch.split(x, _EVALUATION_ROWS):
                masks = self.masks(rows, len(rows), generators) if dropout else {}
                outputs.append(self._outputs(rows, masks, slice(start, start + group)))
            for name, metric in {"loss": self.loss, **metrics}.items():
                value = _measure(name, metric, torch.cat(outputs, 1), y)
                values.setdefault(name, []).append(value)
        return {name: torch.cat(parts) for name, parts in values.items()}

    def _outputs(self, x: Tensor, masks: Mapping[str, Tensor], runs: slice) -> Tensor:
        self.skeleton.eval()
        for layer in self.dropouts.values():
            layer.train(bool(masks))
        state = {n: t[runs] for n, t in {**self.parameters, **self.buffers, **masks}.items()}
        if self.run_by_run:
            return torch.stack([self._alone(self._forward, run, x) for run in _split(state)])
        # A model may work in place on what it is given, and these are the caller's examples.
        outputs: Tensor = vmap(self._forward, in_dims=(0, None))(state, x.clone())
        return outputs

    def _forward(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.skeleton, state, (x,))
        return outputs

    def _loss(self, state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self._forward(state, x), y)

    def _alone(
        self, function: Callable[..., Tensor], state: dict[str, Tensor], *examples: Tensor
    ) -> Tensor:
        before = _random_states(self.device)
        value = function(state, *(t.clone() for t in examples))
        if not all(map(torch.equal, before, _random_states(self.device))):
            raise self._draws()
        return value

    def _draws(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self.skeleton).__name__} draws random numbers while it runs, which would tie "
            "its runs together: expected randomness from nn.Dropout layers only. Replace "
            "functional dropout, or an LSTM's, by a layer."
        )


def _measure(name: str, metric: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """Return a metric of each run's outputs, given copies of all that it could change."""
    try:
        values = vmap(metric, in_dims=(0, None))(outputs.clone(), y.clone())
    except Exception as error:  # vmap does not take it; one at fault fails again
        if _is_random(error):
            raise RuntimeError(
                f"{name} draws random numbers: expected the same value whenever it is called. "
                "Give it a generator of its own, seeded in each call."
            ) from error
        values = torch.stack([numbers(metric(o.clone(), y.clone())) for o in outputs])
    if not isinstance(values, Tensor) or values.ndim != 1:
        shape = tuple(values.shape[1:]) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{name} returns {shape} for a run: expected one number, shape (). Average it, or make "
            "each number a metric of its own."
        )
    return numbers(values)


def numbers(value: object) -> Tensor:
    """Return what a function measured, a tensor or what makes one, with all its digits."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).double()
    return torch.as_tensor(value, dtype=torch.float64)


def _split(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the state of each run, as views."""
    # unbind's gradient is one stack for all runs; indexing would fill a whole stack for each. But
    # what it returns may not be changed in place, as buffers are.
    columns = {n: t.unbind() if t.requires_grad else t for n, t in state.items()}
    for run in range(len(next(iter(state.values())))):
        yield {name: column[run] for name, column in columns.items()}


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def _is_random(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "random" in str(error)


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
