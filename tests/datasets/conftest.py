"""What the tests of data share: nobody's data are seen, and nothing beyond loopback is reached."""

import hashlib
import signal
import socket
from dataclasses import replace

import pytest
from served import small_files, start

from initguide.datasets import _idx
from initguide.datasets import _sources as sources
from initguide.datasets._idx import FILES


@pytest.fixture(autouse=True)
def clean_state(monkeypatch, tmp_path):
    for name in ("INITGUIDE_DATA", "INITGUIDE_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    sources._warn_once.cache_clear()
    _idx._sha256.cache_clear()


@pytest.fixture(autouse=True)
def no_hanging(request):
    """Let a test of faults fail, not wait, where the fault makes the code wait for ever."""
    if not hasattr(signal, "SIGALRM") or not request.node.get_closest_marker("faults"):
        yield
        return

    def fail(*_):
        raise AssertionError("hangs: 20 s are over")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def files(monkeypatch):
    """Let four small files be what the complete MNIST is known to be."""
    files = small_files()
    digests = tuple(hashlib.sha256(files[name]).hexdigest() for name in FILES)
    known = replace(sources.IMAGE_SETS["mnist"], sha256=digests)
    monkeypatch.setitem(sources.IMAGE_SETS, "mnist", known)
    return files


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts mirrors and makes torchvision's MNIST name them alone."""
    from torchvision.datasets import MNIST

    servers = []

    def serve(*mirrors, md5=None):
        servers.extend(start(mirror) for mirror in mirrors)
        monkeypatch.setattr(MNIST, "mirrors", [mirror.url for mirror in mirrors])
        md5 = md5 or mirrors[-1].md5()
        monkeypatch.setattr(MNIST, "resources", [(f"{n}.gz", md5[f"{n}.gz"]) for n in FILES])
        return mirrors[0]

    yield serve
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def dead():
    """Return the address of a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@pytest.fixture
def no_network(monkeypatch, dead):
    """Point torchvision at a port where nothing listens."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [dead])
