"""What do the sources claim, and what did our tutorials find? The directive ``evidence`` tells.

A tutorial ends in a dictionary ``findings``: for each claim of ``claims.yml`` that it decides, a
number, with its interval where it has one. ``claims.yml`` says which verdict the number supports,
and within which bounds. A finding that is missing is a warning. One that is out of its bounds is
shown as such, and the build ends with a list of these: `page_claims`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import page_claims
import replications
from verdicts import VERDICTS, in_words, judge, numbers, rules

logger = logging.getLogger(__name__)

HEAD = ("Claim", "Verdict", "Measured", "Verdict held in")


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Write the findings of the script, once it has set them."""
    findings = block_vars["example_globals"].get("findings")
    if findings is not None:
        path = Path(block_vars["target_file"]).with_suffix(".findings.json")
        table = {
            name: dict(zip(("value", "low", "high"), numbers(finding), strict=True))
            for name, finding in findings.items()
        }
        path.write_text(json.dumps(table, indent=1, sort_keys=True))
    return ""


class Evidence(SphinxDirective):
    """Show the claims of one source, or how many there are of each verdict without a name."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, after checking each verdict."""
        claims_file = Path(self.env.srcdir, "claims.yml")
        self.env.note_dependency(str(claims_file))
        self.env.note_dependency(str(replications.TABLE))
        sources = yaml.safe_load(claims_file.read_text(encoding="utf-8"))
        if self.arguments:
            claims = sources[self.arguments[0]]["claims"]
            rows = [self.row(name, claim) for name, claim in claims.items()]
            return [replications.table(HEAD, (5, 2, 3, 2), rows, "evidence")]
        count: dict[str, int] = {}
        for rule in rules(claims_file).values():
            count[rule["verdict"]] = count.get(rule["verdict"], 0) + 1
        cells = [[_verdict(v), nodes.Text(str(count[v]))] for v in VERDICTS if v in count]
        return [replications.table(("Verdict", "Claims"), (3, 1), cells, "evidence")]

    def row(self, name: str, rule: dict[str, Any]) -> list[nodes.Node]:
        """Return a claim's cells, and note where the finding does not support the verdict."""
        page = rule["page"]
        path = Path(self.env.srcdir, "tutorials", f"{page}.findings.json")
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text()).get(name) if path.is_file() else None
        if found is None:
            logger.warning(
                "claim %s has no finding: add it to findings on that page",
                name,
                location=f"tutorials/{page}",
                type="evidence",
            )
        verdict: str | None = rule["verdict"]
        number = "not measured"
        if found is not None:
            number = _number(found, rule.get("unit"))
            supported = judge(found, rule)
            if supported is None:
                verdict, number = None, "needs the complete data"
            elif not supported:
                verdict = "did not hold in this build"
                page_claims.note(
                    self.env,
                    f"claim {name} ({rule['claim']}) is judged {rule['verdict']!r}, which expects "
                    f"{in_words(rule)}; found {number}",
                    page=f"tutorials/{page}",
                )
        said = nodes.inline("", rule["claim"], ids=[nodes.make_id(f"claim-{name}")])
        # A reference that Sphinx resolves once every page has been read.
        place = f"tutorials/{page}:{rule['at']}"  # sphinx.ext.autosectionlabel's
        (link,), _ = self.parse_inline(f"{{ref}}`{rule['measure']} <{place}>`")
        measured = nodes.inline("", "", link, nodes.Text(f": {number}"))
        if brackets := rule.get("brackets"):
            measured += nodes.Text(f" ({brackets})")
        held = nodes.inline("", f"{replications.count(page, name)} ")
        held += replications.spread(page, name, 100 if rule.get("unit") else 1)
        return [said, _verdict(verdict), measured, held]


def _number(found: Mapping[str, Any], unit: str | None) -> str:
    numbers = [found.get(key) for key in ("value", "low", "high")]
    scaled = [n if unit is None or n is None else 100 * n for n in numbers]
    # Two digits of what is uncertain are enough; a number without an interval gets four.
    value, low, high = scaled
    if low is None or high is None:
        return f"{value:.4g}" + (f" {unit}" if unit else "")
    width = (high - low) / 2
    digits = 1 - math.floor(math.log10(width)) if 0 < width < math.inf else 2
    value, low, high = (f"{n:.{max(digits, 0)}f}".replace("-", "−") for n in scaled)
    return f"{value}{f' {unit}' if unit else ''} [{low}, {high}]"


def _verdict(verdict: str | None) -> nodes.inline:
    name = verdict or "not judged"
    return nodes.inline("", name, classes=["verdict", f"verdict-{nodes.make_id(name)}"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("evidence", Evidence)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
