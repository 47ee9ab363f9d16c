"""The package's shape: imports go one way, and ``import initguide`` stays light."""

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Found without being imported: the source tree, or the installed wheel under test.
PACKAGE = Path(importlib.util.find_spec("initguide").submodule_search_locations[0])

# A module imports from those above it only; "" is initguide/__init__.py.
ORDER = [
    "layers",
    "_unchanged",
    "_outputs",
    "activations",
    "_elementwise",
    "gains",
    "initializers",
    "orthogonal",
    "schemes",
    "parameters",
    "recurrent",
    "_flow",
    "initialization",
    "initialize",
    "_rescale",
    "lsuv",
    "datasets._idx",
    "datasets._downloads",
    "datasets._checks",
    "datasets.provenance",
    "datasets._sources",
    "datasets.dataset",
    "datasets.points",
    "datasets.images",
    "datasets",
    "models",
    "ensemble",
    "history",
    "_stacked",
    "_fit",
    "_checks",
    "_results",
    "_pool",
    "training",
    "statistics",
    "claims",
    "_recorder",
    "propagation",
    "theory._quadrature",
    "theory._fixed_points",
    "theory._draws",
    "theory._bands",
    "theory._finite_width",
    "theory.mean_field",
    "theory.derivations",
    "theory",
    "plotting",
    "",
]
HOMES = {"matplotlib": "plotting", "sympy": "theory.derivations", "torchvision": "datasets.images"}
LIGHT = {"matplotlib", "sympy", "torchvision", "sklearn", "IPython"}  # what that must not cost

FILES = {
    re.sub(r"\.?__init__$", "", ".".join(path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
every_module = pytest.mark.parametrize("module", TREES, ids=lambda name: name or "__init__")


def imports(module: str, nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Yield the full dotted names that a module's statements import."""
    package = f"initguide.{module}".rstrip(".")
    if FILES[module].name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def home(name: str) -> str:
    """Return the module of the package that an imported name comes from."""
    while name not in TREES:
        name = name.rpartition(".")[0]
    return name


@every_module
def test_imports_point_upwards(module):
    assert module in ORDER, "a new module needs a place in ORDER"
    for name in imports(module, ast.walk(TREES[module])):
        if name.split(".")[0] == "initguide":
            source = home(name.removeprefix("initguide").lstrip("."))
            assert ORDER.index(source) < ORDER.index(module), f"{module} imports {name}"


@every_module
def test_heavy_packages_have_one_home(module):
    for name in imports(module, ast.walk(TREES[module])):
        package = name.split(".")[0]
        assert HOMES.get(package, module) == module, f"{package} belongs in {HOMES[package]}"


def test_torchvision_waits_until_it_is_needed():
    top_level = imports("datasets.images", TREES["datasets.images"].body)
    assert not [name for name in top_level if name.startswith("torchvision")]


@every_module
def test_third_party_imports_are_declared(module):
    requirements = importlib.metadata.requires("initguide")
    declared = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    used = {name.split(".")[0] for name in imports(module, ast.walk(TREES[module]))}
    assert used - sys.stdlib_module_names - {"initguide"} <= declared


@every_module
def test_a_module_says_what_it_is_and_offers(module):
    tree = TREES[module]
    assert ast.get_docstring(tree), "the first line answers the module's question"
    if module.rpartition(".")[2].startswith("_"):
        return  # offers nothing
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if ast.unparse(node).startswith("__all__")
    )
    # ruff's order (RUF022): CONSTANTS, Classes, the rest.
    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert len(names) == len(set(names))


@every_module
def test_a_module_can_be_read_in_one_go(module):
    lines = FILES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= 400, "aim for 300: does it answer one question?"


def test_import_is_light():
    code = """if True:
        import json, sys, time
        start = time.perf_counter()
        import torch
        between, before = time.perf_counter(), set(sys.modules)
        import initguide
        end = time.perf_counter()
        added = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(json.dumps([between - start, end - between, sorted(added)]))
    """
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    torch_seconds, our_seconds, added = json.loads(result.stdout)
    print(f"torch {torch_seconds:.2f} s, initguide {our_seconds:.2f} s more")  # pytest -rP
    assert not LIGHT & set(added)


def test_the_package_carries_what_it_needs():
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "initguide.mplstyle").is_file()
    assert any((PACKAGE / "datasets" / "samples").glob("*/*.gz"))
