"""What other extensions write is mended here: roles, notes and downloads that do not help.

- sphinx-gallery: the zip beside each script holds what the two other downloads hold, and its
  bytes differ from build to build; the note above the title only points to the page's end.
- sphinxcontrib-bibtex: ``doc-biblioentry`` is deprecated in ARIA, and a list has list items.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

CLUTTER = {"sphx-glr-download-zip", "sphx-glr-download-link-note"}


class RemoveClutter(SphinxTransform):
    """Remove what sphinx-gallery adds and nobody needs."""

    default_priority = 10  # before the downloads are collected

    def apply(self, **kwargs: Any) -> None:
        """Remove it."""
        for node in list(self.document.findall(nodes.Element)):
            if node.parent is not None and CLUTTER & set(node.get("classes", ())):
                node.parent.remove(node)


def mend_roles(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Give bibliography entries the roles that assistive technology expects."""
    if "doc-biblioentry" in (body := context.get("body", "")):
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = body.replace(' role="doc-backlink"', "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_transform(RemoveClutter)
    app.connect("html-page-context", mend_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
