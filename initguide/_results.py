"""Which runs has a folder already? One file a finished stack, found again by what made it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from initguide._fit import Runs, Settings
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble
from initguide.history import History


class Results:
    """Histories of finished stacks in a folder.

    A file is named by a digest of all that its runs have in common - settings, data, architecture,
    torch's version - and holds a digest for each run, of its name, seed and first weights. So what
    is found again was made alike, whatever runs were then trained beside it.

    The files are torch's own, as a run is tensors more than it is a table: parquet would need
    pyarrow, which is larger than all else but torch.
    """

    def __init__(
        self, folder: str | os.PathLike[str], ensemble: Ensemble, data: Dataset, settings: Settings
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.template = ensemble.template
        tensors = {**ensemble.parameters, **ensemble.buffers}
        self.runs = [
            _digest(*run, {name: t[number] for name, t in tensors.items()})
            for number, run in enumerate(zip(ensemble.schemes, ensemble.seeds, strict=True))
        ]
        trained = {name: p.requires_grad for name, p in ensemble.template.named_parameters()}
        examples = (data.train_inputs, data.train_targets, data.test_inputs, data.test_targets)
        self.key = _digest(
            vars(settings), _program(ensemble.template), trained, examples, torch.__version__
        )

    def load(self) -> list[tuple[Runs, History]]:
        """Return the histories found, each with the numbers of its runs."""
        missing = {digest: number for number, digest in enumerate(self.runs)}
        found = []
        for path in sorted(self.folder.glob(f"{self.key}-*.pt")):
            try:
                content = torch.load(path, weights_only=True)
            except Exception as error:
                raise ValueError(
                    f"{path} cannot be read: expected a file that train wrote. Delete it, and its "
                    "runs are trained again."
                ) from error
            columns = [i for i, digest in enumerate(content["runs"]) if digest in missing]
            if columns:
                runs = tuple(missing.pop(content["runs"][i]) for i in columns)
                found.append((runs, _unpacked(content, self.template).select(columns)))
        return found

    def save(self, runs: Runs, history: History) -> None:
        """Write a history, so that a file is complete or not there."""
        digests = [self.runs[number] for number in runs]
        path = self.folder / f"{self.key}-{_digest(digests)}.pt"
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                torch.save({"runs": digests, **_packed(history)}, file)
                file.flush()
                os.fsync(file.fileno())  # a name must not reach the disk before its content
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _packed(history: History) -> dict[str, object]:
    return {
        "schemes": history.ensemble.schemes,
        "seeds": history.ensemble.seeds,
        "parameters": dict(history.ensemble.parameters),
        "buffers": dict(history.ensemble.buffers),
        "batch_loss": history.batch_loss,
        "steps": history.steps,
        "values": dict(history.values),
    }


def _unpacked(content: Mapping[str, Any], template: nn.Module) -> History:
    names = ("parameters", "buffers", "schemes", "seeds")
    ensemble = Ensemble(template, **{name: content[name] for name in names})
    return History(ensemble, content["batch_loss"], content["steps"], content["values"])


def _digest(*values: object) -> str:
    return hashlib.blake2b(_told(values).encode(), digest_size=10).hexdigest()


def _told(value: object) -> str:
    """Describe a value alike in every process, by what is in it and not by where it lies."""
    match value:
        case Tensor():
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            return f"{value.dtype} {tuple(value.shape)} {hashlib.blake2b(raw.data).hexdigest()}"
        case np.ndarray():
            return f"{value.dtype} {_told(value.tolist())}"
        case nn.Module():
            return _program(value) + _told(value.state_dict())
        case partial():
            return f"partial {_told([value.func, value.args, value.keywords])}"
        case MethodType():
            return f"method {_told([value.__func__, value.__self__])}"
        case FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            known = [c.__code__ if isinstance(c, FunctionType) else c for c in cells]
            defaults = [value.__defaults__, value.__kwdefaults__]
            return f"{value.__qualname__} {_told([value.__code__, defaults, known])}"
        case CodeType():
            return f"{value.co_code.hex()} {value.co_names} {_told(value.co_consts)}"
        case Mapping():
            return f"{{{', '.join(f'{key!r}: {_told(each)}' for key, each in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(_told, value))}]"
    told = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    if type(value).__repr__ is object.__repr__:  # says nothing of what is in it
        call = type(value).__call__ if callable(value) else None
        told += _told([call, getattr(value, "__dict__", {})])
    return told


def _program(model: nn.Module) -> str:
    """Describe what a model does, apart from its weights."""
    forwards = sorted({_told(type(m).forward) for m in model.modules()})
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{model!r} {forwards}")
