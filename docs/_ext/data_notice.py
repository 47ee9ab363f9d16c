"""A page that was built on a data set's bundled sample says so below its title.

Whether a page uses a data set is read from its code (`page_sources.datasets_used`), where the
data came from is asked of `initguide.datasets.find`. When the answer changes, the page
is read again, cached or not.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from page_sources import code_of, datasets_used, provenance

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
HOW = (
    "Set INITGUIDE_DATA to the folder of the complete data, or build with a network, to compute "
    "this page on all 70,000 images."
)


def notice_for(app: Sphinx, docname: str) -> str:
    """Return what a page has to say about its data: nothing if they are complete."""
    page = Path(app.env.doc2path(docname))
    gallery = app.config.sphinx_gallery_conf["gallery_dirs"]
    if docname.startswith(f"{gallery}/"):
        page = Path(app.srcdir, f"{docname}.py")
    if page.suffix not in {".md", ".py"} or not page.is_file():
        return ""
    used = [provenance(name) for name in datasets_used(code_of(page))]
    samples = [f"{TITLES[s.name]} ({'; '.join(s.details)})" for s in used if s.is_sample]
    return f"{' and '.join(samples)}. {HOW}" if samples else ""


def add_notice(app: Sphinx, doctree: nodes.document) -> None:
    """Put the notice after the page's title."""
    docname = app.env.docname
    text = notice_for(app, docname)
    _shown(app.env)[docname] = text
    title = next(doctree.findall(nodes.title), None)
    if text and title is not None:
        heading = nodes.title("", "Built on the bundled sample")
        body = nodes.paragraph("", text)
        notice = nodes.admonition("", heading, body, classes=["note", "data-notice"])
        section = title.parent
        section.insert(section.index(title) + 1, notice)


def find_changed(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Return the pages whose notice is not the one that they show."""
    shown = _shown(env)
    known = env.found_docs - added - changed
    return [name for name in known if name in shown and shown[name] != notice_for(app, name)]


def _shown(env: BuildEnvironment) -> dict[str, str]:
    if not hasattr(env, "data_notices"):
        env.data_notices = {}
    return env.data_notices


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("doctree-read", add_notice)
    app.connect("env-get-outdated", find_changed)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
