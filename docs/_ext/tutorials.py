"""Every tutorial says what it was built on, and can be copied and run.

The site serves the package's wheel, so no index needs to hold the package, the notebooks, with
the ``requirements.txt`` that Colab and Binder look for in the branch it is published from, and a
list of its pages for search engines.
A page that was built on a data set's bundled sample says so below its title.
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

from page_sources import code_of, datasets_used, provenance

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
HOW = (
    "Set INITGUIDE_DATA to the folder of the complete data, or build with a network, to compute "
    "this page on all 70,000 images."
)


def add_notices(app: Sphinx, doctree: nodes.document) -> None:
    """Say after the title what the data were, and after what you need how to get it."""
    page = app.env.docname
    title = next(doctree.findall(nodes.title), None)
    if title is not None and (text := notice_for(app, page)):
        heading = nodes.title("", "Built on the bundled sample")
        body = nodes.paragraph("", text)
        notice = nodes.admonition("", heading, body, classes=["note", "data-notice"])
        title.parent.insert(title.parent.index(title) + 1, notice)
    if _tutorial(app, page) is not None:
        for paragraph in doctree.findall(nodes.paragraph):
            if paragraph.astext().startswith("What you need:"):
                place = paragraph.parent.index(paragraph) + 1
                paragraph.parent.insert(place, _install_line(app))
                return


def notice_for(app: Sphinx, page: str) -> str:
    """Return what a page has to say about its data: nothing if they are complete."""
    source = Path(app.env.doc2path(page))
    if _tutorial(app, page) is not None:
        source = source.with_suffix(".py")
    if source.suffix not in {".md", ".py"} or not source.is_file():
        return ""
    used = [provenance(name) for name in datasets_used(code_of(source))]
    samples = [f"{TITLES[s.name]} ({'; '.join(s.details)})" for s in used if s.is_sample]
    return f"{' and '.join(samples)}. {HOW}" if samples else ""


class Install(SphinxDirective):
    """The command that installs the wheel, on a page that is no tutorial."""

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
    """Put wheel, notebooks, requirements and sitemap into the finished site."""
    if error is not None or app.builder.format != "html":
        return
    site, before = Path(app.outdir).absolute(), Path.cwd()
    shutil.rmtree(site / "wheel", ignore_errors=True)
    os.chdir(Path(app.srcdir).parent)  # hatchling builds the project it stands in
    try:
        wheel = build_wheel(str(site / "wheel"))
    finally:
        os.chdir(before)
    (site / "requirements.txt").write_text(f"./wheel/{wheel}\n", encoding="utf-8")
    (site / "notebooks").mkdir(exist_ok=True)
    for notebook in Path(app.srcdir, "tutorials").glob("*.ipynb"):
        shutil.copy(notebook, site / "notebooks")
    pages = [
        f"<url><loc>{app.config.html_baseurl}{page}.html</loc></url>"
        for page in sorted(app.env.found_docs)
    ]
    sitemap = (
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{"".join(pages)}</urlset>'
    )
    (site / "sitemap.xml").write_text(sitemap, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the hooks."""
    app.add_directive("install", Install)
    app.add_config_value("install_line", "", "env", str)
    app.add_config_value("tutorials", [], "env", list)
    app.connect("doctree-read", add_notices)
    app.connect("html-page-context", add_place)
    app.connect("build-finished", add_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
