"""Every tutorial can be copied and run: the site serves the package's wheel and the notebooks.

A tutorial names the command that installs that wheel, so no index needs to hold the package.
Beside it the finished site gets the notebooks and the ``requirements.txt`` that Colab and
Binder look for in the branch it is published from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from hatchling.build import build_wheel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def add_install_line(app: Sphinx, doctree: nodes.document) -> None:
    """Put the command below the paragraph of a tutorial that says what you need."""
    if _tutorial(app, app.env.docname) is None:
        return
    for paragraph in doctree.findall(nodes.paragraph):
        if paragraph.astext().startswith("What you need:"):
            paragraph.parent.insert(paragraph.parent.index(paragraph) + 1, _install_line(app))
            return


class Install(SphinxDirective):
    """The same command on a page that is no tutorial."""

    def run(self) -> list[nodes.Node]:
        """Return it."""
        return [_install_line(self.env.app)]


def _install_line(app: Sphinx) -> nodes.literal_block:
    line = app.config.install_line
    return nodes.literal_block(line, line, language="text", classes=["install"])


def add_place(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Tell the templates which tutorial this is: its number and its name."""
    context["tutorial"] = _tutorial(app, page)
    context["tutorial_count"] = len(app.config.tutorials)


def _tutorial(app: Sphinx, page: str) -> tuple[int, str] | None:
    folder, _, name = page.rpartition("/")
    if folder != app.config.sphinx_gallery_conf["gallery_dirs"] or name == "index":
        return None
    return app.config.tutorials.index(f"{name}.py") + 1, name


def add_files(app: Sphinx, error: Exception | None) -> None:
    """Put wheel, notebooks and requirements into the finished site."""
    if error is not None or app.builder.format != "html":
        return
    site, before = Path(app.outdir).absolute(), Path.cwd()
    os.chdir(Path(app.srcdir).parent)  # hatchling builds the project it stands in
    try:
        wheel = build_wheel(str(site / "wheel"))
    finally:
        os.chdir(before)
    (site / "requirements.txt").write_text(f"./wheel/{wheel}\n", encoding="utf-8")
    (site / "notebooks").mkdir(exist_ok=True)
    for script in app.config.tutorials:
        notebook = Path(app.srcdir, "tutorials", script).with_suffix(".ipynb")
        shutil.copy(notebook, site / "notebooks")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the hooks."""
    app.add_directive("install", Install)
    app.add_config_value("install_line", "", "env", str)
    app.add_config_value("tutorials", [], "env", list)
    app.connect("doctree-read", add_install_line)
    app.connect("html-page-context", add_place)
    app.connect("build-finished", add_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
