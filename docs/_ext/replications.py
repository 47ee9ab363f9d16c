"""In how many replications did a claim hold, and how far did its value spread?

``replication/table.csv`` tells; ``nox -s replicate`` writes it. `count` says it in a sentence,
`spread` draws it, and the directive ``replications`` lists every claim of every page.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1] / "replication"))
from replicate import DOCS, TABLE, code, key_of, pages, read, uses_data
from run_page import FINISHED
from verdicts import in_words, rules

WIDTH, HEIGHT = 120, 16
PAGES = ("Page", "Claims", "Runs on the sample", "on the complete data", "Claims that failed")
MACHINES = ("Processor", "Instructions, threads", "PyTorch", "NumPy", "Python", "Date", "Runs")
CLAIMS = ("Claim", "Expected", "Held in", "Values")
Rows = list[dict[str, str]]


@cache
def rows() -> dict[tuple[str, str], Rows]:
    """Return the table's rows by page and claim."""
    found: dict[tuple[str, str], Rows] = {}
    for row in read(TABLE):
        found.setdefault((row["page"], row["claim"]), []).append(row)
    return found


@cache
def _rules() -> dict[str, dict[str, Any]]:
    return rules(DOCS / "claims.yml")


@cache
def _code(page: str) -> str | None:
    return code(pages()[page]) if page in pages() else None


def count(page: str, claim: str) -> str:
    """Say in how many replications a claim held."""
    found = rows().get((page, claim), [])
    if not found:
        return "Not replicated yet"
    held = sum(row["held"] == "True" for row in found)
    rule = _rules().get(claim)
    of_now = all(row["code"] == _code(page) for row in found)
    of_now = of_now and (rule is None or found[-1]["expected"] == in_words(rule))
    words = f"{held} of {len(found)} replication{'s' * (len(found) > 1)}"
    return words + ("" if of_now else " of an earlier version")


def spread(page: str, claim: str, scale: float = 1) -> nodes.raw | nodes.Text:
    """Draw a claim's value in each replication as a dot, and its bounds as lines."""
    found = rows().get((page, claim), [])
    values = [scale * float(row["value"]) for row in found if row["value"]]
    values = [value for value in values if math.isfinite(value)]
    if len(set(values)) < 2:
        return nodes.Text("")
    bounds = re.findall(r"(?:above|below) (\S+)", found[-1]["expected"])
    bounds = [scale * float(bound) for bound in bounds]
    low, high = min(values + bounds), max(values + bounds)

    def x(value: float) -> str:
        return f"{6 + (WIDTH - 12) * (value - low) / (high - low):.1f}"

    lines = [f'<line x1="{x(b)}" x2="{x(b)}" y1="1" y2="{HEIGHT - 1}"/>' for b in bounds]
    dots = [f'<circle cx="{x(v)}" cy="{HEIGHT / 2:g}" r="3"/>' for v in values]
    label = f"{min(values):.3g} to {max(values):.3g}".replace("-", "−")
    svg = (
        f'<svg class="spread" role="img" aria-label="values from {label}" width="{WIDTH}" '
        f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(lines + dots)}</svg>'
    )
    return nodes.raw("", f'<span class="spread">{svg} {label}</span>', format="html")


class Replications(SphinxDirective):
    """Tell of all replications: ``pages``, how often each was run; ``claims``, how each fared."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the tables."""
        self.env.note_dependency(str(TABLE))
        self.env.note_dependency(str(DOCS / "claims.yml"))
        run = {page for page, _ in rows()}
        order = [name.removesuffix(".py") for name in self.config.tutorials]
        known = [page for page in dict.fromkeys([*order, *pages()]) if page in run & set(pages())]
        for page in known:
            self.env.note_dependency(str(pages()[page]))
        if self.arguments[0] == "claims":
            return [node for page in known for node in self.claims(page)]
        return [self.pages(known), self.machines()]

    def pages(self, known: list[str]) -> nodes.table:
        """Return a table of pages: runs on each kind of data, claims, and how many failed."""
        body = []
        for page in known:
            claims = [found for (name, _), found in rows().items() if name == page]
            data = [run[2] for run in {key_of(row) for found in claims for row in found}]
            failed = sum(any(row["held"] != "True" for row in found) for found in claims)
            complete = data.count("complete") if uses_data(pages()[page]) else "uses none"
            numbers = (len(claims) - 1, data.count("sample"), complete, failed)
            body.append([self.link(page), *(nodes.Text(str(number)) for number in numbers)])
        return table(PAGES, (5, 1, 2, 2, 2), body, "replications")

    def machines(self) -> nodes.table:
        """Return a table of where the pages were run."""
        columns = ("processor", "float_path", "torch", "numpy", "python", "date")
        runs = {key_of(row): row for found in rows().values() for row in found}
        kinds = Counter(tuple(row[name] for name in columns) for row in runs.values())
        body = [[*map(nodes.Text, kind), nodes.Text(str(kinds[kind]))] for kind in sorted(kinds)]
        return table(MACHINES, (3, 3, 1, 1, 1, 2, 1), body, "replications")

    def claims(self, page: str) -> list[nodes.Node]:
        """Return a heading and a table of one page's claims."""
        body = []
        for (name, claim), found in rows().items():
            if name == page and claim != FINISHED:
                rule = _rules().get(claim)
                words = f"{claim}, {rule['verdict']}: {rule['claim']}" if rule else claim
                cells = [words, found[-1]["expected"].replace("-", "−"), count(page, claim)]
                body.append([*map(nodes.Text, cells), spread(page, claim)])
        heading = nodes.rubric("", "", self.link(page))
        return [heading, table(CLAIMS, (5, 2, 2, 2), body, "evidence")]

    def link(self, page: str) -> nodes.Node:
        """Return a link to a page."""
        folder = "tutorials/" if pages()[page].suffix == ".py" else ""
        (link,), _ = self.parse_inline(f"{{doc}}`/{folder}{page}`")
        return link


def table(
    head: tuple[str, ...], widths: tuple[int, ...], body: list[list[nodes.Node]], kind: str
) -> nodes.table:
    """Return a table of a class, from its cells."""

    def row(cells: list[nodes.Node]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", c)) for c in cells))

    columns = [nodes.colspec(colwidth=width) for width in widths]
    group = nodes.tgroup("", *columns, cols=len(widths))
    group += nodes.thead("", row([nodes.Text(title) for title in head]))
    group += nodes.tbody("", *map(row, body))
    return nodes.table("", group, classes=[kind])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("replications", Replications)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
