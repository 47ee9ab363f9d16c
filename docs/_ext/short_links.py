"""Docstrings name things shortly, and it is a link: `train`, [he2015]_.

Sphinx looks a name up in the module at hand and a citation among RST's own. Here the name is
looked up among all public names of the package, the citation in the bibliography.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from public_api import public_names


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
    for paths in public_names(app.config.public_api_package).values():
        for path in paths:
            if path == wanted or path.endswith(f".{wanted}"):
                found |= paths & set(objects)
            elif owner and path.endswith(f".{owner}"):  # Class.method
                found |= {f"{other}.{member}" for other in paths} & set(objects)
    if len(found) != 1:
        return None
    target = objects[found.pop()]
    docname = node.get("refdoc", env.docname)
    return make_refnode(app.builder, docname, target.docname, target.node_id, content)


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
            year = citation.entry.fields.get("year", "")
            label = nodes.inline("", f"{who} {year}".replace("{", "").replace("}", "").strip())
            page = citation.bibliography_key.docname
            docname = node.get("refdoc", env.docname)
            return make_refnode(app.builder, docname, page, citation.citation_id, label)
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("missing-reference", find_name)
    app.connect("missing-reference", find_citation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
