"""What cannot be trained or evaluated, and what should be done instead?"""

from __future__ import annotations

import inspect
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from initguide._fit import Settings
from initguide._stacked import Loss
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble


def count(name: str, number: int) -> int:
    """Return a whole number from 1 up, or refuse it."""
    try:
        whole = operator.index(number)  # takes numpy's too, but no 1.5
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{name}={number!r}: expected a whole number from 1 up.")
    return whole


def check_settings(settings: Settings) -> None:
    """Refuse a learning rate or order that is none, and what makes no optimizer or scheduler."""
    if not (math.isfinite(settings.lr) and settings.lr >= 0):
        raise ValueError(f"lr={settings.lr!r}: expected a finite learning rate from 0 up.")
    if settings.batch_order not in ("per_seed", "shared", "sequential"):
        raise ValueError(
            f"batch_order={settings.batch_order!r} is unknown: expected 'per_seed', 'shared' or "
            "'sequential'."
        )
    optimizer = settings.make_optimizer([torch.zeros(1, requires_grad=True)])
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer makes a {type(optimizer).__name__}: expected a torch.optim.Optimizer. Pass "
            "its class, or a functools.partial of it."
        )
    _check_elementwise(type(optimizer))
    if settings.scheduler is None:
        return
    if not callable(settings.scheduler):
        raise TypeError(
            f"scheduler is a {type(settings.scheduler).__name__}: expected what makes one. Pass "
            "functools.partial(StepLR, step_size=1)."
        )
    scheduler = settings.scheduler(optimizer)
    if not hasattr(scheduler, "step") or isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            f"scheduler makes a {type(scheduler).__name__}: expected an LRScheduler that steps "
            "without a value. Pass functools.partial(StepLR, step_size=1)."
        )


def optimizer_at(optimizer: Callable[..., Optimizer], lr: float) -> Callable[..., Optimizer]:
    """Return the optimizer with its learning rate, and in its fastest form that torch allows."""
    kind = optimizer.func if isinstance(optimizer, partial) else optimizer
    if isinstance(kind, type):
        _check_elementwise(kind)
    known = inspect.signature(optimizer).parameters
    options = {name: parameter.default for name, parameter in known.items()}
    if options.get("differentiable") is True:
        raise ValueError(
            "optimizer has differentiable=True, but its steps are not differentiated: expected "
            "False. Leave the option out."
        )
    # One pass over the memory instead of one an operation: the step is bound by its traffic.
    fused = options.get("fused", False) is None and options.get("foreach") is not True
    return partial(optimizer, lr=lr, **({"fused": True} if fused else {}))


def _check_elementwise(kind: type) -> None:
    if kind in (torch.optim.LBFGS, torch.optim.Adafactor, getattr(torch.optim, "Muon", None)):
        raise ValueError(
            f"optimizer {kind.__name__} mixes the numbers of a tensor, and here a tensor holds "
            "many runs: expected an elementwise one such as SGD, Adam, AdamW or RMSprop."
        )


def check_metrics(metrics: object) -> None:
    """Refuse what is no mapping, and a metric that would take the place of the loss."""
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics is a {type(metrics).__name__}: expected a mapping from names to functions, "
            "such as {'accuracy': accuracy}."
        )
    if "loss" in metrics:
        raise ValueError(
            "a metric is named 'loss', as the loss itself is: expected another name. Rename it."
        )


def check_runs(ensemble: Ensemble, *, training: bool) -> None:
    """Refuse an ensemble that has nothing to train, or nothing at all."""
    if len(ensemble) == 0:
        raise ValueError("the ensemble has no runs: expected at least one. Select or build some.")
    if training and not any(p.requires_grad for p in ensemble.template.parameters()):
        raise ValueError(
            f"no parameter of {type(ensemble.template).__name__} has requires_grad=True: expected "
            "one to train. Unfreeze a layer, or call evaluate."
        )


def check_data(ensemble: Ensemble, data: Dataset, loss: Loss, batch_size: int) -> None:
    """Let one run meet the first batch alone, and refuse what fails there."""
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}: expected an initguide.Dataset. Make one of your "
            "tensors."
        )
    x, y = data.train_inputs, data.train_targets
    outputs = check_examples(ensemble, x, y, "train ", rows=batch_size)
    _check_targets(outputs, data.test_targets, "test ")
    kind = loss.func if isinstance(loss, partial) else loss
    entropy = kind is F.cross_entropy or isinstance(kind, nn.CrossEntropyLoss)
    if entropy and outputs.shape[1:2] == (1,):
        raise ValueError(
            "cross_entropy of 1 output is always 0: expected at least 2 outputs, or a loss of "
            "one. Pass loss=torch.nn.functional.binary_cross_entropy for probabilities."
        )
    _check_loss(loss, outputs, y[:batch_size].cpu().clone())
    if len(x) % batch_size == 1 or batch_size == 1:
        _check_batch_of_one(ensemble, x[:1], f"batches of {batch_size} of {len(x)} examples")


def check_examples(
    ensemble: Ensemble, inputs: Tensor, targets: Tensor, split: str = "", *, rows: int = 2
) -> Tensor:
    """Return what one run makes of the first rows, or say why it makes nothing of them."""
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{split}{name} are a {type(value).__name__}: expected a torch.Tensor. Convert "
                "them with torch.as_tensor."
            )
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(
            f"{split}inputs has {len(inputs)} and targets {len(targets)} examples: expected the "
            "same number, at least 1. Pass both of each example."
        )
    model = ensemble.model(ensemble.schemes[0], ensemble.seeds[0]).cpu().eval()
    x = inputs[:rows].detach().cpu().clone()  # models may work in place on what they get
    with torch.random.fork_rng(devices=[]):
        try:
            outputs = model(x)
        except Exception as error:
            weights = {p.dtype for p in model.parameters()}
            if inputs.is_floating_point() and weights and inputs.dtype not in weights:
                raise ValueError(
                    f"{split}inputs are {inputs.dtype}, the model's weights {weights.pop()}: "
                    "expected the same. Convert the inputs with .float(), or build a model of "
                    "their type."
                ) from error
            error.add_note(f"The model was called with inputs of shape {tuple(x.shape)}.")
            raise
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the model returns a {type(outputs).__name__}: expected one tensor. Let its forward "
            "return the part that the loss takes."
        )
    if outputs.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"the model makes outputs of shape {tuple(outputs.shape)} of {len(x)} examples: "
            "expected one row for each. Keep the first dimension; batch_first=True if recurrent."
        )
    _check_targets(outputs, targets, split)
    return outputs


def _check_targets(outputs: Tensor, targets: Tensor, split: str) -> None:
    shape = ("n", *outputs.shape[1:])
    if targets.is_floating_point():
        if targets.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                f"{split}targets have shape {tuple(targets.shape)}, but the model's outputs "
                f"{shape}: expected the same. Reshape the targets."
            )
        return
    if targets.dtype != torch.int64:
        raise ValueError(
            f"{split}labels are {targets.dtype}: expected torch.int64. Convert them with .long()."
        )
    if outputs.ndim == 1:
        raise ValueError(
            f"{split}labels are whole numbers, but the model's outputs have shape {shape}: "
            "expected a score for each class. Widen the output layer, or convert the labels with "
            ".float()."
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= outputs.shape[1]:
        raise ValueError(
            f"{split}labels run from {low} to {high}, but the model has {outputs.shape[1]} "
            f"outputs: expected labels from 0 to {outputs.shape[1] - 1}. Widen the output layer or "
            "relabel the data."
        )


def _check_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    called = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            value = loss(outputs, targets)
        if isinstance(value, Tensor) and value.shape == () and value.requires_grad:
            torch.autograd.backward(value)
            return
    except UserWarning as warning:
        if "target size" not in str(warning):
            raise
        raise ValueError(
            f"loss compares {called}, each number with all others: expected the same shape. "
            "Reshape one of them."
        ) from warning
    except Exception as error:
        if targets.is_floating_point() and targets.dtype != outputs.dtype:
            raise ValueError(
                f"targets are {targets.dtype}, the model's outputs {outputs.dtype}: expected the "
                "same. Convert the targets."
            ) from error
        error.add_note(f"The loss was called with {called}.")
        raise
    if not isinstance(value, Tensor) or value.shape != ():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss returns {found} for a batch: expected one number, shape (). Pass "
            "reduction='mean', or call .mean()."
        )
    raise ValueError(
        "loss has no gradient: expected a differentiable function of the outputs. Pass what only "
        "measures as one of the metrics."
    )


def _check_batch_of_one(ensemble: Ensemble, x: Tensor, batches: str) -> None:
    model = ensemble.model(ensemble.schemes[0], ensemble.seeds[0]).cpu().train()
    with torch.random.fork_rng(devices=[]):
        try:
            model(x.detach().cpu().clone())
        except Exception as error:  # others come again in training
            if "more than 1 value per channel" in str(error):
                raise ValueError(
                    f"{batches} leave a last one of 1, which has no variance for batch "
                    "normalization: expected at least 2. Drop an example with data.first, or "
                    "change batch_size."
                ) from error
