import os
from pathlib import Path

import pytest
from served import Mirror, holds, write_raw

from initguide import datasets
from initguide.datasets import DatasetError, SampleWarning
from initguide.datasets import _sources as sources
from initguide.datasets._idx import FILES, LARGEST

faults = pytest.mark.faults
LOADERS = {"mnist": datasets.mnist, "fashion_mnist": datasets.fashion_mnist}

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


def test_reading_the_cache_writes_no_lock(files, cache):
    write_raw(cache, files)
    datasets.mnist()
    assert not list(cache.glob("*.lock"))


@pytest.mark.parametrize("name", LOADERS)
def test_sample_comes_last(name):
    assert LOADERS[name](download=False).is_sample


@pytest.mark.parametrize("name", LOADERS)
def test_sample_that_was_asked_for_is_silent_and_needs_no_cache(name, cache, monkeypatch):
    LOADERS[name](download=False)
    monkeypatch.setenv("INITGUIDE_OFFLINE", "1")
    assert LOADERS[name]().is_sample
    assert not cache.exists()


def test_user_cache_is_the_default(monkeypatch, tmp_path, files):
    monkeypatch.delenv("INITGUIDE_CACHE")
    monkeypatch.setattr(sources.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    write_raw(tmp_path / "initguide", files)
    assert datasets.find("mnist").source == "cache"


def test_find_and_loader_name_the_same_provenance(files, cache):
    write_raw(cache, files)
    assert datasets.find("mnist") == datasets.mnist().provenance
    sample = datasets.find("fashion_mnist", download=False)
    assert sample == datasets.fashion_mnist(download=False).provenance


def test_fingerprints_of_two_sets_differ():
    prints = {datasets.find(name, download=False).fingerprint for name in LOADERS}
    assert len(prints) == 2


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


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def link_to(target):
    def link(path):
        path.unlink()
        path.symlink_to(target)

    return link


def enlarge(path):
    os.truncate(path, 2**40)  # sparse: it takes no space


HARMS = {
    "missing": (Path.unlink, r"{0} is missing"),
    "truncated": (
        truncate,
        r"{0} has 1,000 bytes where its header announces 23,536 and SHA-256 ",
    ),
    "corrupt": (
        flip,
        r"{0} has 23,536 bytes where .* SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}",
    ),
    "html": (lambda path: path.write_bytes(b"<html>"), r"{0} has 6 bytes and SHA-256"),
    "empty": (lambda path: path.write_bytes(b""), r"{0} has 0 bytes and SHA-256"),
    "folder": (replace_by_folder, r"{0} cannot be read \(Is a directory\)"),
}
UNREADABLE = {
    "pipe": (replace_by_pipe, r"{0} cannot be read \(not a regular file\)"),
    "zeros": (link_to("/dev/zero"), r"{0} cannot be read \(not a regular file\)"),
    "terminal": (link_to("/dev/tty"), r"{0} cannot be read \("),
    "dead_link": (link_to("/nowhere"), r"{0} is missing"),
    "link_to_itself": (link_to(FILES[0]), r"{0} cannot be read \(Too many levels"),
    "huge": (enlarge, rf"{{0}} cannot be read \(1,099,511,627,776 bytes, more than {LARGEST:,}\)"),
}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        *(pytest.param(*HARMS[name], id=name) for name in HARMS),
        *(pytest.param(*UNREADABLE[name], id=name, marks=faults) for name in UNREADABLE),
    ],
)
@pytest.mark.parametrize("place", ["root", "environment"])
def test_damage_in_a_named_place_is_an_error(place, harm, words, files, tmp_path, monkeypatch):
    raw = write_raw(tmp_path, files)
    harm(raw / FILES[0])
    root = tmp_path if place == "root" else None
    if place == "environment":
        monkeypatch.setenv("INITGUIDE_DATA", str(tmp_path))
    label = "root" if place == "root" else r"\$INITGUIDE_DATA"
    told = f"MNIST in {label} .*{words.format(FILES[0])}"
    with pytest.raises(DatasetError, match=told) as caught:
        datasets.mnist(root=root)
    assert str(raw) in str(caught.value)
    assert "Put them there" in str(caught.value)
    with pytest.raises(DatasetError, match=told):
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


@faults
@pytest.mark.parametrize("place", ["root", "INITGUIDE_DATA", "INITGUIDE_CACHE"])
def test_relative_folder_stays_the_same_one(place, files, tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "here", files)
    monkeypatch.chdir(tmp_path)
    if place != "root":
        monkeypatch.setenv(place, "here")
    origin = datasets.find("mnist", root="here" if place == "root" else None)
    assert origin.path == raw
    assert not origin.is_sample


# -------------------------------------------------------------------------- what is passed


@faults
@pytest.mark.parametrize("name", ["cifar", "MNIST", "", None, 3, ["mnist"]])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"name is .*; expected one of .*'mnist'"):
        datasets.find(name)


@faults
@pytest.mark.parametrize("root", [5, 2.5, b"data", ["data"]])
def test_root_is_a_path(root):
    with pytest.raises(TypeError, match=r"root is .*; expected a path"):
        datasets.mnist(root=root)


@faults
@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("~no-such-user/data", "root is '~no-such-user/data': .*home directory.*in full"),
        ("a\0b", "cannot be read .*null byte"),
        ("x" * 1000, r"cannot be read \(File name too long\)"),
    ],
)
def test_root_that_no_system_has(root, words):
    with pytest.raises(DatasetError, match=words):
        datasets.mnist(root=root)


@faults
@pytest.mark.parametrize("download", ["no", "false", None, 2, []])
def test_download_is_yes_or_no(download):
    with pytest.raises(ValueError, match=r"download is .*; expected True or False"):
        datasets.mnist(download=download)


@faults
@pytest.mark.parametrize("setting", ["", "0", "false", "False", "no", "OFF", " 0 "])
def test_offline_can_be_denied(setting, no_network, monkeypatch):
    monkeypatch.setenv("INITGUIDE_OFFLINE", setting)
    with pytest.warns(SampleWarning, match="refused"):
        datasets.find("mnist")


@faults
@pytest.mark.parametrize("setting", ["1", "true", "TRUE", "yes", "on"])
def test_offline_forbids_the_network(setting, files, serve, monkeypatch):
    mirror = serve(Mirror(files))
    monkeypatch.setenv("INITGUIDE_OFFLINE", setting)
    assert datasets.find("mnist").is_sample
    assert mirror.requests == []


@faults
@pytest.mark.parametrize("setting", ["2", "maybe", "-1", "falsch"])
def test_offline_that_is_neither_is_an_error(setting, monkeypatch):
    monkeypatch.setenv("INITGUIDE_OFFLINE", setting)
    with pytest.raises(ValueError, match=rf"INITGUIDE_OFFLINE is '{setting}'; expected .*true"):
        datasets.find("mnist")


# ------------------------------------------------------------------------ the cache's place


@faults
def test_user_without_a_home_gets_the_sample(monkeypatch):
    monkeypatch.delenv("INITGUIDE_CACHE")
    nowhere = Path("~no-such-user/.cache")
    monkeypatch.setattr(sources.platformdirs, "user_cache_path", lambda name: nowhere / name)
    with pytest.warns(SampleWarning, match=r"no folder for the cache .*home.*INITGUIDE_CACHE"):
        assert datasets.mnist().is_sample


@faults
def test_warning_names_the_default_cache_below_home(monkeypatch, tmp_path, no_network):
    monkeypatch.delenv("INITGUIDE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sources.platformdirs, "user_cache_path", lambda name: tmp_path / "c" / name)
    with pytest.warns(SampleWarning, match="The cache is ~/c/initguide;") as caught:
        datasets.find("mnist")
    assert str(tmp_path) not in str(caught[0].message)


def test_all_is_sorted_and_complete():
    assert datasets.__all__ == sorted(datasets.__all__)
    assert sources.__all__ == sorted(sources.__all__)
    assert all(hasattr(datasets, name) for name in datasets.__all__)
