"""Are the four idx files of an MNIST-like image set there and right, and what is in them?

Known SHA-256 digests tell whether they are right. `_sources.locate` decides where to look.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import math
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["FILES", "damage", "read_idx", "reason"]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LARGEST = 2**26  # bytes; the complete training images have 47 million


def damage(folder: Path, sha256: Sequence[str], suffix: str = "") -> str | None:
    """Return what is wrong with the four files in ``folder``, None if nothing is."""
    problems = []
    for name, expected in zip(FILES, sha256, strict=True):
        path = folder / (name + suffix)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                # Reading a pipe or a device could wait forever, or never come to an end.
                raise OSError("not a regular file")
            if status.st_size > LARGEST:
                raise OSError(f"{status.st_size:,} bytes, more than {LARGEST:,}")
            found = _sha256(path, status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            problems.append(f"{path.name} is missing")
        except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a null byte
            problems.append(f"{path.name} cannot be read ({reason(error)})")
        else:
            if found != expected:
                size = f"{status.st_size:,} bytes{_announced(path)}"
                problems.append(f"{path.name} has {size} and SHA-256 {found}, expected {expected}")
    return "; ".join(problems) or None


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes, gzipped if its name says so, as a uint8 tensor."""
    with _open(path) as file:
        content = bytearray(file.read())  # writable, so that torch can share it
    shape, start = _idx_shape(content)
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path.name} has {len(content):,} bytes; its header announces "
            f"{start + math.prod(shape):,}. Replace the file."
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)


def reason(error: BaseException) -> str:
    """Return an error's words on one line, without the path of this machine in an OSError's."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(words.split())


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Return the digest of a file's decompressed content, computed once while it is unchanged."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _idx_shape(content: bytes | bytearray) -> tuple[list[int], int]:
    """Return the shape an idx header announces and the place where the values start."""
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions, and then each
    # dimension as a big-endian 32-bit integer.
    start = 4 + 4 * content[3] if len(content) > 3 else 0
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if content[:3] != b"\0\0\x08" or len(content) < start or not all(shape) or not shape:
        found = bytes(content[:4]).hex() or "empty"
        raise ValueError(
            f"The idx header is {found}; expected 00000801 (labels) or 00000803 (images) and "
            "dimensions above 0. Replace the file."
        )
    return shape, start


def _announced(path: Path) -> str:
    with contextlib.suppress(OSError, EOFError, zlib.error, ValueError), _open(path) as file:
        shape, start = _idx_shape(file.read(16))
        return f" where its header announces {start + math.prod(shape):,}"
    return ""
