"""How do the files of an image set get into the cache? From any mirror that sends them, verified.

A mirror that refuses, resets, stalls, crawls or sends something else gives way to the next one,
and an error names each mirror with what it did.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import shutil
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import filelock

from initguide.datasets._idx import FILES, LARGEST, damage, reason

__all__ = ["Archives", "fill_cache"]

ANSWER_SECONDS = 5.0  # a server that is there answers in less
STALL_SECONDS = 20.0  # a download that brings less than STALL_BYTES in so long is dead
STALL_BYTES = 20_000
LOCK_SECONDS = 900.0  # 30 MB on a slow line, in another process
QUIET_SECONDS = 2.0  # who waits longer than this is told why


class Archives(NamedTuple):
    """Where the gzipped files of an image set can be had."""

    mirrors: Sequence[str]  # addresses to which a file's name is added
    md5: Mapping[str, str]  # of each archive, by its name


def fill_cache(
    archives: Callable[[str], Archives], kind: str, cache: Path, sha256: Sequence[str]
) -> bool:
    """Put verified files into ``cache/kind/raw``, all or none; False if they were there.

    ``archives(kind)`` says where they can be had. One process downloads at a time; the others
    wait and find the files.
    """
    final = cache / kind / "raw"
    partial = final / "partial"  # on the same file system as the files it is for
    with _alone(cache, kind):
        if damage(final, sha256) is None:
            return False
        try:
            with _writing(cache):  # first, lest a download be in vain
                _make_way(final, cache)
                shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
                partial.mkdir()
            for name, content in _contents(archives(kind), kind, sha256):
                with _writing(cache):
                    (partial / name).write_bytes(content)
            with _writing(cache):
                for name in FILES:
                    os.replace(partial / name, final / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # they hold something, or are not there
                final.rmdir()
                final.parent.rmdir()
    return True


@contextlib.contextmanager
def _alone(cache: Path, kind: str) -> Iterator[None]:
    """Hold the lock of an image set, after a wait if another process holds it."""
    with _writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(cache / f"{kind}.lock")
    quiet = min(QUIET_SECONDS, LOCK_SECONDS)
    try:
        with _writing(cache):
            try:
                lock.acquire(timeout=quiet)
            except filelock.Timeout:
                if quiet < LOCK_SECONDS:
                    warnings.warn(
                        f"{kind}: another process fills the cache; waiting for it, at most "
                        f"{LOCK_SECONDS:g} s. Not to wait, interrupt and set INITGUIDE_CACHE to "
                        "another folder.",
                        stacklevel=7,  # the caller of mnist(), beyond contextlib
                    )
                lock.acquire(timeout=LOCK_SECONDS - quiet)
    except filelock.Timeout:
        raise TimeoutError(f"another process held the cache for {LOCK_SECONDS:g} s") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Let an error say that it comes from the cache folder, and from which place in it."""
    try:
        yield
    except filelock.Timeout:  # an OSError too
        raise
    except OSError as error:
        place = Path(error.filename or cache)
        where = f" ({place.relative_to(cache)})" if cache in place.parents else ""
        raise OSError(f"the cache folder cannot be written: {reason(error)}{where}") from error


def _make_way(final: Path, cache: Path) -> None:
    """Make the folder for the files, and see that nothing stands where they will lie."""
    for folder in (final.parent, final):
        if os.path.lexists(folder) and not folder.is_dir():  # it may point to a disk that is away
            raise OSError(f"{folder.relative_to(cache)} is a file or a dead link; remove it")
    final.mkdir(parents=True, exist_ok=True)
    for path in (final / name for name in FILES):
        if path.is_dir() and not path.is_symlink():
            if any(path.iterdir()):
                raise OSError(f"{path.relative_to(cache)} is a folder of files; remove it")
            path.rmdir()


def _contents(archives: Archives, kind: str, sha256: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the verified content of each file, from the first mirror that has it."""
    answers = _answers(archives.mirrors, f"{FILES[-1]}.gz")
    mirrors = [mirror for mirror in archives.mirrors if answers[mirror] is None]
    for name, expected in zip(FILES, sha256, strict=True):
        for mirror in list(mirrors):
            try:
                content = _fetch(mirror, f"{name}.gz", archives.md5[f"{name}.gz"])
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    size = f"{len(content):,} bytes"
                    raise ValueError(
                        f"what arrived is not {kind}: {name} has {size} and SHA-256 {found}, "
                        f"expected {expected}"
                    )
            except (OSError, ValueError, EOFError, zlib.error, http.client.HTTPException) as error:
                answers[mirror] = reason(error)
                mirrors.remove(mirror)
                mirrors.append(mirror)  # asked last from now on
            else:
                yield name, content
                break
        else:
            told = (f"{_host(mirror)}: {told}" for mirror, told in answers.items())
            raise ConnectionError("; ".join(told))


def _answers(mirrors: Sequence[str], file: str) -> dict[str, str | None]:
    """Return what is wrong with each mirror, None where it has ``file`` within `ANSWER_SECONDS`.

    Without this a network that swallows packets would hold a build for minutes: a timeout
    holds for each address of each mirror in turn.
    """
    answers: dict[str, str | None] = {}

    def ask(mirror: str) -> None:
        try:
            with _open(mirror + file, ANSWER_SECONDS):
                answers[mirror] = None
        except (OSError, ValueError, http.client.HTTPException) as error:
            answers[mirror] = reason(error)

    # Daemons: a name look-up cannot be interrupted, and must not delay the exit.
    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silence = f"no answer in {ANSWER_SECONDS:g} s"
    return {mirror: answers.get(mirror, silence) for mirror in mirrors}


def _fetch(mirror: str, name: str, md5: str) -> bytes:
    """Return the decompressed content of an archive with that MD5."""
    packed = _receive(mirror + name)
    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if found != md5:  # checked before it is decompressed
        raise ValueError(f"{name} is corrupted: {len(packed):,} bytes, MD5 {found}, expected {md5}")
    return gzip.decompress(packed)


def _receive(address: str) -> bytes:
    """Return what a server sends, unless it pauses, crawls or never ends."""
    from tqdm.auto import tqdm

    content, failures = bytearray(), list[BaseException]()
    given_up = threading.Event()

    def receive() -> None:
        try:
            with _open(address, STALL_SECONDS) as response:
                bar.total = response.length
                while not given_up.is_set() and (chunk := response.read1(2**16)):
                    content.extend(chunk)
                    if len(content) > LARGEST:
                        raise OSError(f"sends more than {LARGEST:,} bytes")
        except Exception as error:
            failures.append(error)

    # In a thread, for a timeout of the socket starts anew with each byte.
    name = address.rpartition("/")[2]
    with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        try:
            before, deadline = 0, time.monotonic() + STALL_SECONDS
            while thread.is_alive():
                thread.join(min(0.1, STALL_SECONDS))
                bar.update(len(content) - bar.n)
                if time.monotonic() > deadline:
                    if len(content) - before < STALL_BYTES:
                        limit = f"{STALL_BYTES:,} bytes in {STALL_SECONDS:g} s"
                        raise TimeoutError(f"timed out, {name} came slower than {limit}")
                    before, deadline = len(content), time.monotonic() + STALL_SECONDS
        finally:
            given_up.set()
    if failures:
        raise failures[0]
    return bytes(content)


def _open(address: str, timeout: float) -> http.client.HTTPResponse:
    request = Request(address, headers={"User-Agent": "initguide"})
    try:
        response: http.client.HTTPResponse = urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise
    return response


def _host(mirror: str) -> str:
    try:
        return urlsplit(mirror).hostname or mirror
    except ValueError:
        return mirror
