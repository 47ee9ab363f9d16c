"""Check, read and fetch the four idx files of an MNIST-like image set.

Known SHA-256 digests tell whether they are right. `locate` decides where to look.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import math
import os
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import filelock
import torch
from torch import Tensor

__all__ = ["FILES", "answering", "damage", "fill_cache", "read_idx", "reason", "stall_timeout"]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
ANSWER_SECONDS = 5.0  # a server that is there answers in less
STALL_SECONDS = 20.0  # a download that sends nothing for so long is dead
LOCK_SECONDS = 900.0  # 30 MB on a slow line, in another process


def damage(folder: Path, sha256: Sequence[str], suffix: str = "") -> str | None:
    """Return what is wrong with the four files in ``folder``, None if nothing is."""
    problems = []
    for name, expected in zip(FILES, sha256, strict=True):
        path = folder / (name + suffix)
        try:
            status = path.stat()
            found = _sha256(path, status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            problems.append(f"{path.name} is missing")
        except (OSError, EOFError, zlib.error) as error:
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
    if content[:3] != b"\0\0\x08" or start <= 4 or len(content) < start:
        found = bytes(content[:4]).hex() or "empty"
        raise ValueError(
            f"The idx header is {found}; expected 00000801 (labels) or 00000803 (images) and "
            "the dimensions. Replace the file."
        )
    return [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)], start


def _announced(path: Path) -> str:
    with contextlib.suppress(OSError, EOFError, zlib.error, ValueError), _open(path) as file:
        shape, start = _idx_shape(file.read(16))
        return f" where its header announces {start + math.prod(shape):,}"
    return ""


def fill_cache(
    fetch: Callable[[str, Path], object], kind: str, cache: Path, sha256: Sequence[str]
) -> bool:
    """Put verified files into ``cache/kind/raw``, all or none; False if they were there.

    ``fetch(kind, target)`` downloads into ``target/kind/raw``. One process does so at a time;
    the others wait and find the files.
    """
    final, partial = cache / kind / "raw", cache / f"{kind}.partial"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(cache / f"{kind}.lock").acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout:
        raise TimeoutError(f"another process held the cache for {LOCK_SECONDS:g} s") from None
    except OSError as error:
        raise OSError(f"the cache folder cannot be written: {reason(error)}") from error
    with lock:
        if damage(final, sha256) is None:
            return False
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        try:
            fetch(kind, partial)
            if problem := damage(partial / kind / "raw", sha256):
                raise RuntimeError(f"what arrived is not {kind}: {problem}")
            final.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                os.replace(partial / kind / "raw" / name, final / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def answering(mirrors: Sequence[str], file: str) -> list[str]:
    """Return the mirrors that have ``file`` within `ANSWER_SECONDS`; raise if none has.

    Without this a network that swallows packets would hold a build for minutes: torchvision
    sets no timeout, and a timeout holds for each address of each mirror in turn.
    """
    answers: dict[str, str] = {}

    def ask(mirror: str) -> None:
        request = Request(mirror + file, headers={"User-Agent": "initguide"})
        try:
            with urlopen(request, timeout=ANSWER_SECONDS):
                answers[mirror] = "yes"
        except (OSError, http.client.HTTPException) as error:
            answers[mirror] = reason(error)

    # Daemons: a name look-up cannot be interrupted, and must not delay the exit.
    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    found = [mirror for mirror in mirrors if answers.get(mirror) == "yes"]
    if not found:
        silence = f"no answer in {ANSWER_SECONDS:g} s"
        words = (f"{urlsplit(m).hostname}: {answers.get(m, silence)}" for m in mirrors)
        raise ConnectionError("; ".join(words))
    return found


@contextlib.contextmanager
def stall_timeout() -> Iterator[None]:
    """Let sockets that are opened inside give up after `STALL_SECONDS` of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
