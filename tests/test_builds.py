"""A build after one that was killed, or failed, or ran under other conditions is right again."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

from sites import CELL, DOCS, TREE, Site

ROOT = DOCS.parent
# Count each execution, and die where the test asks for it.
COUNTED = """import os

with open({log!r}, "a") as log:
    log.write({name!r} + " ")
if os.environ.get("DIE") == {name!r}:
    os._exit(9)
findings = {{"S9.1": {value}}}"""
KILLED_WRITING = """
import os
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_theme_options = {"logo": {"image_light": "_static/mark.svg", "image_dark": "_static/mark.svg"}}

def setup(app):
    if os.environ.get("DIE") == "writing":
        app.connect("html-page-context", lambda *page: os._exit(9))
"""
CLAIMS = """S9:
  claims:
    S9.1: {{page: one, at: One, verdict: {verdict}, above: 0, claim: So., measure: it}}
"""
FAKE_DATA = """
import os
import page_sources
from types import SimpleNamespace

kind = os.environ.get("KIND", "sample")
found = SimpleNamespace(name="mnist", is_sample=kind == "sample", details=[], fingerprint=kind)
page_sources.provenance = lambda name: found
extensions += ["tutorials"]
html_baseurl, tutorials = "", ["one.py"]
"""
PROJECT = """
[project]
name = "some"
version = "1"
[tool.hatch.build.targets.wheel]
bypass-selection = true
"""


@pytest.fixture
def site(tmp_path):
    """A site with two scripts and a page of evidence, built."""
    site = Site(tmp_path / "a site", KILLED_WRITING)  # its path has a space
    site.log = tmp_path / "log"
    site.write("_static/mark.svg", (DOCS / "_static" / "mark.svg").read_text())
    site.write("index.md", f"{CELL.format(title='Home', code='6 * 7')}{TREE}")
    site.write("evidence.md", "---\norphan: true\n---\n# Evidence\n\n```{evidence} S9\n```\n")
    site.write("claims.yml", CLAIMS.format(verdict="holds"))
    for name in ("one", "two"):
        site.script(name, COUNTED.format(name=name, value=7, log=str(site.log)))
    return site


def executed(site):
    """Return the scripts that were executed since this was asked last."""
    names = site.log.read_text().split() if site.log.is_file() else []
    site.log.unlink(missing_ok=True)
    return names


def pages(site):
    """Return the text of every page, without the versions of style sheets."""
    texts = {path: path.read_text(encoding="utf-8") for path in site.out.rglob("*.html")}
    return {path: re.sub(r"\.css\?v=\w+", ".css", text) for path, text in texts.items()}


def test_builds_that_are_killed_or_abort_leave_nothing_behind(site):
    # A syntax error stops the first build while it reads.
    site.write("claims.yml", "S9: {")
    status, complaints = site.build()
    assert status != 0 and "claims.yml" in complaints
    assert executed(site) == ["one", "two"]
    site.write("claims.yml", CLAIMS.format(verdict="holds"))
    status, complaints = site.build()
    assert status == 0, complaints
    assert executed(site) == []
    assert "verdict-holds" in site.page("evidence") and "42" in site.page("index")

    # One is killed while it writes pages that have been read anew.
    site.write("claims.yml", CLAIMS.format(verdict="undecided"))
    assert site.build(DIE="writing")[0] == 9
    assert "verdict-holds" in site.page("evidence")
    assert site.build()[0] == 0
    assert "verdict-undecided" in site.page("evidence")
    assert executed(site) == []

    # One is killed while it executes the second script: the first is not executed again.
    for name in ("one", "two"):
        site.script(name, COUNTED.format(name=name, value=8, log=str(site.log)))
    assert site.build(DIE="two")[0] == 9
    assert executed(site) == ["one", "two"]
    assert site.build()[0] == 0
    assert executed(site) == ["two"]
    assert ": 8" in site.page("evidence")


def test_what_is_truncated_is_made_again(site):
    assert site.build()[0] == 0
    assert executed(site) == ["one", "two"]
    whole = pages(site)
    built = "_build/html/tutorials/one.html", "_build/html/.doctrees/environment.pickle"
    cache = "_build/jupyter_cache/*/global.db", "_build/jupyter_cache/*/executed/*/base.ipynb"
    kept = "tutorials/one.findings.json", "tutorials/two.rst"
    for files, script in zip(zip(built, cache, kept, strict=True), ("one", "two"), strict=True):
        for path in [path for name in files for path in site.root.glob(name)]:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
        status, complaints = site.build()
        assert status == 0, complaints
        assert executed(site) == [script]
        assert pages(site) == whole


def test_findings_that_change_their_name_fail_every_build(site):
    assert site.build()[0] == 0
    renamed = COUNTED.format(name="one", value=7, log=str(site.log)).replace("S9.1", "S9.2")
    site.script("one", renamed)
    for _ in range(2):
        status, complaints = site.build()
        assert status != 0 and "claim S9.1 has no finding" in complaints
        assert "not measured" in site.page("evidence")
    assert executed(site) == ["one", "two", "one"]


def test_a_build_that_executes_nothing_forgets_nothing_but_what_is_gone(site):
    assert site.build()[0] == 0
    site.script("one", COUNTED.format(name="one", value=8, log=str(site.log)))
    assert site.build("-D", "plot_gallery=0")[0] == 0
    assert ": 7" in site.page("evidence")
    executed(site)
    (site.root / "gallery/two.py").unlink()
    assert site.build()[0] == 0
    assert executed(site) == ["one"]
    assert ": 8" in site.page("evidence")
    assert not (site.out / "tutorials/two.html").exists()


def test_two_builds_at_once_take_turns(site):
    builds = [site.start(), site.start()]
    complaints = [build.communicate()[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], complaints
    assert executed(site) == ["one", "two"]


def test_a_cell_that_raises_shows_its_error(tmp_path):
    site = Site(tmp_path)
    site.write("index.md", CELL.format(title="Home", code="1 / 0") + TREE)
    site.script("one", "x = 1")
    for _ in range(2):
        status, complaints = site.build()
        assert status != 0
        assert "ZeroDivisionError: division by zero" in re.sub(r"\x1b\[\d*m", "", complaints)


def test_a_page_says_which_data_it_was_built_on(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    site = Site(tmp_path / "docs", FAKE_DATA)
    site.write("index.md", CELL.format(title="Home", code='"mnist"') + TREE)
    site.script("one", 'name = "mnist"')
    for kind in ("sample", "complete"):
        status, complaints = site.build(KIND=kind)
        assert status == 0, complaints
        for page in ("index", "tutorials/one"):
            assert ("Built on the bundled sample" in site.page(page)) == (kind == "sample")


IMPORTS = """import os

import numpy as np
import pandas as pd
import torch

from initguide import claim
"""
SETS = """
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
torch.set_printoptions(precision=1)
torch.manual_seed(3)
np.set_printoptions(precision=1)
np.seterr(all="raise")
pd.set_option("display.precision", 1)
os.environ["LEFT"] = "here"
"""
FINDS = """
claim("dtype", torch.zeros(1).dtype == torch.float32)
claim("device", torch.zeros(1).device.type == "cpu")
claim("gradients", torch.is_grad_enabled())
claim("torch prints", repr(torch.tensor(0.123)) == "tensor(0.1230)")
claim("numpy prints", str(np.array([0.123])) == "[0.123]")
claim("numpy errors", np.geterr()["divide"] == "warn")
claim("pandas prints", pd.get_option("display.precision") == 6)
claim("seed", torch.initial_seed() != 3)
claim("environment", "LEFT" not in os.environ)
claim("data", os.path.isabs(os.environ["INITGUIDE_DATA"]))
"""


@pytest.mark.faults
def test_a_script_does_not_find_what_another_has_set(tmp_path):
    site = Site(tmp_path)
    site.script("a", IMPORTS + SETS)
    site.script("b", IMPORTS + FINDS)
    status, complaints = site.build(INITGUIDE_DATA="data")
    assert status == 0, complaints


@pytest.fixture
def changed(tmp_path):
    """Tell of which code the digest changes with a file, in a copy of all that executes pages."""
    shutil.copytree(ROOT / "initguide", tmp_path / "initguide")
    shutil.copytree(DOCS / "_ext", tmp_path / "_ext")
    pages = ["from initguide import gain", "from initguide import train", "import initguide"]
    ask = f"import page_sources; print(*map(page_sources.digest, {pages}))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "_ext")}

    def digests():
        command = [sys.executable, "-c", ask]
        told = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
        return told.split()

    def changed(name, text):
        before, path = digests(), tmp_path / name
        path.write_text(path.read_text() + text)
        return [old != new for old, new in zip(before, digests(), strict=True)]

    return changed


@pytest.mark.faults
def test_a_page_is_executed_again_after_what_it_reaches_and_no_more(changed):
    comment = "\n# A comment.\n"
    assert changed("initguide/gains.py", comment)[0]
    assert changed("initguide/training.py", comment) == [False, True, True]
    assert changed("initguide/lsuv.py", comment) == [False, False, True]
    for name in ("figures.py", "scrapers.py"):
        assert changed(f"_ext/{name}", comment) == [True, True, True]
    assert changed("_ext/evidence.py", comment) == [False, False, False]
    # Importing it sets something: a page can depend on that without a name of it.
    assert changed("initguide/lsuv.py", "torch.set_num_threads(1)\n") == [True, True, True]
    assert changed("initguide/lsuv.py", comment) == [True, True, True]


@pytest.mark.faults
def test_what_was_left_in_the_folder_is_not_shipped(tmp_path):
    shutil.copytree(ROOT / "initguide", tmp_path / "initguide")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    left = ("initguide/secret.env", "initguide/.env", "initguide/datasets/id_rsa")
    for name in left:
        (tmp_path / name).write_text("secret")
    build = "from hatchling.build import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True
    )
    names = set(zipfile.ZipFile(tmp_path / done.stdout.strip()).namelist())
    assert not names & set(left)
    source = [path for path in (ROOT / "initguide").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in source if "__pycache__" not in path.parts}
    assert wanted <= names
