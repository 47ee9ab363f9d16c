"""What is there to train on? Points on a line and in a square, MNIST and Fashion-MNIST.

Each is a `Dataset`: four tensors in memory, the names of the classes, and the provenance of
the data. Image sets are complete where the files can be had, else a bundled sample.
"""

from initguide.datasets.dataset import Dataset
from initguide.datasets.images import fashion_mnist, find, mnist
from initguide.datasets.points import plane, threshold
from initguide.datasets.provenance import DatasetError, Provenance, SampleWarning

__all__ = [
    "Dataset",
    "DatasetError",
    "Provenance",
    "SampleWarning",
    "fashion_mnist",
    "find",
    "mnist",
    "plane",
    "threshold",
]
