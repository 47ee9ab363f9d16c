import re
from dataclasses import replace
from pathlib import Path

import pytest
from served import write_raw

from initguide import datasets
from initguide.datasets import Provenance


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


def test_repr_names_licence_and_homepage():
    data = datasets.mnist(download=False)
    assert "CC BY-SA 3.0" in repr(data.provenance)
    assert 'href="https://' in data._repr_html_()


def test_html_is_escaped():
    own = Provenance("<b>", "generated", licence="A & B", details=("x < y",))
    assert own._repr_html_() == (
        "<p><strong>&lt;b&gt;</strong>: generated: x &lt; y. Licence: A &amp; B.</p>"
    )


BASE = Provenance("a", "cache", sha256={"f": "0", "g": "1"})


def test_fingerprint_is_a_digest():
    assert re.fullmatch(r"[0-9a-f]{64}", BASE.fingerprint)


@pytest.mark.parametrize(
    "change",
    [{"source": "download"}, {"path": Path("elsewhere")}, {"sha256": {"g": "1", "f": "0"}}],
)
def test_fingerprint_is_the_same_for_the_same_data(change):
    assert replace(BASE, **change).fingerprint == BASE.fingerprint


def test_fingerprint_differs_for_other_data():
    others = (replace(BASE, name="b"), replace(BASE, sha256={"f": "2"}), BASE.derive("half of it"))
    assert len({each.fingerprint for each in (BASE, *others)}) == 4


def test_hash_does_not_depend_on_the_folder():
    assert hash(BASE) == hash(replace(BASE, path=Path("elsewhere")))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "name is 3; expected a str"),
        ({"licence": None}, "licence is None; expected a str"),
        ({"sha256": ["0"]}, "sha256 is .*; expected a Mapping"),
        ({"details": "seed 0"}, "details is 'seed 0'; expected a tuple of str"),
        ({"details": None}, "details is None; expected a tuple of str"),
        ({"details": (1,)}, "details holds 1; expected str only"),
    ],
)
def test_parts_have_their_types(change, words):
    with pytest.raises(TypeError, match=words):
        replace(BASE, **change)


@pytest.mark.faults
def test_a_step_is_a_string():
    with pytest.raises(TypeError, match="details holds 5"):
        BASE.derive(5)


@pytest.mark.faults
def test_other_sources_are_refused():
    with pytest.raises(
        ValueError, match=r"source is 'internet'; expected one of root, .*generated"
    ):
        Provenance("a", "internet")


def test_a_list_of_details_becomes_a_tuple():
    assert hash(replace(BASE, details=["half"])) == hash(replace(BASE, details=("half",)))
