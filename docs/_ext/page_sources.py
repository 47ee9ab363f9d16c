"""A page's results depend on its own code, the package code it reaches, its data and versions.

Read statically: nothing here runs a page. `digest` puts the four in one hash.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "initguide"
DATASETS = ("mnist", "fashion_mnist")
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "sympy", "torch")

_CODE_CELL = re.compile(r"^(`{3,}|~{3,})\{code-cell\}[^\n]*\n(.*?)^\1", re.DOTALL | re.MULTILINE)
_NOT_PYTHON = re.compile(r"^(---\n.*?^---$|:[\w-]+:.*?$|\s*[%!].*?$)", re.DOTALL | re.MULTILINE)


def code_of(page: Path) -> str:
    """Return the Python that a gallery script or a MyST page executes."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        return text
    return "\n".join(_NOT_PYTHON.sub("", cell) for _, cell in _CODE_CELL.findall(text))


def datasets_used(code: str) -> tuple[str, ...]:
    """Return the data sets that the code names, as an attribute, a function or a string."""
    words = set()
    for node in ast.walk(ast.parse(code)):
        for field in ("attr", "id", "name", "value"):
            word = getattr(node, field, None)
            words.add(word if isinstance(word, str) else "")
    return tuple(name for name in DATASETS if name in words)


def package_closure(code: str) -> list[Path]:
    """Return the package's files that the code reaches, directly or through others."""
    found: set[Path] = set()
    todo = set(_uses(ast.parse(code), PACKAGE))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        seen.add(name)
        for path in _files(name):
            if path not in found:
                found.add(path)
                todo |= set(_uses(_tree(path), _module(path))) - seen
    return sorted(found)


def digest(code: str) -> str:
    """Return one hash of everything that the code's results depend on."""
    root = _root()
    parts = [code, platform.python_version(), *(f"{name} {version(name)}" for name in LIBRARIES)]
    shown_by = [Path(__file__).with_name(name) for name in ("figures.py", "page_claims.py")]
    files = [*package_closure(code), *root.glob("*.mplstyle"), *shown_by]
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    parts += [f"{name} {provenance(name).fingerprint}" for name in datasets_used(code)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def provenance(name: str) -> Any:
    """Return where this build's copy of a data set comes from."""
    from initguide import datasets  # imports torch: only where a page has data

    source = datasets.find(name)
    if source.is_sample:  # the pages need not try the network again, each for itself
        os.environ["INITGUIDE_OFFLINE"] = "1"
    return source


@cache
def _root() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"install {PACKAGE} before building its site")
    return Path(spec.origin).parent


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module(path: Path) -> str:
    """Return the dotted name of a module's file; a package's ends in ``.__init__``."""
    return ".".join((PACKAGE, *path.relative_to(_root()).with_suffix("").parts))


def _uses(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the dotted names within the package that the code of a module mentions."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    if alias.name != PACKAGE:
                        yield alias.name
                    if not alias.asname or alias.name == PACKAGE:
                        aliases[alias.asname or PACKAGE] = PACKAGE
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            if base.split(".")[0] == PACKAGE:
                yield from (f"{base}.{alias.name}" for alias in node.names)
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    for node in attributes:
        if isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield f"{PACKAGE}.{node.attr}"
    followed = {id(node.value) for node in attributes}
    for node in ast.walk(tree):  # the package handed on as a value: all of it counts
        if isinstance(node, ast.Name) and node.id in aliases and id(node) not in followed:
            yield f"{PACKAGE}.*"


def _files(name: str) -> list[Path]:
    """Return the files that a dotted name stands for; every file where that is not known."""
    folder = _root()
    parts = name.split(".")[1:]
    for position, part in enumerate(parts):
        if folder.joinpath(f"{part}.py").is_file():
            return [folder / f"{part}.py"]
        if not folder.joinpath(part, "__init__.py").is_file():
            exports = _exports(folder / "__init__.py")
            return _files(exports[part]) if part in exports else sorted(_root().rglob("*.py"))
        folder /= part
        if position == len(parts) - 1:
            return sorted(folder.rglob("*.py"))
    return sorted(_root().rglob("*.py"))


@cache
def _exports(init: Path) -> dict[str, str]:
    """Return what a package's ``__init__`` imports: public name to dotted origin."""
    package = _module(init)
    exports = {}
    for node in _tree(init).body:
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            exports |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
    return exports
