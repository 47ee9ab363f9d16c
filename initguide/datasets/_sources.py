"""Where do the files of an image set lie? In a named folder, the cache, a download or the sample.

The first place that has them wins; every file is compared with its known SHA-256, wherever it
lies.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from initguide.datasets._downloads import Archives, fill_cache
from initguide.datasets._idx import FILES, damage, reason
from initguide.datasets.provenance import DatasetError, Provenance, SampleWarning, Source

__all__ = ["IMAGE_SETS", "SAMPLES", "locate"]

SAMPLES = Path(__file__).parent / "samples"
OFFLINE, ONLINE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class ImageSet:
    """What is known about an image set before any file is opened."""

    folder: str  # torchvision's name of the class and of the folder
    licence: str
    homepage: str
    classes: tuple[str, ...]
    sha256: tuple[str, ...]  # of the complete files, in the order of FILES
    sample_sha256: tuple[str, ...]  # of the sample's, decompressed
    sample_size: str


IMAGE_SETS = {
    "mnist": ImageSet(
        folder="MNIST",
        licence="CC BY-SA 3.0",
        homepage="https://yann.lecun.com/exdb/mnist/",
        classes=tuple("0123456789"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        sample_sha256=(
            "74422b12132c7d8b0957cdb994d971a505f77a57ddac808ef1ea84f4bb9e7a2e",
            "5dbd7686910cb66a8a6303f16940c2fae43896243c187897cd3976aab00f4817",
            "39a5f23fe7320d50d2b650bd96c756db7999a84cb13541d939296ed59f1e0663",
            "66e4c6deb5f2a061f7d8cd5ec53025fdb9dabb08265e449acb8cf64b8cd36cac",
        ),
        sample_size="4,000 + 1,000 of the 70,000 images",
    ),
    "fashion_mnist": ImageSet(
        folder="FashionMNIST",
        licence="MIT",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        sample_sha256=(
            "6d9108cd96daa180eec7fb5cf567b914fa03251b99835f286cfcaa5f2f29cab0",
            "e18e6fe44bbeb980f85a745210a0a269a8bb7b98201e0f223576115fd7d5dc6c",
            "c3db0aba26bbee2c4e140eeb7cc0c0aa8c78ca8883cb55c705307f1e83f145c9",
            "66e4c6deb5f2a061f7d8cd5ec53025fdb9dabb08265e449acb8cf64b8cd36cac",
        ),
        sample_size="5,000 + 1,000 of the 70,000 images",
    ),
}


def locate(
    name: str, *, root: str | Path | None, download: bool, archives: Callable[[str], Archives]
) -> Provenance:
    """Find the files of an image set; ``archives(kind)`` says where they can be had if need be."""
    if not isinstance(name, str) or name not in IMAGE_SETS:
        raise ValueError(f"name is {name!r}; expected one of {sorted(IMAGE_SETS)}.")
    if download not in (True, False):
        raise ValueError(f"download is {download!r}; expected True or False.")
    known = IMAGE_SETS[name]
    named: tuple[tuple[Source, str | Path | None, str], ...] = (
        ("root", root, "root"),
        ("environment", os.environ.get("INITGUIDE_DATA") or None, "$INITGUIDE_DATA"),
    )
    for source, place, words in named:
        if place is not None:
            folder = _absolute(place, words) / known.folder / "raw"
            if problem := damage(folder, known.sha256):
                # Someone said where the data are: anything else would be a silent substitute.
                raise DatasetError(
                    f"{known.folder} in {words} is not usable: {problem}. Expected the four idx "
                    f"files in {folder}. Put them there (torchvision.datasets.{known.folder}"
                    f"({str(place)!r}, download=True) does, into an empty folder), or leave "
                    f"{words} unset to use the cache, a download or the bundled sample."
                )
            return _provenance(name, source, folder)

    found = _cached(name, download, archives)
    if isinstance(found, Provenance):
        return found
    if found:  # else the caller asked for no download and knows
        _warn_once(
            f"{known.folder}: {' and '.join(found)}. Using the bundled sample, "
            f"{known.sample_size}. To have them all, allow the download once, or set "
            f"INITGUIDE_DATA to a folder with {known.folder}/raw/{FILES[0]} and so on. "
            f"The cache is {_cache_words()}; INITGUIDE_CACHE moves it."
        )
    if problem := damage(SAMPLES / name, known.sample_sha256, ".gz"):
        raise DatasetError(
            f"The bundled sample of {known.folder} is not usable: {problem}. Reinstall initguide."
        )
    return _provenance(name, "sample", SAMPLES / name)


def _cached(
    name: str, download: bool, archives: Callable[[str], Archives]
) -> Provenance | list[str]:
    """Return what the cache has, after a download if need be, or why it has nothing."""
    known = IMAGE_SETS[name]
    try:
        cache = _cache_folder()
    except (RuntimeError, OSError) as error:  # a container's user has no home folder
        return [f"there is no folder for the cache ({reason(error)})"]
    folder = cache / known.folder / "raw"
    problem = damage(folder, known.sha256)
    if problem is None:
        return _provenance(name, "cache", folder)
    failures = []
    if os.path.lexists(folder) or (os.path.lexists(folder.parent) and not folder.parent.is_dir()):
        failures.append(f"the cache is damaged ({problem})")
    if download and not _offline():
        try:
            fresh = fill_cache(archives, known.folder, cache, known.sha256)
        except (OSError, RuntimeError, ImportError) as error:
            failures.append(f"the download failed ({reason(error)})")
        else:
            return _provenance(name, "download" if fresh else "cache", folder)
    return failures


def _cache_folder() -> Path:
    named = os.environ.get("INITGUIDE_CACHE")
    folder = Path(named or platformdirs.user_cache_path("initguide")).expanduser()
    return folder.absolute()


def _cache_words() -> str:
    """Name the cache folder in words that may stand on a public page."""
    if os.environ.get("INITGUIDE_CACHE"):
        return "$INITGUIDE_CACHE"
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # no home, or not below it
        return f"~/{_cache_folder().relative_to(Path.home()).as_posix()}"
    return "the user's cache folder"


def _absolute(place: str | Path, words: str) -> Path:
    """Return a folder that stays the same one when the working directory changes."""
    try:
        return Path(place).expanduser().absolute()
    except TypeError:
        raise TypeError(f"{words} is {place!r}; expected a path.") from None
    except (RuntimeError, OSError) as error:
        raise DatasetError(
            f"{words} is {str(place)!r}: {reason(error)} Write the path in full."
        ) from error


def _offline() -> bool:
    """Whether ``$INITGUIDE_OFFLINE`` forbids the network."""
    setting = os.environ.get("INITGUIDE_OFFLINE", "").strip().lower()
    if setting not in (*OFFLINE, *ONLINE):
        raise ValueError(
            f"INITGUIDE_OFFLINE is {setting!r}; expected one of {', '.join(OFFLINE)} to forbid "
            f"the network, or of {', '.join(filter(None, ONLINE))}."
        )
    return setting in OFFLINE


def _provenance(name: str, source: Source, folder: Path) -> Provenance:
    known, sample = IMAGE_SETS[name], source == "sample"
    return Provenance(
        name=name,
        source=source,
        licence=known.licence,
        homepage=known.homepage,
        sha256=dict(zip(FILES, known.sample_sha256 if sample else known.sha256, strict=True)),
        details=(known.sample_size,) if sample else (),
        path=folder,
    )


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, SampleWarning, stacklevel=4)  # the caller of mnist()
