"""Each tutorial runs alone, from an empty folder, and fails where its claim is broken."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parents[1].joinpath("docs/gallery").glob("*.py"))
RUN = "import runpy, sys; runpy.run_path(sys.argv[1])"
# He's weights with twice the variance that they should have.
DOUBLED = """
import dataclasses, functools
from initguide import schemes
from initguide.initializers import variance_scaling_
doubled = functools.partial(variance_scaling_, scale=4.0)
schemes.SCHEMES["he_normal"] = dataclasses.replace(schemes.SCHEMES["he_normal"], weight=doubled)
"""


def run(script: Path, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    copy = folder / script.name
    copy.write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    alone = {"MPLBACKEND": "agg", "INITGUIDE_OFFLINE": "1", "INITGUIDE_CACHE": str(folder)}
    environment = {k: v for k, v in os.environ.items() if k != "INITGUIDE_DATA"} | alone
    return subprocess.run(
        [sys.executable, "-c", before + RUN, copy.name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_tutorials():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_needs_the_package_only(script):
    requirements = importlib.metadata.requires("initguide")
    installed = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    imported = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names <= installed | {"initguide"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_copied_script_runs_alone_on_the_sample(script, tmp_path):
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_broken_scheme_fails_the_page_that_derives_it(tmp_path):
    (script,) = [path for path in SCRIPTS if path.stem == "derive_lecun_xavier_and_he"]
    done = run(script, tmp_path, before=DOUBLED)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr and script.name in done.stderr
