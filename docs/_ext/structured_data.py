"""Search engines read what a page is: a tutorial to learn from, in a guide, by whom."""

from __future__ import annotations

import json
from typing import Any

from sphinx.application import Sphinx


def add(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Describe the page in the vocabulary of schema.org."""
    if tree is None:
        return
    learn = context.get("tutorial") is not None
    data = {
        "@context": "https://schema.org",
        "@type": ["TechArticle", "LearningResource"] if learn else "TechArticle",
        "headline": app.env.titles[page].astext(),
        "url": context.get("pageurl") or "",
        "inLanguage": "en",
        "isAccessibleForFree": True,
        "author": {"@type": "Organization", "name": app.config.author},
        "isPartOf": {
            "@type": "WebSite",
            "name": app.config.project,
            "url": app.config.html_baseurl,
        },
    }
    text = json.dumps(data, sort_keys=True).replace("<", "\\u003c")
    context["metatags"] += f'\n<script type="application/ld+json">{text}</script>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it, after the install line's hook has said what is a tutorial."""
    app.connect("html-page-context", add, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
