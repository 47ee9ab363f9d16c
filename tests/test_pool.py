"""Whatever happens to a stack, what the others reached is kept and is the same."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest
import torch
from sweeps import DATA, assert_same, build, draw, fail, kill, squared, train
from torch.nn import functional as F

from initguide import Ensemble, TrainingError, mlp

torch.set_num_threads(1)  # these tensors are tiny: a second thread only waits


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_a_failing_stack_leaves_the_others(workers):
    whole = train(build(), DATA)
    observe = partial(fail, 2, ZeroDivisionError)
    with ThreadPoolExecutor(workers or 1) as pool, pytest.raises(TrainingError) as caught:
        train(build(), DATA, observe=observe, executor=pool if workers else None)
    error = caught.value
    assert isinstance(error.__cause__, ZeroDivisionError)
    seeds = list(error.history.ensemble.seeds)
    lost = 4 - len(seeds)
    assert f"{lost} of 4 runs were not trained (ZeroDivisionError: no 2)" in str(error)
    assert 2 not in seeds and {0, 1} <= set(seeds)
    assert_same(error.history, whole.select(seeds))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert_same(again.history, error.history)


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_an_error_that_costs_nothing_stays_what_it_is(executor):
    pool = executor(1) if executor else None
    with pytest.raises(ZeroDivisionError, match="no 0"):
        train(build([0]), DATA, observe=partial(fail, 0, ZeroDivisionError), executor=pool)


def test_an_interrupt_has_what_was_finished():
    with pytest.raises(KeyboardInterrupt, match="attribute history") as caught:
        train(build(), DATA, observe=partial(fail, 3, KeyboardInterrupt))
    assert_same(caught.value.history, train(build([0, 1, 2]), DATA))
    with pytest.raises(KeyboardInterrupt) as caught:
        train(build(), DATA, observe=partial(fail, 0, KeyboardInterrupt))
    assert not hasattr(caught.value, "history")


class Fragile(Executor):
    """Lose a worker at given submissions, with all that was submitted after."""

    def __init__(self, losses):
        self.submitted, self.losses = 0, losses

    def submit(self, function, /, *arguments):
        future = Future()
        number, self.submitted = self.submitted, self.submitted + 1
        if number in self.losses:
            future.set_exception(BrokenExecutor("a worker was lost"))
        else:
            future.set_result(function(*arguments))
        return future


@pytest.mark.parametrize("losses", [{0}, {3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5, 6, 7}, {1, 2, 4}])
def test_a_lost_stack_is_tried_again(losses):
    assert_same(train(build(), DATA, executor=Fragile(losses)), train(build(), DATA))


def test_three_losses_in_a_row_are_enough():
    pool = Fragile(range(1, 100))
    with pytest.raises(TrainingError, match=r"3 of 4 runs.*BrokenExecutor: a worker") as caught:
        train(build(), DATA, executor=pool)
    assert caught.value.history.ensemble.seeds == (0,)
    assert pool.submitted == 4 + 3 * 2
    pool = Fragile(range(100))
    with pytest.raises(BrokenExecutor, match=r"lost 3 times.*smaller stack_size"):
        train(build(), DATA, executor=pool)
    assert pool.submitted == 3 * 4


class Here(ProcessPoolExecutor):
    """Look like processes, and count what would be sent to them."""

    def submit(self, function, /, *arguments):
        self.sent = [*getattr(self, "sent", []), len(pickle.dumps((function, arguments)))]
        future = Future()
        future.set_result(function(*arguments))
        self.received = future.result()
        return future


def test_processes_get_the_data_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    data = draw(100_000)
    pool = Here(1)
    history = train(build(), data, batch_size=10_000, executor=pool)
    assert max(pool.sent) < 500 and len(pool.sent) == 4  # bytes; the data have 2.8 million
    assert type(pool.received) is bytes  # a tensor would keep a file open
    assert_same(history, train(build(), data, batch_size=10_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": lambda outputs, targets: outputs.mean()}, "^loss cannot be sent"),
        ({"metrics": {"mine": lambda outputs, targets: outputs.max()}}, "^metrics cannot be"),
        ({"observe": lambda ensemble: {}}, "^observe cannot be sent"),
        ({"optimizer": lambda p, lr: torch.optim.SGD(p, lr)}, "^optimizer cannot be sent"),
        (
            {"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1)},
            "^scheduler cannot be sent",
        ),
    ],
)
def test_what_cannot_be_sent_is_named(options, words):
    words += ".*no lambda. Write a def"
    with ProcessPoolExecutor(1) as pool, pytest.raises(pickle.PicklingError, match=words):
        train(build(), DATA, **options, executor=pool)


def test_a_model_that_cannot_be_sent_is_named():
    def make():
        model = mlp(5, 3)
        model.extra = lambda x: x
        return model

    ensemble = Ensemble.build(make, schemes=["he_normal"], seeds=[0])
    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(pickle.PicklingError, match=r"^model cannot"),
    ):
        train(ensemble, DATA, executor=pool)


@pytest.fixture(scope="module")
def processes():
    # A server that has imported torch once, and whose forks are quick.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["initguide"])
    return partial(ProcessPoolExecutor, mp_context=context)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(processes, tmp_path):
    observe = partial(kill, 1, tmp_path / "killed")
    with processes(2) as pool:
        history = train(build(), DATA, observe=observe, loss=F.cross_entropy, executor=pool)
    assert (tmp_path / "killed").exists()
    assert_same(history, train(build(), DATA))


@pytest.mark.slow
def test_a_stack_that_always_kills_costs_no_other(processes, tmp_path):
    options = {"observe": partial(kill, 0, None), "results": tmp_path}
    with processes(1) as pool, pytest.raises(TrainingError, match=r"1 of 4.*call again") as caught:
        train(build(), DATA, **options, executor=pool)
    assert isinstance(caught.value.__cause__, BrokenProcessPool)
    assert_same(caught.value.history, train(build([1, 2, 3]), DATA))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_a_pool_that_forks_after_threads_ran_does_not_hang():
    code = """if True:
        from concurrent.futures import ProcessPoolExecutor
        from functools import partial
        from multiprocessing import get_context
        import torch
        from initguide import Ensemble, datasets, mlp, train
        data = datasets.mnist(download=False).first(1000, 1000)
        ensemble = Ensemble.build(partial(mlp, 784, 50, 10), schemes=["zeros"], seeds=range(2))
        torch.set_num_threads(2)
        how = {"epochs": 1, "lr": 0.1, "device": "cpu", "stack_size": 1}
        here = train(ensemble, data, **how)
        with ProcessPoolExecutor(2, get_context("fork")) as pool:
            there = train(ensemble, data, **how, executor=pool)
        torch.testing.assert_close(here.batch_loss, there.batch_loss)
    """
    if "fork" in multiprocessing.get_all_start_methods():
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


@pytest.mark.slow
def test_a_notebook_s_function_is_an_error_that_says_so(tmp_path):
    code = """if True:
        import multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor
        import sweeps
        def loss(outputs, targets):
            return outputs.mean()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            sweeps.train(sweeps.build(), sweeps.DATA, loss=loss, executor=pool)
    """
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert "UnpicklingError: a worker cannot find what it is to run" in last
    assert "from the notebook to a file" in last


@pytest.fixture
def dask_client():
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own
def test_dask_gives_the_same_history_and_survives(dask_client, tmp_path):
    whole = train(build(), DATA)
    executor = dask_client.get_executor()
    assert_same(train(build(), DATA, executor=executor), whole)
    once = partial(kill, 1, tmp_path / "killed")
    assert_same(train(build(), DATA, observe=once, executor=executor), whole)
    assert (tmp_path / "killed").exists()
    lambdas = {"loss": lambda outputs, targets: outputs.square().mean()}
    there = train(build(), DATA, **lambdas, executor=executor)
    assert_same(there, train(build(), DATA, loss=squared))
    # Which comes first depends on whether a worker that lives still has the data.
    words = "KilledWorker|CancelledError: A worker was lost 3 times"
    with pytest.raises(TrainingError, match=rf"1 of 4 runs.*({words})") as caught:
        train(build(), DATA, observe=partial(kill, 0, None), executor=executor)
    assert_same(caught.value.history, whole.select([1, 2, 3]))
