import socket
import sys
import time
import warnings

import pytest
from served import Mirror, holds, leftovers, small_files

from initguide import datasets
from initguide.datasets import SampleWarning, _downloads
from initguide.datasets._idx import FILES

faults = pytest.mark.faults
ARCHIVES = sorted(f"{name}.gz" for name in FILES)
ASKED_FIRST = f"{FILES[-1]}.gz"  # whether a mirror answers
IN_RAW = sorted(f"MNIST/raw/{name}" for name in FILES)


def test_download_fills_the_cache(files, cache, serve):
    serve(Mirror(files))
    data = datasets.mnist()
    assert data.provenance.source == "download"
    assert holds(data, files)
    assert leftovers(cache) == IN_RAW


def test_what_was_downloaded_is_not_asked_for_again(files, serve):
    mirror = serve(Mirror(files))
    datasets.mnist()
    asked = len(mirror.requests)
    data = datasets.mnist()
    assert data.provenance.source == "cache"
    assert holds(data, files)
    assert len(mirror.requests) == asked


def test_each_archive_is_downloaded_once(files, serve):
    mirror = serve(Mirror(files))
    datasets.mnist()
    assert sorted(mirror.requests) == sorted([*ARCHIVES, ASKED_FIRST])


def test_same_files_are_the_same_data_wherever_they_were_found(files, serve):
    serve(Mirror(files))
    first, second = datasets.find("mnist"), datasets.find("mnist")
    assert first.source != second.source
    assert first.fingerprint == second.fingerprint


def test_sockets_of_others_keep_their_timeout(files, serve):
    serve(Mirror(files))
    datasets.mnist()
    assert socket.getdefaulttimeout() is None


# ------------------------------------------------------------------- when there is no network


def test_no_network_gives_the_sample_and_a_warning(no_network):
    with pytest.warns(SampleWarning, match=r"127\.0\.0\.1.*refused.*Using the bundled") as caught:
        assert datasets.mnist().is_sample
    assert "set INITGUIDE_DATA" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_no_network_is_noticed_fast(no_network):
    start = time.monotonic()
    with pytest.warns(SampleWarning):
        datasets.mnist()
    assert time.monotonic() - start < 5


def test_warning_comes_once(no_network):
    with pytest.warns(SampleWarning):
        datasets.mnist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.mnist().is_sample


def test_network_that_swallows_everything_fails_fast(monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(_downloads, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"] * 2)
        start = time.monotonic()
        with pytest.warns(SampleWarning, match=r"no answer in 0\.2 s|timed out"):
            assert datasets.mnist().is_sample
        assert time.monotonic() - start < 3


@faults
@pytest.mark.parametrize(
    "address", ["nonsense", "ftp:/", "http://[", "http://no.such.host.invalid/"]
)
def test_address_that_is_none(address, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [address])
    with pytest.warns(SampleWarning, match="download failed"):
        assert datasets.mnist().is_sample


def test_torchvision_that_does_not_import_is_no_obstacle(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.warns(SampleWarning, match="torchvision"):
        assert datasets.mnist().is_sample


# ----------------------------------------------------------------------- mirrors that misbehave


SLOW = r"timed out"
HARMS = {
    "refuse": "HTTP Error 403",
    "break_down": "HTTP Error 500",
    "reset": "reset",
    "cut": "corrupted: 100 bytes",
    "stall": SLOW,
    "say_nothing": SLOW,
    "crawl": SLOW,
    "crawl_in_the_header": SLOW,
    "never_end": "sends more than 1,000,000 bytes",
    "show_a_login": "corrupted: 36 bytes, MD5 [0-9a-f]{32}, expected [0-9a-f]{32}",
    "redirect_in_a_circle": "infinite loop",
    "talk_nonsense": "220 smtp",
}
every_harm = pytest.mark.parametrize("harm", HARMS)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_downloads, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(_downloads, "LARGEST", 1_000_000)


@faults
@every_harm
def test_second_mirror_is_tried(harm, files, cache, serve, impatient):
    bad, good = Mirror(files, harm=harm), Mirror(files, host="localhost")
    serve(bad, good)
    data = datasets.mnist()
    assert data.provenance.source == "download"
    assert holds(data, files)
    assert leftovers(cache) == IN_RAW


@faults
@every_harm
def test_mirror_that_misbehaved_is_named_with_what_it_did(harm, files, cache, serve, impatient):
    serve(Mirror(files, harm=harm))
    with pytest.warns(SampleWarning, match=rf"failed \(127\.0\.0\.1: .*{HARMS[harm]}"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) == []


@faults
def test_every_mirror_is_named_that_was_tried(files, serve, impatient, monkeypatch, dead):
    from torchvision.datasets import MNIST

    serve(Mirror(files, harm="reset", host="localhost"), Mirror(files, harm="cut"))
    monkeypatch.setattr(MNIST, "mirrors", [*MNIST.mirrors, dead.replace("127.0.0.1", "127.0.0.2")])
    words = r"localhost: .*reset.*; 127\.0\.0\.1: .*corrupted.*; 127\.0\.0\.2: .*refused"
    with pytest.warns(SampleWarning, match=words):
        assert datasets.mnist().is_sample


@faults
def test_mirror_that_failed_is_asked_last_from_then_on(files, serve):
    bad, good = Mirror(files, harm="reset"), Mirror(files)
    serve(bad, good)
    datasets.mnist()
    assert bad.requests == [ASKED_FIRST, f"{FILES[0]}.gz"]


@faults
def test_two_mirrors_that_have_half_of_the_files_each(files, serve):
    first, second = Mirror(files, harm="refuse"), Mirror(files)
    second.files = {name: files[name] for name in FILES if "images" in name or name == FILES[3]}
    serve(first, second, md5=Mirror(files).md5())
    assert holds(datasets.mnist(), files)


@faults
def test_slow_mirror_that_keeps_going_is_waited_for(serve, monkeypatch):
    monkeypatch.setattr(_downloads, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(_downloads, "STALL_BYTES", 1)
    mirror = serve(
        Mirror({"images": b"0123456789" * 10}, harm="crawl"), md5=dict.fromkeys(ARCHIVES)
    )
    name, md5 = next(iter(mirror.md5().items()))
    start = time.monotonic()
    assert _downloads._fetch(mirror.url, name, md5) == mirror.files["images"]
    assert time.monotonic() - start > 0.2


def test_mirror_without_answer_is_passed_over(files, serve, dead, monkeypatch):
    from torchvision.datasets import MNIST

    mirror = serve(Mirror(files))
    monkeypatch.setattr(MNIST, "mirrors", [dead, mirror.url])
    assert datasets.mnist().provenance.source == "download"


def test_archive_with_wrong_md5_is_refused(files, cache, serve):
    serve(Mirror(files), md5=Mirror(small_files(seed=1)).md5())
    with pytest.warns(SampleWarning, match="corrupted"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) == []


def test_content_with_wrong_sha256_is_refused(files, cache, serve):
    serve(Mirror(small_files(seed=1)))  # archives as torchvision expects, other content
    with pytest.warns(SampleWarning, match=r"what arrived is not MNIST: .*expected [0-9a-f]{64}"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) == []


@faults
def test_archive_that_is_not_gzip_is_refused(files, serve, monkeypatch):
    monkeypatch.setattr(Mirror, "archives", lambda self: {f"{n}.gz": b"junk" for n in FILES})
    serve(Mirror(files))
    with pytest.warns(SampleWarning, match=r"127\.0\.0\.1: Not a gzipped file"):
        assert datasets.mnist().is_sample


@faults
def test_interrupt_leaves_nothing_behind(files, cache, serve, monkeypatch):
    serve(Mirror(files))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_downloads, "_fetch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        datasets.mnist()
    assert not (cache / "MNIST").exists()
