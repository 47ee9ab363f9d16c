"""Every public name of the package is in the reference, or the build warns of it.

Public is what a module's ``__all__`` lists. A name counts as documented under any of the
paths that lead to it: ``initguide.train`` or ``initguide.training.train``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)


@cache
def public_names(package: str) -> dict[tuple[str, str], set[str]]:
    """Return the public objects of a package: where each is defined, and its public paths."""
    root = importlib.import_module(package)
    found = [info.name for info in pkgutil.walk_packages(root.__path__, f"{package}.")]
    modules = [package, *(name for name in found if "._" not in name and "__" not in name)]
    paths = defaultdict(set)
    for module in map(importlib.import_module, modules):
        for name in getattr(module, "__all__", ()):
            if f"{package}.{name}" in modules or name == "__version__":
                continue
            paths[name, _definition(modules, name, getattr(module, name))].add(
                f"{module.__name__}.{name}"
            )
    return paths


def _definition(modules: list[str], name: str, value: object) -> str:
    """Return the innermost module that has this very object under this name."""
    holders = [m for m in modules if getattr(importlib.import_module(m), name, None) is value]
    own = getattr(value, "__module__", None)
    return own if own in holders else holders[-1]


def forget_removed(app: Sphinx) -> None:
    """Remove the pages that autosummary made for names which the reference no longer lists."""
    listed = Path(app.srcdir, "reference/index.md").read_text(encoding="utf-8").split()
    for page in Path(app.srcdir, "reference/generated").glob("*.rst"):
        if page.stem not in listed:
            page.unlink()


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents."""
    documented = set(env.domains["py"].objects)
    for (name, module), paths in sorted(public_names(app.config.public_api_package).items()):
        if not documented & paths:
            logger.warning(
                "%s.%s is public and not in the reference: add it to reference/index.md",
                module,
                name,
                type="public_api",
                subtype="undocumented",
            )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the check."""
    app.add_config_value("public_api_package", "initguide", "env", types=frozenset({str}))
    app.connect("builder-inited", forget_removed, priority=400)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
