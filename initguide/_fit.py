"""How does one stack of runs train? In two loops: epochs, and the batches of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from initguide._stacked import Loss, Metrics, Stacked, numbers
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble, run_generator
from initguide.history import History

Order = Literal["per_seed", "shared", "sequential"]
Runs = tuple[int, ...]  # numbers of an ensemble's runs


@dataclass(frozen=True)
class Settings:
    """How every stack trains: what `train` was asked for, checked and completed."""

    epochs: int
    lr: float
    make_optimizer: Callable[..., Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None
    loss: Loss
    metrics: Metrics
    batch_size: int
    batch_order: Order
    evaluate_every: int | None
    observe: Callable[[Ensemble], Mapping[str, Tensor]] | None
    device: torch.device

    def steps(self, data: Dataset) -> int:
        """Return the number of steps of an epoch; the last may be of fewer examples."""
        return -(-len(data.train_inputs) // self.batch_size)

    def protocol(self, data: Dataset) -> str:
        """Say in words how the runs are trained."""
        return (
            f"{self.epochs} epochs of {self.steps(data)} steps, batches of {self.batch_size} "
            f"({self.batch_order} order), learning rate {self.lr:g}, {data.name}"
        )


def train_stack(
    ensemble: Ensemble,
    data: Dataset,
    settings: Settings,
    tick: Callable[[], object] = lambda: None,
) -> History:
    """Train the runs of one stack together; ``tick`` is called after each step."""
    device = settings.device
    stacked = Stacked(ensemble, settings.loss, device)
    optimizer = settings.make_optimizer([p for p in stacked.leaves.values() if p.requires_grad])
    schedule = settings.scheduler(optimizer) if settings.scheduler is not None else None
    x, y = data.train_inputs.to(device), data.train_targets.to(device)
    x_test, y_test = data.test_inputs.to(device), data.test_targets.to(device)
    seeds = list(stacked.position)
    per_run = settings.batch_order == "per_seed"
    shuffling = [run_generator(seed, "batches") for seed in (seeds if per_run else [0])]
    dropout = [run_generator(seed, "dropout") for seed in seeds]
    first = slice(settings.batch_size)
    stacked.rehearse(x[first], y[first], training=True, per_run=per_run)
    step, last = 0, settings.epochs * settings.steps(data)
    evaluated: list[int] = []
    values: dict[tuple[str, str], list[Tensor]] = {}
    losses = []

    def current() -> Ensemble:
        # Copies, on the CPU too: what an observer keeps must not go on training.
        state = {n: p.detach().to("cpu", copy=True) for n, p in stacked.parameters.items()}
        buffers = {n: b.to("cpu", copy=True) for n, b in stacked.buffers.items()}
        return Ensemble(ensemble.template, state, buffers, ensemble.schemes, ensemble.seeds)

    def measure() -> None:
        evaluated.append(step)
        for name, value in stacked.evaluate(x_test, y_test, settings.metrics).items():
            values.setdefault(("test", name), []).append(value)
        if settings.observe is not None:
            for name, value in _seen(settings.observe, current()).items():
                values.setdefault(("model", name), []).append(value)
        for (_, name), measured in values.items():
            if len(measured) != len(evaluated):
                raise ValueError(
                    f"observe returned {name!r} {len(measured)} times in {len(evaluated)} "
                    "evaluations: expected the same names each time."
                )

    measure()
    for _ in range(settings.epochs):
        rows = _epoch(len(x), settings.batch_order, shuffling).to(device)
        for index in torch.split(rows, settings.batch_size, dim=-1):
            masks = stacked.masks(x, index.shape[-1], dropout) if stacked.dropouts else {}
            inputs, targets = (_batch(of, index, stacked.seed_of_run) for of in (x, y))
            batch_loss = stacked.losses(inputs, targets, masks, per_run=per_run)
            optimizer.zero_grad()
            # Runs share no parameter: each gets its own gradient.
            torch.autograd.backward(batch_loss.sum())
            optimizer.step()
            losses.append(batch_loss.detach())
            step += 1
            every = settings.evaluate_every
            if step == last or (every is not None and step % every == 0):
                measure()
            tick()
        if schedule is not None:
            schedule.step()
    return History(
        current(),
        torch.stack(losses).cpu(),
        tuple(evaluated),
        {key: torch.stack(each) for key, each in values.items()},
        settings.protocol(data),
    )


def _seen(
    observe: Callable[[Ensemble], Mapping[str, Tensor]], ensemble: Ensemble
) -> dict[str, Tensor]:
    """Return what an observer returned, as numbers, one for each run."""
    seen = observe(ensemble)
    if not isinstance(seen, Mapping):
        raise TypeError(
            f"observe returns a {type(seen).__name__}: expected a mapping from names to tensors. "
            "Return {} to record nothing."
        )
    values = {name: numbers(value) for name, value in seen.items()}
    for name, value in values.items():
        if value.shape != (len(ensemble),):
            raise ValueError(
                f"observe returns {name!r} of shape {tuple(value.shape)}: expected a number for "
                f"each run, shape ({len(ensemble)},)."
            )
    return values


def _epoch(rows: int, order: Order, generators: list[torch.Generator]) -> Tensor:
    """Return row numbers in their order: ``(rows,)`` if all runs share it, else ``(seeds, rows)``.

    The generators are those of the seeds, or one for all.
    """
    if order == "sequential":
        return torch.arange(rows)
    orders = torch.stack([torch.randperm(rows, generator=g) for g in generators])
    return orders if order == "per_seed" else orders[0]


def _batch(x: Tensor, index: Tensor, seed_of_run: Tensor) -> Tensor:
    # The same as x[index][seed_of_run]: index_select copies whole rows at once, and the rows that
    # lie far apart in memory are gathered once a seed, not once a run.
    rows = x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])
    shared = index.ndim == 1 or len(index) == len(seed_of_run)
    return rows if shared else rows.index_select(0, seed_of_run)
