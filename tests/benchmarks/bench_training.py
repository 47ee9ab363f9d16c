"""How long does a run take: the source's way, ours, and the bare matrix products?

The work is one epoch of the MNIST comparison (784-100-10, batches of 100, SGD with Nesterov
momentum) with an evaluation before and after. The source's way is a DataLoader over torchvision's
MNIST with its transform and one model. The three alternate, so that a busy machine slows them
alike; what is printed are medians of seconds per run, and of the ratios within a round.
"""

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import ToTensor

from initguide import Dataset, Ensemble, datasets, mlp, train

BATCH, WIDTHS = 100, (784, 100, 10)
SCHEMES = ["standard_normal", "torch_default", "lecun_normal", "xavier_normal", "he_normal"]
make_optimizer = partial(torch.optim.SGD, momentum=0.9, nesterov=True)


def write_torchvision_layout(data: Dataset, root: Path) -> None:
    """Write the data as the files that torchvision's MNIST reads."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, inputs, targets in (
        ("train", data.train_inputs, data.train_targets),
        ("t10k", data.test_inputs, data.test_targets),
    ):
        images = (inputs * 255).round().to(torch.uint8).numpy().tobytes()
        labels = targets.to(torch.uint8).numpy().tobytes()
        n = len(inputs)
        header = struct.pack(">4i", 0x803, n, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + labels)


def source_way(root: Path) -> None:
    """Train one model as the source does."""
    splits = [
        torchvision.datasets.MNIST(root, train=t, transform=ToTensor()) for t in (True, False)
    ]
    loaders = [
        torch.utils.data.DataLoader(split, BATCH, shuffle=shuffle)
        for split, shuffle in zip(splits, (True, False), strict=True)
    ]
    model = nn.Sequential(nn.Linear(784, 100), nn.Tanh(), nn.Linear(100, 10))
    optimizer = make_optimizer(model.parameters(), lr=0.1)

    def accuracy() -> float:
        right = 0
        with torch.no_grad():
            for images, labels in loaders[1]:
                right += int((model(images.view(-1, 784)).argmax(1) == labels).sum())
        return right / len(splits[1])

    accuracy()
    for images, labels in loaders[0]:
        optimizer.zero_grad()
        F.cross_entropy(model(images.view(-1, 784)), labels).backward()
        optimizer.step()
    assert accuracy() > 0.5


def our_way(data: Dataset, seeds: int) -> None:
    """Train the five schemes under every seed at once."""
    make_model = partial(mlp, *WIDTHS, activation="tanh")
    ensemble = Ensemble.build(make_model, schemes=SCHEMES, seeds=range(seeds))
    history = train(ensemble, data, epochs=1, lr=0.1, optimizer=make_optimizer)
    assert (history.values["test", "accuracy"][-1] > 0.5).all()


def matrix_products(data: Dataset, runs: int) -> None:
    """Multiply the matrices of the same steps and evaluations, and do nothing else."""
    stack = min(runs, 16)
    n_in, n_hidden, n_out = WIDTHS
    w1, w2 = torch.randn(stack, n_hidden, n_in), torch.randn(stack, n_out, n_hidden)
    x, h = torch.rand(stack, BATCH, n_in), torch.rand(stack, BATCH, n_hidden)
    steps = -(-len(data.train_inputs) // BATCH)
    evaluations = 2 * -(-len(data.test_inputs) // BATCH)
    for _ in range(round(runs / stack * (steps + evaluations))):
        torch.bmm(x, w1.mT)
        torch.bmm(h, w2.mT)
    g1, g2 = torch.rand(stack, BATCH, n_hidden), torch.rand(stack, BATCH, n_out)
    for _ in range(round(runs / stack * steps)):
        torch.bmm(g2.mT, h)
        torch.bmm(g2, w2)
        torch.bmm(g1.mT, x)


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10, help="ours trains five runs of each")
    options = parser.parse_args()
    data = datasets.mnist()
    runs = options.seeds * len(SCHEMES)
    print(f"{data}; ours trains {runs} runs at once")
    with tempfile.TemporaryDirectory() as folder:
        write_torchvision_layout(data, Path(folder))
        ways = {
            "the source's way": (lambda: source_way(Path(folder)), 1),
            "ours": (lambda: our_way(data, options.seeds), runs),
            "bare matrix products": (lambda: matrix_products(data, runs), runs),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (work, runs) in ways.items():
                times[name].append(seconds(work) / runs)
    for name, values in times.items():
        print(f"{name:22}{statistics.median(values):8.3f} s a run")
    source, ours, bare = times.values()
    faster = statistics.median(s / o for s, o in zip(source, ours, strict=True))
    slower = statistics.median(o / b for o, b in zip(ours, bare, strict=True))
    print(f"ours is {faster:.1f} times faster than the source's way,")
    print(f"and takes {slower:.2f} times as long as the bare matrix products")


if __name__ == "__main__":
    main()
