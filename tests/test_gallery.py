"""Each tutorial needs the package only, states claims, and notices where they are broken.

That its claims hold is what nox -s replicate tells.
"""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*.py"))
RUN = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from run_page import run
print(json.dumps(run(pathlib.Path(sys.argv[2]), 0)))
"""
# He's weights with twice the variance that they should have.
DOUBLED = """
import dataclasses, functools
from initguide import schemes
from initguide.initializers import variance_scaling_
doubled = functools.partial(variance_scaling_, scale=4.0)
schemes.SCHEMES["he_normal"] = dataclasses.replace(schemes.SCHEMES["he_normal"], weight=doubled)
"""


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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_states_claims_and_asserts_nothing(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
    assert "claim" in names
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert "assert_close" not in names


@pytest.mark.slow
def test_a_broken_scheme_fails_claims_of_the_page_that_measures_it(tmp_path):
    pytest.importorskip("sphinx", reason="the site's own tools are not installed")
    script = GALLERY / "keep_the_variance_level.py"
    alone = {"MPLBACKEND": "agg", "INITGUIDE_OFFLINE": "1", "INITGUIDE_CACHE": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if k != "INITGUIDE_DATA"} | alone
    for before in ("", DOUBLED):
        command = [sys.executable, "-c", before + RUN, GALLERY.parent / "replication", script]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        failed = [row for row in json.loads(done.stdout.splitlines()[-1]) if not row["held"]]
        assert bool(failed) == bool(before), failed
