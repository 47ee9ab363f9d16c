"""A page shows each of its claims where it stands, and a build ends with a list of the failed ones.

``initguide.claim`` tells the site of each claim that a script (through `scraper`) or a MyST page
(through `install_in_kernel`) makes. The directive ``claim`` shows it. A claim that does not hold
stops nothing: the page is marked, the rest is built, and the build's exit status is not 0.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import replications
from initguide.claims import Outcome, listen

logger = logging.getLogger(__name__)

_made: list[Outcome] = []
_listening = ExitStack()


def reset(gallery_conf: dict[str, Any], fname: str) -> None:
    """Listen to the claims of the next script."""
    _listening.close()
    _made.clear()
    _listening.enter_context(listen(_made.append))


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return a directive for each claim that a block of a script made."""
    rst = "".join(f"\n.. claim::\n\n   {_dump(claim)}\n\n" for claim in _made)
    _made.clear()
    return rst


def install_in_kernel() -> None:
    """Let a Jupyter kernel put each claim of a MyST page below its cell."""
    from IPython.display import display

    def show(claim: Outcome) -> None:
        display({"text/markdown": f"```{{claim}}\n{_dump(claim)}\n```"}, raw=True)

    _listening.enter_context(listen(show))


def _dump(claim: Outcome) -> str:
    return json.dumps(asdict(claim), sort_keys=True)


class ClaimDirective(SphinxDirective):
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
            note(self.env, str(claim), page=self.env.docname)
        return [shown]


def note(env: BuildEnvironment, message: str, *, page: str) -> None:
    """Remember a claim that did not hold, for the page that is being read."""
    failed = env.__dict__.setdefault("failed_claims", {})
    failed.setdefault(env.docname, []).append((page, message))


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget the claims of a page that is read again, or gone."""
    env.__dict__.setdefault("failed_claims", {}).pop(docname, None)


def list_failed(app: Sphinx, error: Exception | None) -> None:
    """End the build with every claim that did not hold, and a status that says so."""
    by_page = app.env.__dict__.get("failed_claims", {}).values()
    failed = sorted(claim for claims in by_page for claim in claims)
    if error is not None or not failed:
        return
    for page, message in failed:
        logger.warning("%s", message, location=page, type="claim")
    logger.info("Claims that did not hold in this build: %d, each marked on its page.", len(failed))
    app.statuscode = 1


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive; conf.py names `scraper` and `reset`."""
    app.add_directive("claim", ClaimDirective)
    app.connect("env-purge-doc", forget)
    app.connect("build-finished", list_failed, priority=100)  # before a script's error is raised
    return {"parallel_read_safe": False, "parallel_write_safe": True}
