"""How are all stacks trained, here or by an executor's workers, and none lost?"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import current_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from initguide._fit import Runs, Settings, train_stack
from initguide._results import Results
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble
from initguide.history import History, TrainingError

_TRIES = 3  # times that a stack may lose its worker, with no other stack finished in between


@dataclass(frozen=True)
class Job:
    """All there is to train."""

    ensemble: Ensemble
    data: Dataset
    settings: Settings

    def train(self, runs: Runs, tick: Callable[[], object] = lambda: None) -> History:
        """Train one stack."""
        return train_stack(self.ensemble.select(runs), self.data, self.settings, tick)


def train_all(
    job: Job,
    stack_size: int,
    *,
    executor: Executor | None,
    progress: bool | None,
    results: str | os.PathLike[str] | None,
) -> History:
    """Train all runs, but those that the results have; keep what is finished whatever happens."""
    from tqdm.auto import tqdm

    store = None
    parts = []
    if results is not None:
        store = Results(results, job.ensemble, job.data, job.settings)
        parts = store.load()
    done = {run for runs, _ in parts for run in runs}
    missing = [run for run in range(len(job.ensemble)) if run not in done]
    starts = range(0, len(missing), stack_size)
    stacks = [tuple(missing[start : start + stack_size]) for start in starts]
    steps = job.settings.epochs * job.settings.steps(job.data)
    disable = None if progress is None else not progress  # None: shown in a terminal only
    bar = tqdm(total=steps * len(stacks), desc="train", unit="step", disable=disable)
    try:
        with bar, closing(_trained(job, stacks, executor, bar.update, steps)) as trained:
            for runs, history in trained:
                parts.append((runs, history))
                if store is not None:
                    store.save(runs, history)
    except KeyboardInterrupt as interrupt:
        if parts:
            interrupt.history = _joined(job, parts)  # type: ignore[attr-defined]
            interrupt.add_note("The runs that were finished are in its attribute history.")
        raise
    except Exception as error:
        if not parts:
            raise
        lost = len(job.ensemble) - sum(len(runs) for runs, _ in parts)
        words = " ".join([str(error), *getattr(error, "__notes__", [])])
        reason = f"{type(error).__name__}: {words.strip()}".rstrip(":. ")
        kept = "" if results is None else f" and in {results}: call again to go on"
        raise TrainingError(
            f"{lost} of {len(job.ensemble)} runs were not trained ({reason}). The others are in "
            f"this error's history{kept}.",
            _joined(job, parts),
        ) from error
    return _joined(job, parts)


def _joined(job: Job, parts: list[tuple[Runs, History]]) -> History:
    runs = [run for numbers, _ in parts for run in numbers]
    alike = [
        replace(h, ensemble=replace(h.ensemble, template=job.ensemble.template)) for _, h in parts
    ]
    history = replace(History.concatenate(alike), protocol=job.settings.protocol(job.data))
    order = sorted(range(len(runs)), key=runs.__getitem__)
    return history if runs == sorted(runs) else history.select(order)


def _trained(
    job: Job,
    stacks: list[Runs],
    executor: Executor | None,
    update: Callable[..., object],
    steps: int,
) -> Generator[tuple[Runs, History]]:
    if executor is None:
        for runs in stacks:
            yield runs, job.train(runs, update)
        return
    for runs, history in _by_workers(job, stacks, executor):
        update(steps)
        yield runs, history


def _by_workers(job: Job, stacks: list[Runs], executor: Executor) -> Iterator[tuple[Runs, History]]:
    waiting, failures = list(stacks), 0
    with ExitStack() as own:
        while waiting:
            before = len(waiting)
            try:
                with _sender(job, executor) as send:
                    for runs, history in _finished({send(runs): runs for runs in waiting}):
                        waiting.remove(runs)
                        yield runs, history
            except (BrokenExecutor, CancelledError) as error:  # a worker was killed
                failures = 1 if len(waiting) < before else failures + 1
                waiting = waiting[1:] + waiting[:1]  # one that kills must not keep the others back
                if failures == _TRIES:
                    error.add_note(
                        f"A worker was lost {_TRIES} times in a row: expected enough memory for "
                        "each. Pass a smaller stack_size or a pool of fewer workers."
                    )
                    raise
                if isinstance(executor, ProcessPoolExecutor):
                    executor = own.enter_context(_renewed(executor))


def _finished(futures: dict[Future[Any], Runs]) -> Iterator[tuple[Runs, History]]:
    """Yield what comes back; after a failure what is under way, before the failure is raised."""
    failure: Exception | None = None
    try:
        while futures:
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                runs = futures.pop(future)
                try:
                    result = future.result()
                    history = pickle.loads(result) if isinstance(result, bytes) else result
                except Exception as error:
                    failure = failure or error
                else:
                    yield runs, history
            if failure is not None:
                futures = {f: runs for f, runs in futures.items() if not f.cancel()}
    finally:
        for future in futures:
            future.cancel()
    if failure is not None:
        raise failure


@contextmanager
def _sender(job: Job, executor: Executor) -> Iterator[Callable[[Runs], Future[Any]]]:
    """Give what all stacks share to the workers once, where that can be done.

    What is yielded submits one stack.
    """
    client = getattr(executor, "_client", None)
    if isinstance(executor, ProcessPoolExecutor):
        # Through a file that workers map into their memory. As tensors, torch would put each into
        # shared memory, of which containers have little, and keep a file open for each.
        with TemporaryDirectory(prefix="initguide-", ignore_cleanup_errors=True) as folder:
            path = str(Path(folder, "job.pt"))
            try:
                torch.save(job, path)
            except Exception as error:
                raise _unsendable(job, error) from error
            yield lambda runs: executor.submit(_train_from_file, path, runs)
    elif client is not None and hasattr(client, "scatter"):  # Dask's
        shared = client.scatter(job, broadcast=True, hash=False)
        dask: Any = executor
        yield lambda runs: dask.submit(Job.train, shared, runs, pure=False)
    else:
        yield lambda runs: executor.submit(
            train_stack, job.ensemble.select(runs), job.data, job.settings
        )


def _train_from_file(path: str, runs: Runs) -> bytes:
    if type(current_process()).__name__ == "ForkProcess":
        torch.set_num_threads(1)  # OpenMP waits for ever for threads that a fork did not copy
    # As bytes: each tensor would keep a file open, and a sweep has more of them than are allowed.
    return pickle.dumps(_job(path).train(runs))


@lru_cache(maxsize=1)
def _job(path: str) -> Job:
    try:
        job: Job = torch.load(path, weights_only=False, mmap=True)
    except (AttributeError, ImportError) as error:
        raise pickle.UnpicklingError(
            f"a worker cannot find what it is to run ({error}): expected models, losses and "
            "metrics defined in a module. Move them from the notebook to a file and import them."
        ) from error
    return job


def _renewed(pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
    # A pool that lost a worker is no use any more, and has no public way to tell how it was made.
    made = vars(pool)
    return ProcessPoolExecutor(
        made["_max_workers"],
        made["_mp_context"],
        made["_initializer"],
        made["_initargs"],
        max_tasks_per_child=made["_max_tasks_per_child"],
    )


def _unsendable(job: Job, error: Exception) -> Exception:
    parts = {"model": job.ensemble.template, "data": job.data, **vars(job.settings)}
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except Exception:
            return pickle.PicklingError(
                f"{name.removeprefix('make_')} cannot be sent to another process ({error}): "
                "expected what a module defines by name, no lambda. Write a def, or use "
                "functools.partial."
            )
    return error
