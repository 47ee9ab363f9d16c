import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from served import Mirror, holds, leftovers, write_raw

from initguide import datasets
from initguide.datasets import SampleWarning, _downloads
from initguide.datasets import _sources as sources
from initguide.datasets._idx import FILES

faults = pytest.mark.faults

# ------------------------------------------------------------------------ the cache's damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\xff\xff")


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip], ids=["half", "truncated", "flip"])
def test_damaged_cache_is_downloaded_again(harm, files, cache, serve):
    raw = write_raw(cache, files)
    harm(raw / FILES[2])
    serve(Mirror(files))
    data = datasets.mnist()
    assert data.provenance.source == "download"
    assert holds(data, files)
    assert datasets.find("mnist").source == "cache"


def test_damaged_cache_without_network_is_said(files, cache, no_network):
    truncate(write_raw(cache, files) / FILES[0])
    with pytest.warns(SampleWarning, match=rf"cache is damaged \({FILES[0]}.*download failed"):
        assert datasets.mnist().is_sample


def test_damaged_cache_is_said_offline(files, cache, monkeypatch):
    truncate(write_raw(cache, files) / FILES[0])
    monkeypatch.setenv("INITGUIDE_OFFLINE", "1")
    with pytest.warns(SampleWarning, match=r"cache is damaged .*Using the bundled"):
        assert datasets.mnist().is_sample


def test_remains_of_a_killed_download_are_removed(files, cache, serve):
    partial = cache / "MNIST" / "raw" / "partial"
    partial.mkdir(parents=True)
    (partial / FILES[0]).write_bytes(b"half")
    serve(Mirror(files))
    assert holds(datasets.mnist(), files)
    assert not partial.exists()


def empty_folder(cache):
    (cache / "MNIST" / "raw" / FILES[0]).mkdir(parents=True)


def dead_link(cache):
    write_raw(cache, {})
    (cache / "MNIST" / "raw" / FILES[0]).symlink_to(cache / "nowhere")


def link_to_a_folder(cache):
    write_raw(cache, {})
    (cache / "MNIST" / "raw" / FILES[0]).symlink_to(cache)


def pipe(cache):
    os.mkfifo(write_raw(cache, {}) / FILES[0])


def link_to_zeros(cache):
    (write_raw(cache, {}) / FILES[0]).symlink_to("/dev/zero")


def folder_elsewhere(cache):
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    cache.mkdir()
    (cache / "MNIST").symlink_to(elsewhere)


@faults
@pytest.mark.parametrize(
    "place", [empty_folder, dead_link, link_to_a_folder, pipe, link_to_zeros, folder_elsewhere]
)
def test_what_stands_in_a_files_place_is_replaced_once(place, files, cache, serve):
    place(cache)
    mirror = serve(Mirror(files))
    assert datasets.find("mnist").source == "download"
    asked = len(mirror.requests)
    assert datasets.find("mnist").source == "cache"
    assert len(mirror.requests) == asked


def full_folder(cache):
    folder = cache / "MNIST" / "raw" / FILES[0]
    folder.mkdir(parents=True)
    (folder / "precious").write_text("data")


def file_for_raw(cache):
    (cache / "MNIST").mkdir(parents=True)
    (cache / "MNIST" / "raw").write_text("data")


def dead_link_for_raw(cache):
    (cache / "MNIST").mkdir(parents=True)
    (cache / "MNIST" / "raw").symlink_to("/nowhere")


def file_for_the_set(cache):
    cache.mkdir()
    (cache / "MNIST").write_text("data")


def dead_link_for_the_set(cache):
    cache.mkdir()
    (cache / "MNIST").symlink_to("/nowhere")


def file_for_the_partial(cache):
    (write_raw(cache, {}) / "partial").write_text("data")


def folder_for_the_lock(cache):
    (cache / "MNIST.lock").mkdir(parents=True)


@faults
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (full_folder, rf"MNIST/raw/{FILES[0]} is a folder of files; remove it"),
        (file_for_raw, "MNIST/raw is a file or a dead link; remove it"),
        (dead_link_for_raw, "MNIST/raw is a file or a dead link; remove it"),
        (file_for_the_set, "MNIST is a file or a dead link; remove it"),
        (dead_link_for_the_set, "MNIST is a file or a dead link; remove it"),
        (file_for_the_partial, r"File exists \(MNIST/raw/partial\)"),
        (folder_for_the_lock, r"\(MNIST.lock\)"),
    ],
)
def test_what_could_be_precious_stays_and_nothing_is_downloaded(place, words, files, cache, serve):
    place(cache)
    before = leftovers(cache)
    mirror = serve(Mirror(files))
    with pytest.warns(SampleWarning, match=f"cache folder cannot be written: .*{words}") as caught:
        assert datasets.mnist().is_sample
    assert "The cache is $INITGUIDE_CACHE" in str(caught[0].message)
    assert mirror.requests == []
    assert leftovers(cache) == before


@faults
@pytest.mark.parametrize("place", ["file", "file/cache", "dead", "/proc/none", "/dev/null"])
def test_cache_that_cannot_be_written(place, serve, files, tmp_path, monkeypatch):
    mirror = serve(Mirror(files))
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "dead").symlink_to("/nowhere")
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path / place))
    with pytest.warns(SampleWarning, match="cache folder cannot be written") as caught:
        assert datasets.mnist().is_sample
    assert "INITGUIDE_CACHE" in str(caught[0].message)
    assert str(tmp_path) not in str(caught[0].message)  # it may stand on a public page
    assert mirror.requests == []


@faults
def test_full_disk_is_the_cache_folders_fault(files, serve, monkeypatch):
    serve(Mirror(files))

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    words = rf"cannot be written: No space left on device \(MNIST/raw/partial/{FILES[0]}\)"
    with pytest.warns(SampleWarning, match=words):
        assert datasets.mnist().is_sample


# ------------------------------------------------------------------------ several processes


def test_cache_held_by_another_process(files, cache, serve, monkeypatch):
    monkeypatch.setattr(_downloads, "LOCK_SECONDS", 0.1)
    serve(Mirror(files))
    cache.mkdir()
    with (
        _downloads.filelock.FileLock(cache / "MNIST.lock"),
        pytest.warns(SampleWarning, match="another process held the cache") as caught,
    ):
        assert datasets.mnist().is_sample
    assert str(cache) not in str(caught[0].message)


@pytest.fixture
def holder(cache, monkeypatch):
    """Hold the lock in another thread, for half a second."""
    monkeypatch.setattr(_downloads, "QUIET_SECONDS", 0.05)
    cache.mkdir()
    held = threading.Event()

    def hold():
        with _downloads.filelock.FileLock(cache / "MNIST.lock"):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield
    thread.join()


@faults
def test_who_waits_for_another_process_is_told(files, serve, holder):
    serve(Mirror(files))
    words = r"MNIST: another process fills the cache; waiting .* 900 s.*INITGUIDE_CACHE"
    with pytest.warns(UserWarning, match=words) as caught:
        assert datasets.find("mnist").source == "download"
    assert caught[0].filename == __file__


CHILD = """
import json, sys
from dataclasses import replace
from initguide import datasets
from initguide.datasets import _downloads, images
from initguide.datasets import _sources as sources

url, sha256, md5 = json.loads(sys.argv[1])
known = sources.IMAGE_SETS["mnist"]
sources.IMAGE_SETS["mnist"] = replace(known, sha256=tuple(sha256))
# In place of torchvision, which takes seconds to import.
images._archives = lambda kind: _downloads.Archives([url], md5)
print("ready", flush=True)
sys.stdin.readline()
data = datasets.mnist()
print(data.provenance.source, data.train_inputs.sum().item(), flush=True)
"""


def test_two_processes_at_once_download_once(files, serve):
    mirror = serve(Mirror(files, delay=0.1))
    given = json.dumps([mirror.url, sources.IMAGE_SETS["mnist"].sha256, mirror.md5()])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, given], text=True, **pipes) for _ in range(2)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    ends = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    told = sorted(output.split() for output, _ in ends)
    assert [source for source, _ in told] == ["cache", "download"]
    assert told[0][1] == told[1][1]
    assert sorted(mirror.requests) == sorted(f"{name}.gz" for name in (*FILES, FILES[-1]))
    assert holds(datasets.mnist(), files)
