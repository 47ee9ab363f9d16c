"""Words are links without being marked as such: `train`, [he2015]_, a term of the glossary.

So docstrings and scripts stay plain. A name is looked up among all public names of the package,
a citation in the bibliography; the first use of a term on a page shows what it means. A public
name that is not in the reference is a warning.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

PACKAGE = "initguide"
GLOSSARY = "glossary"
# Words in these are no prose, or are links already.
LEFT_ALONE = (nodes.literal, nodes.reference, nodes.title, nodes.math, nodes.literal_block)

logger = logging.getLogger(__name__)


@cache
def public_names() -> list[set[str]]:
    """Return what the modules' ``__all__`` list, each thing by all the paths that lead to it."""
    root = importlib.import_module(PACKAGE)
    found = [info.name for info in pkgutil.walk_packages(root.__path__, f"{PACKAGE}.")]
    names = [PACKAGE, *(name for name in found if "._" not in name)]
    modules = {name: importlib.import_module(name) for name in names}
    paths = defaultdict(set)
    for path, module in modules.items():
        for name in set(getattr(module, "__all__", ())) - {"__version__"}:
            if f"{path}.{name}" not in modules:
                paths[name, id(getattr(module, name))].add(f"{path}.{name}")
    return list(paths.values())


def check_reference(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents."""
    documented = set(env.domains["py"].objects)
    for paths in public_names():
        if not documented & paths:
            message = "%s is public and not in the reference: add it to reference/index.md"
            logger.warning(message, max(paths, key=len), type="reference")


def forget_removed(app: Sphinx) -> None:
    """Remove the pages that autosummary made for names which the reference no longer lists."""
    listed = Path(app.srcdir, "reference/index.md").read_text(encoding="utf-8").split()
    for page in Path(app.srcdir, "reference/generated").glob("*.rst"):
        if page.stem not in listed:
            page.unlink()


def find_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link a public name wherever it is documented, if only one thing is called so."""
    if node.get("refdomain") != "py":
        return None
    wanted = node["reftarget"].lstrip("~.")
    owner, _, member = wanted.rpartition(".")
    objects = {name: o for name, o in env.domains["py"].objects.items() if not o.aliased}
    found = set()
    for paths in public_names():
        for path in paths:
            if path == wanted or path.endswith(f".{wanted}"):
                found |= paths & set(objects)
            elif owner and path.endswith(f".{owner}"):  # Class.method
                found |= {f"{other}.{member}" for other in paths} & set(objects)
    if len(found) != 1:
        return None
    target = objects[found.pop()]
    page = node.get("refdoc", env.docname)
    return make_refnode(app.builder, page, target.docname, target.node_id, content)


def find_citation(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link ``[key]_`` to its entry in the bibliography, as authors and year."""
    if node.get("refdomain") != "citation":
        return None
    for citation in env.domains["cite"].citations:
        if citation.key.lower() == node["reftarget"].lower():
            authors = citation.entry.persons["author"]
            names = [" ".join(person.prelast_names + person.last_names) for person in authors]
            who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
            text = f"{who} {citation.entry.fields.get('year', '')}"
            label = nodes.inline("", re.sub("[{}]", "", text).strip())
            to = (citation.bibliography_key.docname, citation.citation_id)
            return make_refnode(app.builder, node.get("refdoc", env.docname), *to, label)
    return None


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make a link of each term's first use in the prose of a page."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs or page.startswith("reference/"):
        return
    terms = dict(_definitions(app))
    for text in list(doctree.findall(nodes.Text)):
        around = _ancestors(text)
        if any(isinstance(node, LEFT_ALONE) for node in around):
            continue
        if not terms or not any(isinstance(node, nodes.paragraph) for node in around):
            continue
        longest_first = sorted(map(re.escape, terms), key=len, reverse=True)
        # "Cross-entropy gains", "no gain" and "to gain" are about winning.
        words = rf"(?<!no )(?<!to )\b(?!gains)({'|'.join(longest_first)})(?:s\b|\b)"
        parts: list[nodes.Node] = []
        rest, start = text.astext(), 0
        for match in re.finditer(words, rest.replace("’", "'"), re.IGNORECASE):
            if (term := _plain(match[1])) not in terms:
                continue
            anchor, meaning = terms[term]
            terms = {t: found for t, found in terms.items() if found[0] != anchor}
            shown = nodes.inline("", rest[slice(*match.span())], classes=["term"])
            reference = make_refnode(app.builder, page, GLOSSARY, anchor, shown, meaning)
            parts += [nodes.Text(rest[start : match.start()]), reference]
            start = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(rest[start:])])


def _definitions(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Return each term, in small letters, with its anchor and its definition."""
    if not hasattr(app, "glossary_definitions"):
        found = {}
        for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
            meaning = " ".join(item[-1].astext().split())
            for term in item.findall(nodes.term):
                found[_plain(term.astext())] = (term["ids"][0], meaning)
        app.glossary_definitions = found
    return app.glossary_definitions


def _plain(words: str) -> str:
    return words.lower().replace("’", "'")


def _ancestors(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all."""
    app.connect("builder-inited", forget_removed, priority=400)
    app.connect("env-check-consistency", check_reference)
    app.connect("missing-reference", find_name)
    app.connect("missing-reference", find_citation)
    app.connect("doctree-resolved", link_terms, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
