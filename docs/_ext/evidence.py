"""Claims stand on their pages, each with its outcome; a build ends with a list of the failed ones.

The directive ``claim`` shows a claim of a page of ours, ``evidence`` those of a source. A tutorial
ends in a dictionary ``findings``: for each claim of ``claims.yml`` that it decides, a number, with
its interval where it has one. ``claims.yml`` says which verdict the number supports, within which
bounds. A finding that is missing is a warning. A claim that does not hold stops nothing: it is
marked, the rest is built, and the build's exit status is not 0.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import replications
from initguide.claims import Outcome
from verdicts import VERDICTS, in_words, judge, rules, sources

logger = logging.getLogger(__name__)

HEAD = ("Claim", "Verdict", "Measured", "Verdict held in")
_failed: list[tuple[str, str]] = []


class Claim(SphinxDirective):
    """Show one claim: whether it held in this build, by which value, and in how many others."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the claim as a paragraph, and remember it where it failed."""
        claim = Outcome(**json.loads("".join(self.content)))
        self.env.note_dependency(str(replications.TABLE))
        page = self.env.docname.rpartition("/")[2]
        word = "Held" if claim.held else "Did not hold in this build"
        text = claim.text[0].upper() + claim.text[1:].rstrip(".")
        shown = nodes.paragraph(classes=["claim", "held" if claim.held else "not-held"])
        shown += [nodes.inline("", f"{word}: ", classes=["outcome"]), nodes.Text(f"{text}. ")]
        if not isinstance(claim.value, bool):
            found = f"Found {claim.value:.4g}, expected {claim.expected}. ".replace("-", "−")
            shown += nodes.inline("", found, classes=["found"])
        how_often = replications.count(page, claim.text)
        words = nodes.inline("", f"In {how_often}" if how_often[0].isdigit() else how_often)
        to = {"refdomain": "std", "reftype": "doc", "reftarget": "/replication"}
        shown += [pending_xref("", words, **to, refexplicit=True, refwarn=True), nodes.Text(".")]
        if not claim.held:
            _failed.append((self.env.docname, str(claim)))
        return [shown]


class Evidence(SphinxDirective):
    """Show the claims of one source, or how many there are of each verdict without a name."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, after checking each verdict."""
        claims_file = Path(self.env.srcdir, "claims.yml")
        for file in (claims_file, replications.TABLE):
            self.env.note_dependency(str(file))
        if self.arguments:
            claims = sources(claims_file)[self.arguments[0]]["claims"]
            rows = [self.row(name, claim) for name, claim in claims.items()]
            return [replications.table(HEAD, (5, 2, 3, 2), rows, "evidence")]
        count = Counter(rule["verdict"] for rule in rules(claims_file).values())
        cells = [[_verdict(v), nodes.Text(str(count[v]))] for v in VERDICTS if v in count]
        return [replications.table(("Verdict", "Claims"), (3, 1), cells, "evidence")]

    def row(self, name: str, rule: dict[str, Any]) -> list[nodes.Node]:
        """Return a claim's cells, and note where the finding does not support the verdict."""
        page, verdict, number = f"tutorials/{rule['page']}", rule["verdict"], "not measured"
        path = Path(self.env.srcdir, f"{page}.findings.json")
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text()).get(name) if path.is_file() else None
        if found is None:
            message = "claim %s has no finding: add it to findings on that page"
            logger.warning(message, name, location=page, type="evidence")
        else:
            number = _number(found, rule.get("unit"))
            supported = judge(found, rule)
            if supported is None:
                verdict, number = None, "needs the complete data"
            elif not supported:
                expected = f"judged {verdict!r}, which expects {in_words(rule)}; found {number}"
                _failed.append((page, f"claim {name} ({rule['claim']}) is {expected}"))
                verdict = "did not hold in this build"
        said = nodes.inline("", rule["claim"], ids=[nodes.make_id(f"claim-{name}")])
        # A reference that Sphinx resolves once every page has been read.
        place = f"{page}:{rule['at']}"  # sphinx.ext.autosectionlabel's
        (link,), _ = self.parse_inline(f"{{ref}}`{rule['measure']} <{place}>`")
        measured = nodes.inline("", "", link, nodes.Text(f": {number}"))
        if brackets := rule.get("brackets"):
            measured += nodes.Text(f" ({brackets})")
        held = nodes.inline("", f"{replications.count(rule['page'], name)} ")
        held += replications.spread(rule["page"], name, 100 if rule.get("unit") else 1)
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


def list_failed(app: Sphinx, error: Exception | None) -> None:
    """End the build with every claim that did not hold, and a status that says so."""
    if error is not None or not _failed:
        return
    for page, message in sorted(_failed):
        logger.warning("%s", message, location=page, type="claim")
    count = len(_failed)
    logger.info("Claims that did not hold in this build: %d, each marked on its page.", count)
    app.statuscode = 1


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives; `freshness` has a page read again that did not hold."""
    app.add_directive("claim", Claim)
    app.add_directive("evidence", Evidence)
    app.connect("build-finished", list_failed, priority=100)  # before a script's error is raised
    return {"parallel_read_safe": False, "parallel_write_safe": True}
