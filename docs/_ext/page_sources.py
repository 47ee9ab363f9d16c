"""A page's results depend on its own code, the package code it reaches, its data and versions.

Read statically: nothing here runs a page. `digest` puts the four in one hash.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "initguide"
DATASETS = ("mnist", "fashion_mnist")
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "sympy", "torch")
EXECUTING = ("figures.py", "scrapers.py")  # those of our files that act while a page runs

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
    words = _words(ast.parse(code))
    return tuple(name for name in DATASETS if name in words)


@cache
def digest(code: str) -> str:
    """Return one hash of everything that the code's results depend on."""
    parts = [code, platform.python_version(), *(f"{name} {version(name)}" for name in LIBRARIES)]
    parts += [f"{name} {provenance(name).fingerprint}" for name in datasets_used(code)]
    shown_by = [Path(__file__).with_name(name) for name in EXECUTING]
    return hash_of([*package_closure(code), *_root().glob("*.mplstyle"), *shown_by], *parts)


@cache
def provenance(name: str) -> Any:
    """Return where this build's copy of a data set comes from."""
    from initguide import datasets  # imports torch: only where a page has data

    source = datasets.find(name)
    if source.is_sample:  # the pages need not try the network again, each for itself
        os.environ["INITGUIDE_OFFLINE"] = "1"
    return source


def hash_of(paths: Iterable[Path], *parts: str) -> str:
    """Return a hash of files, except seals, and of other parts."""
    whole = hashlib.sha256("\n".join(parts).encode())
    for path in sorted(paths):
        if path.is_file() and "seal" not in path.name:
            whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


class Module(NamedTuple):
    """What counts of a file of the package: what it imports, and whether importing it acts."""

    imports: dict[str, Path]
    acts: bool


def package_closure(code: str) -> list[Path]:
    """Return the package's files that the code reaches, by a name or through another file.

    A file that sets something when it is imported is reached by all code.
    """
    modules = _modules()
    named = {path.parent.name if path.stem == "__init__" else path.stem: path for path in modules}
    if not re.search(rf"^\s*import {PACKAGE}( |$)", code, re.MULTILINE):  # it reaches all
        named |= modules[named.pop(PACKAGE)].imports
    todo = {named[word] for word in _words(ast.parse(code)) & set(named)}
    todo |= {path for path, module in modules.items() if module.acts}
    found: set[Path] = set()
    while todo:
        found.add(path := todo.pop())
        todo |= set(modules[path].imports.values()) - found
    return sorted(found)


@cache
def _root() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"install {PACKAGE} before building its site")
    return Path(spec.origin).parent


@cache
def _modules() -> dict[Path, Module]:
    found = {}
    for path in sorted(_root().rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = {name: file for node in ast.walk(tree) for name, file in _imports(node, path)}
        found[path] = Module(imports, any(map(_acts, tree.body)))
    return found


def _imports(node: ast.AST, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names that a statement in a file imports from the package, and their files."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return
    base = ()
    if isinstance(node, ast.ImportFrom):
        package = path.relative_to(_root().parent).parts[: -node.level] if node.level else ()
        base = (*package, *(node.module or "").split("."))
    for alias in node.names:
        names = [name for name in (*base, *alias.name.split(".")) if name]
        if names[0] == PACKAGE:
            yield alias.asname or alias.name, _file(_root().parent.joinpath(*names))


def _file(name: Path) -> Path:
    """Return the file of a module, or of the module that something is in."""
    at = (name.with_suffix(".py"), name / "__init__.py", name.parent.with_suffix(".py"))
    return next((path for path in at if path.is_file()), name.parent / "__init__.py")


def _acts(statement: ast.stmt) -> bool:
    """Return whether a statement of a module does more than define, import and name things."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return False
    return any(
        (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load))
        for node in ast.walk(statement)
    )


def _words(tree: ast.AST) -> set[str]:
    """Return every name in the code, and every string that could be one."""
    fields = ("attr", "id", "module", "name", "value")
    words = {getattr(node, field, None) for node in ast.walk(tree) for field in fields}
    return {part for word in words if isinstance(word, str) for part in word.split(".")}
