"""What do the sources claim, and what did our tutorials find? The directive ``evidence`` tells.

A tutorial ends in a dictionary ``findings``: for each claim of ``claims.yml`` that it decides,
a verdict and a value with its interval. `scraper` keeps it beside the generated page. A verdict
that is missing, or not the one that ``claims.yml`` expects, fails the build.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

HEAD = ("Claim", "Verdict", "Measured")


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Write the findings of the script, once it has set them."""
    findings = block_vars["example_globals"].get("findings")
    if findings is not None:
        path = Path(block_vars["target_file"]).with_suffix(".findings.json")
        path.write_text(json.dumps(findings, indent=1, sort_keys=True, default=float))
    return ""


class Evidence(SphinxDirective):
    """Show the claims of one source, or how many there are of each verdict without a name."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, after checking each verdict."""
        claims_file = Path(self.env.srcdir, "claims.yml")
        self.env.note_dependency(str(claims_file))
        sources = yaml.safe_load(claims_file.read_text(encoding="utf-8"))
        if self.arguments:
            claims = sources[self.arguments[0]]["claims"]
            rows = [self.row(name, claim) for name, claim in claims.items()]
            return [_table(HEAD, (5, 2, 3), rows)]
        count: dict[str, int] = {}
        for source in sources.values():
            for claim in source["claims"].values():
                count[claim["verdict"]] = count.get(claim["verdict"], 0) + 1
        cells = [[_verdict(verdict), nodes.Text(str(n))] for verdict, n in count.items()]
        return [_table(("Verdict", "Claims"), (3, 1), cells)]

    def row(self, name: str, claim: dict[str, Any]) -> list[nodes.Node]:
        """Return a claim's cells, and complain where the finding is not the expected one."""
        page = claim["page"]
        path = Path(self.env.srcdir, "tutorials", f"{page}.findings.json")
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text()).get(name) if path.is_file() else None
        if found is None:
            self.complain(page, f"claim {name} has no finding: add it to findings on that page")
            found = {"verdict": None}
        elif found["verdict"] not in (claim["verdict"], None):
            self.complain(
                page,
                f"the verdict on claim {name} is {found['verdict']!r}, and claims.yml expects "
                f"{claim['verdict']!r}: {claim['claim']}",
            )
        said = nodes.inline("", claim["claim"], ids=[nodes.make_id(f"claim-{name}")])
        # A reference that Sphinx resolves once every page has been read.
        place = f"tutorials/{page}:{claim['at']}"  # sphinx.ext.autosectionlabel's
        (link,), _ = self.parse_inline(f"{{ref}}`{claim['measure']} <{place}>`")
        measured = nodes.inline("", "", link, nodes.Text(f": {_number(found, claim.get('unit'))}"))
        return [said, _verdict(found["verdict"]), measured]

    def complain(self, page: str, message: str) -> None:
        """Warn at the page that is to blame; warnings fail the build."""
        logger.warning("%s", message, location=f"tutorials/{page}", type="evidence")


def _number(found: dict[str, Any], unit: str | None) -> str:
    if found["verdict"] is None:
        return "needs the complete data"
    numbers = [found.get(key) for key in ("value", "low", "high")]
    scaled = [n if unit is None or n is None else 100 * n for n in numbers]
    # Two digits of what is uncertain are enough; a number without an interval gets four.
    value, low, high = scaled
    if low is None or high is None:
        return f"{value:.4g}" + (f" {unit}" if unit else "")
    width = (high - low) / 2
    digits = 1 - math.floor(math.log10(width)) if width > 0 else 2
    value, low, high = (f"{n:.{max(digits, 0)}f}".replace("-", "−") for n in scaled)
    return f"{value}{f' {unit}' if unit else ''} [{low}, {high}]"


def _verdict(verdict: str | None) -> nodes.inline:
    name = verdict or "not judged"
    return nodes.inline("", name, classes=["verdict", f"verdict-{nodes.make_id(name)}"])


def _table(
    head: tuple[str, ...], widths: tuple[int, ...], rows: list[list[nodes.Node]]
) -> nodes.table:
    def row(cells: list[nodes.Node]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", c)) for c in cells))

    columns = [nodes.colspec(colwidth=width) for width in widths]
    group = nodes.tgroup("", *columns, cols=len(widths))
    group += nodes.thead("", row([nodes.Text(title) for title in head]))
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group, classes=["evidence"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("evidence", Evidence)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
