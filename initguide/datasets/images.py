"""Which images are there to train on? MNIST and Fashion-MNIST: complete, or a bundled sample."""

from __future__ import annotations

from pathlib import Path

from initguide.datasets._downloads import Archives
from initguide.datasets._idx import FILES, read_idx
from initguide.datasets._sources import IMAGE_SETS, locate
from initguide.datasets.dataset import Dataset
from initguide.datasets.provenance import Provenance

__all__ = ["fashion_mnist", "find", "mnist"]


def mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return the MNIST digits: 60,000 training and 10,000 test images.

    The first of these places that has them wins: ``root``; ``$INITGUIDE_DATA``; the user
    cache (``$INITGUIDE_CACHE`` moves it); a download into that cache; the bundled sample,
    4,000 + 1,000 of the images. Every file is checked against its known SHA-256. A place
    that you name, by ``root`` or by ``$INITGUIDE_DATA``, must be right. A damaged cache is
    downloaded again.

    Parameters
    ----------
    root : path, optional
        Folder in torchvision's layout, ``root/MNIST/raw/train-images-idx3-ubyte`` and so on.
    download : bool
        Whether to try the network. ``INITGUIDE_OFFLINE=1`` in the environment forbids it too,
        and ``0`` allows it.

    Returns
    -------
    Dataset
        Images float32 of shape ``(N, 1, 28, 28)`` in [0, 1], targets int64 of shape ``(N,)``.

    Raises
    ------
    DatasetError
        If the files in a place that you named are missing, damaged or other ones.
    ValueError
        If ``download`` or ``INITGUIDE_OFFLINE`` is neither yes nor no.

    Warns
    -----
    SampleWarning
        Once a process, if a download failed or the cache is damaged and the sample stands in.
    UserWarning
        While another process fills the cache.

    Notes
    -----
    Y. LeCun and C. Cortes hold the copyright, licence CC BY-SA 3.0; see LeCun, Bottou,
    Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> from initguide import datasets
    >>> data = datasets.mnist(download=False)
    >>> tuple(data.train_inputs.shape[1:]), data.train_targets.dtype
    ((1, 28, 28), torch.int64)
    """
    return _images(locate("mnist", root=root, download=download, archives=_archives))


def fashion_mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return the Fashion-MNIST articles: 60,000 training and 10,000 test images.

    Places, parameters, result, errors and warnings are those of `mnist`; the folder is
    ``FashionMNIST/raw``, and the bundled sample has 5,000 + 1,000 of the images.

    Copyright 2017 Zalando SE, licence MIT; see Xiao, Rasul and Vollgraf, "Fashion-MNIST: a
    novel image dataset for benchmarking machine learning algorithms", 2017.
    """
    return _images(locate("fashion_mnist", root=root, download=download, archives=_archives))


def find(name: str, *, root: str | Path | None = None, download: bool = True) -> Provenance:
    """Say where `mnist` or `fashion_mnist` takes its images from, without loading them.

    It finds, downloads and checks the files as they do, with their errors and warnings.

    Parameters
    ----------
    name : {"mnist", "fashion_mnist"}
        The image set.
    root, download
        As in `mnist`.

    Raises
    ------
    ValueError
        If there is no image set of that name, and as in `mnist`.

    Examples
    --------
    >>> from initguide import datasets
    >>> origin = datasets.find("mnist", download=False)
    >>> origin.licence, len(origin.sha256)
    ('CC BY-SA 3.0', 4)
    """
    return locate(name, root=root, download=download, archives=_archives)


def _images(origin: Provenance) -> Dataset:
    suffix = ".gz" if origin.is_sample else ""
    assert origin.path is not None  # files lie somewhere
    train, train_labels, test, test_labels = [read_idx(origin.path / (f + suffix)) for f in FILES]
    return Dataset(
        name=origin.name,
        train_inputs=train.unsqueeze(1).float().div_(255),
        train_targets=train_labels.long(),
        test_inputs=test.unsqueeze(1).float().div_(255),
        test_targets=test_labels.long(),
        classes=IMAGE_SETS[origin.name].classes,
        provenance=origin,
    )


def _archives(kind: str) -> Archives:
    """Return the addresses and checksums that torchvision's class ``kind`` knows."""
    from torchvision import datasets as torchvision_datasets

    official = getattr(torchvision_datasets, kind)
    return Archives(official.mirrors, dict(official.resources))
