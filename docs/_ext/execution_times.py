"""The directive ``execution-times`` lists how long each page took when it was last executed.

Times differ between two builds of the same site. They stand in this one table, so every
other page can be compared byte by byte.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


class execution_times(nodes.General, nodes.Element):
    """Where the table goes once every page has been read."""


class ExecutionTimes(SphinxDirective):
    """Mark the table's place."""

    def run(self) -> list[nodes.Node]:
        """Return the mark."""
        return [execution_times()]


def seconds_per_page(app: Sphinx) -> dict[str, float]:
    """Return the last execution time of every page that runs code."""
    env = app.env
    times = {}
    for docname in sorted(env.found_docs):
        cost = Path(app.srcdir, f"{docname}.cost.json")  # sphinx-gallery writes it
        if cost.is_file():
            times[docname] = json.loads(cost.read_text())["time"]
        elif data := env.nb_metadata.get(docname, {}).get("exec_data"):  # myst-nb keeps it
            times[docname] = data["runtime"] or 0.0
    return times


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the table in the marked place."""
    for mark in list(doctree.findall(execution_times)):
        times = seconds_per_page(app)
        rows = [_row(nodes.paragraph("", "Page"), nodes.paragraph("", "Seconds"))]
        for page, seconds in times.items():
            title = nodes.Text(app.env.titles[page].astext())
            link = make_refnode(app.builder, docname, page, None, title)
            rows.append(_row(nodes.paragraph("", "", link), _number(seconds)))
        total = nodes.paragraph("", "", nodes.strong("", "All pages"))
        rows.append(_row(total, _number(sum(times.values()))))
        group = nodes.tgroup("", nodes.colspec(colwidth=3), nodes.colspec(colwidth=1), cols=2)
        group += [nodes.thead("", rows[0]), nodes.tbody("", *rows[1:])]
        mark.replace_self(nodes.table("", group, classes=["execution-times"]))


def rewrite(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Return the pages with the table: written anew when any page has been."""
    return [name for name in env.found_docs if name in getattr(env, "timed_pages", ())]


def note(app: Sphinx, doctree: nodes.document) -> None:
    """Remember which pages hold the table."""
    if next(doctree.findall(execution_times), None) is not None:
        app.env.timed_pages = {*getattr(app.env, "timed_pages", ()), app.env.docname}


def _row(*cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def _number(seconds: float) -> nodes.paragraph:
    return nodes.paragraph("", f"{seconds:.1f}", classes=["number"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_node(execution_times)
    app.add_directive("execution-times", ExecutionTimes)
    app.connect("doctree-read", note)
    app.connect("env-updated", rewrite)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
