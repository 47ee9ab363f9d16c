"""What does each run reach? `train` steps all runs of an ensemble together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from initguide._checks import (
    check_data,
    check_examples,
    check_metrics,
    check_runs,
    check_settings,
    count,
    optimizer_at,
)
from initguide._fit import Order, Settings
from initguide._pool import Job, train_all
from initguide._stacked import Loss, Metrics, Stacked, tolerant
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble
from initguide.history import History

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["accuracy", "evaluate", "train"]

_STACK_BYTES = 16 * 2**20  # a layer's weights in all runs of a stack: they stay in a CPU's cache


def accuracy(outputs: Tensor, targets: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Return the fraction of examples whose predicted class is right.

    Parameters
    ----------
    outputs : Tensor
        ``(batch, classes, ...)`` scores for whole-number targets, of which the largest counts; or
        the same shape as floating-point 0/1 targets, compared with ``threshold``.
    targets : Tensor
        ``(batch, ...)`` class numbers, or 0/1 targets shaped as ``outputs``.
    threshold : float
        0.5 for probabilities, 0 for logits.

    Returns
    -------
    Tensor
        A scalar from 0 to 1; NaN if an output is, which would else pass for a wrong class.
    """
    if targets.is_floating_point():
        right = (outputs > threshold) == (targets > 0.5)
    else:
        right = outputs.argmax(1) == targets
    # float32 would round the fraction, and count no further than 2^24; Apple's GPUs have no other.
    dtype = torch.float32 if outputs.device.type == "mps" else torch.float64
    return torch.where(outputs.isnan().any(), torch.nan, right.to(dtype).mean())


def train(
    ensemble: Ensemble,
    data: Dataset,
    *,
    epochs: int,
    lr: float,
    optimizer: Callable[..., Optimizer] = torch.optim.SGD,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    loss: Loss = F.cross_entropy,
    metrics: Metrics | None = None,
    batch_size: int = 100,
    batch_order: Order = "per_seed",
    evaluate_every: int | None = None,
    observe: Callable[[Ensemble], Mapping[str, Tensor]] | None = None,
    device: str | torch.device = "auto",
    stack_size: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    results: str | os.PathLike[str] | None = None,
) -> History:
    """Train every run of an ensemble; the ensemble itself is left as it was.

    Runs are independent: each has its own weights, optimizer state, dropout masks and loss, and
    what it reaches does not depend on which other runs are trained beside it. A run whose loss
    overflows records the non-finite values and the others go on.

    Parameters
    ----------
    ensemble : Ensemble
        The runs. Parameters of its template with ``requires_grad=False`` stay fixed.
    data : Dataset
        Trained on its training set, evaluated on its test set.
    epochs : int
        Passes over the training set; its last batch may be smaller.
    lr : float
        Learning rate.
    optimizer : callable
        Called as ``optimizer(parameters, lr=lr)``: ``torch.optim.Adam``, or
        ``functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)``. It must treat each
        number of a parameter apart from the others, as SGD, Adam and their kin do.
    scheduler : callable, optional
        Called as ``scheduler(optimizer)`` and stepped after each epoch:
        ``functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.96)``.
    loss : callable
        ``loss(outputs, targets)`` of one run's batch, averaged over the batch:
        ``torch.nn.functional.cross_entropy``, ``binary_cross_entropy``, ``mse_loss`` ...
    metrics : mapping of callables, optional
        By name, with the signature of ``loss``; `accuracy` by default.
    batch_size : int
        Examples a step.
    batch_order : {"per_seed", "shared", "sequential"}
        Shuffled by each run's seed, so that the schemes of a seed see the same batches;
        shuffled alike for all runs; or as the data stand.
    evaluate_every : int, optional
        Steps between evaluations on the test set, which is also evaluated before the first step
        and after the last; only then by default.
    observe : callable, optional
        Called with the ensemble at each evaluation; returns further numbers to record, by name
        tensors of shape ``(runs,)``.
    device : str or torch.device
        ``auto`` is the accelerator if there is one.
    stack_size : int, optional
        Runs stepped together; by default as many as let the largest layer's weights fit a
        processor's cache, or all on an accelerator.
    executor : concurrent.futures.Executor, optional
        Trains the stacks: a process pool's, Dask's (``client.get_executor()``) or MPI's. What is
        passed to a process must pickle, so that functions have a name. Process pools and Dask get
        the data once, others with each stack. A stack whose worker is killed is tried again.
    progress : bool, optional
        Whether to show a progress bar; by default in a terminal only.
    results : path, optional
        Folder to which each stack is written when it is finished, as a file that is complete or
        not there. Runs that the folder has, trained with these settings, data and first weights,
        are read and not trained again: stopped anywhere, the same call goes on. What tells
        settings apart are values and the code of functions, but not of what those call.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If a number is out of its range, a target has no output, or the optimizer mixes runs.
    RuntimeError
        If the model draws random numbers other than by dropout layers.
    TrainingError
        If a stack fails after others were finished: its ``history`` has those. So has a
        KeyboardInterrupt then.

    Notes
    -----
    `torch.vmap` steps the runs of a stack as one. A model that it does not take, such as one
    with a ``torch.nn.LSTM``, with ``BatchNorm(momentum=None)``, or whose flow depends on values,
    is stepped run by run: with the same results, at the speed of plain PyTorch.
    """
    settings = Settings(
        epochs=count("epochs", epochs),
        lr=lr,
        make_optimizer=optimizer_at(optimizer, lr),
        scheduler=scheduler,
        loss=tolerant(loss),
        metrics=_metrics(metrics, loss),
        batch_size=count("batch_size", batch_size),
        batch_order=batch_order,
        evaluate_every=(
            None if evaluate_every is None else count("evaluate_every", evaluate_every)
        ),
        observe=observe,
        device=_device(device),
    )
    check_settings(settings)
    check_runs(ensemble, training=True)
    check_data(ensemble, data, settings.loss, settings.batch_size)
    if stack_size is None:
        layer = max((4 * p[0].numel() for p in ensemble.parameters.values()), default=1)
        on_cpu = settings.device.type == "cpu"
        stack_size = max(1, _STACK_BYTES // layer) if on_cpu else len(ensemble)
    return train_all(
        Job(ensemble, data, settings),
        count("stack_size", stack_size),
        executor=executor,
        progress=progress,
        results=results,
    )


def evaluate(
    ensemble: Ensemble,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = F.cross_entropy,
    metrics: Metrics | None = None,
    dropout: bool = False,
    device: str | torch.device = "auto",
) -> pd.DataFrame:
    """Evaluate every run on the same examples.

    Parameters
    ----------
    ensemble : Ensemble
        The runs; left as they were.
    inputs, targets : Tensor
        Examples, the first dimension counts them.
    loss, metrics : callable and mapping of callables
        As in `train`.
    dropout : bool
        Keep dropout on, as a program does that forgets ``model.eval()``. Normalization layers
        still use their running statistics.
    device : str or torch.device
        ``auto`` is the accelerator if there is one.

    Returns
    -------
    pandas.DataFrame
        Columns ``scheme, seed, metric, value``. The loss and each metric are of all examples at
        once, not averages over parts of them.
    """
    import pandas as pd

    check_runs(ensemble, training=False)
    check_examples(ensemble, inputs, targets)
    device = _device(device)
    x, y = inputs.to(device), targets.to(device)
    stacked = Stacked(ensemble, tolerant(loss), device)
    stacked.rehearse(x[:2], y[:2], training=False)
    values = stacked.evaluate(x, y, _metrics(metrics, loss), dropout=dropout)
    runs = {"scheme": ensemble.schemes, "seed": ensemble.seeds}
    return pd.concat(
        [pd.DataFrame({**runs, "metric": name, "value": v.numpy()}) for name, v in values.items()],
        ignore_index=True,
    )


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _metrics(metrics: Metrics | None, loss: Loss) -> Metrics:
    if metrics is not None:
        check_metrics(metrics)
        return {name: tolerant(metric) for name, metric in metrics.items()}
    logits = loss is F.binary_cross_entropy_with_logits or isinstance(loss, nn.BCEWithLogitsLoss)
    return {"accuracy": partial(accuracy, threshold=0.0) if logits else accuracy}
