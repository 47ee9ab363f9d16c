"""The first use of a glossary's word on a page leads to the glossary, and shows what it means.

No page has to mark its words: a copied script stays plain.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

GLOSSARY = "glossary"
# Words in these are no prose, or are links already.
LEFT_ALONE = (nodes.literal, nodes.reference, nodes.title, nodes.math, nodes.literal_block)


def definitions(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Return each term, in small letters, with its anchor and its definition."""
    if not hasattr(app, "glossary_definitions"):
        found = {}
        for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
            meaning = " ".join(item[-1].astext().split())
            for term in item.findall(nodes.term):
                found[_plain(term.astext())] = (term["ids"][0], meaning)
        app.glossary_definitions = found
    return app.glossary_definitions


def link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make a link of each term's first use in the prose of a page."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs or page.startswith("reference/"):
        return
    terms = dict(definitions(app))
    for text in list(doctree.findall(nodes.Text)):
        if not terms or any(isinstance(node, LEFT_ALONE) for node in _ancestors(text)):
            continue
        if not any(isinstance(node, nodes.paragraph) for node in _ancestors(text)):
            continue
        longest_first = sorted(map(re.escape, terms), key=len, reverse=True)
        words = re.compile(rf"\b({'|'.join(longest_first)})(?:s\b|\b)", re.IGNORECASE)
        parts: list[nodes.Node] = []
        rest, start = text.astext(), 0
        for match in words.finditer(rest.replace("’", "'")):
            if _is_win(rest, match):
                continue
            anchor, meaning = terms.pop(_plain(match[1]), (None, ""))
            if anchor is None:
                continue
            for other in [t for t, (a, _) in terms.items() if a == anchor]:
                del terms[other]
            shown = nodes.inline("", rest[slice(*match.span())], classes=["term"])
            reference = make_refnode(app.builder, page, GLOSSARY, anchor, shown, meaning)
            parts += [nodes.Text(rest[start : match.start()]), reference]
            start = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(rest[start:])])


def _is_win(text: str, match: re.Match[str]) -> bool:
    """Return whether "gain" is not the factor: "cross-entropy gains", "no gain", "to gain"."""
    before = text[: match.start()].lower()
    return match[1].lower() == "gain" and (
        match[0].lower() == "gains" or before.endswith(("no ", "to "))
    )


def _plain(words: str) -> str:
    return words.lower().replace("’", "'")


def _ancestors(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("doctree-resolved", link, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
