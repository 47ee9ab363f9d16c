"""What other extensions write is mended here: roles, notes and downloads that do not help.

- sphinx-gallery: the zip beside each script holds what the two other downloads hold, and its
  bytes differ from build to build; the note above the title only points to the page's end; a
  cell of which nothing is to be shown leaves an empty box.
- pandas: the corner of a table's header is a header of nothing; the ids of a styled table are
  drawn at random.
- sphinxcontrib-bibtex: ``doc-biblioentry`` is deprecated in ARIA, and a list has list items.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_EMPTY_HEADER = re.compile(r'<th(?: class="blank[^"]*")?\s*>(?:&nbsp;)?</th>')
_STYLED = re.compile(r'<table id="T_(\w+)"')
CLUTTER = {"sphx-glr-download-zip", "sphx-glr-download-link-note"}


class RemoveClutter(SphinxTransform):
    """Remove what sphinx-gallery adds and nobody needs."""

    default_priority = 10  # before the downloads are collected

    def apply(self, **kwargs: Any) -> None:
        """Remove it."""
        for node in list(self.document.findall(nodes.Element)):
            empty = isinstance(node, nodes.literal_block) and not node.astext().strip()
            clutter = CLUTTER & set(node.get("classes", ()))
            if node.parent is not None and (empty or clutter):
                node.parent.remove(node)


def mend_html(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Give bibliography entries and tables the roles that assistive technology expects."""
    body = context.get("body", "")
    if "doc-biblioentry" in body:
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')
        body = body.replace(' role="doc-backlink"', "")
    body = _EMPTY_HEADER.sub("<td></td>", body)
    for number, uuid in enumerate(dict.fromkeys(_STYLED.findall(body)), 1):
        body = body.replace(f"T_{uuid}", f"T_{number}")
    if "body" in context:
        context["body"] = body


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_transform(RemoveClutter)
    app.connect("html-page-context", mend_html)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
