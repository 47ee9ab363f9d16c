"""Weights that are spread over processes equal those of one process with the same seed."""

import os
import subprocess
import sys

import pytest
import torch
from torch import distributed as dist
from torch import nn

import initguide as ig

pytestmark = pytest.mark.slow

RULES = {"0": "orthogonal", "2.bias": 0.25}


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 10), nn.ReLU(), nn.Linear(10, 6), nn.LSTM(6, 4))


def generator():
    return torch.Generator().manual_seed(1)


def fill(model, kind):
    """Initialize a model on this process; return what each parameter became, whole."""
    if kind != "fsdp1":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model[0])
        fully_shard(model)
    before = [p.detach().clone() for p in model.parameters()]
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(ValueError, match=r"initialize before you wrap"):
            ig.initialize_(model, "he_normal")
        assert all(map(torch.equal, model.parameters(), before))
        return []
    if kind == "global":  # each rank's own global generator: the first rank's draws count
        torch.manual_seed(1 if dist.get_rank() == 0 else 99)
    done = ig.initialize_(
        model, "xavier_normal", rules=RULES, generator=None if kind == "global" else generator()
    )
    assert done.left_alone == ()
    return [getattr(p, "full_tensor", lambda p=p: p.detach())() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1", "global"])
def test_two_processes_hold_the_weights_of_one(kind, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KIND": kind, "STORE": str(tmp_path / "s")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    if kind == "fsdp1":
        return
    expected = make()
    ig.initialize_(expected, "xavier_normal", rules=RULES, generator=generator())
    for rank in range(2):
        found = torch.load(f"{environment['STORE']}.{rank}")
        for p, q in zip(found, expected.parameters(), strict=True):
            torch.testing.assert_close(p, q.detach())


if __name__ == "__main__":
    rank, store = int(os.environ["RANK"]), os.environ["STORE"]
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    kind = os.environ["KIND"]
    torch.save(fill(make(), kind), f"{store}.{rank}")
    dist.destroy_process_group()
