r"""Formulas become MathML while the site is built: no JavaScript, no font from elsewhere.

TeX that `math-core <https://pypi.org/project/math-core/>`_ cannot read fails the build. It
has no ``split``, ``\tag`` or ``\substack``: write ``aligned``; labels are Sphinx's.
"""

from __future__ import annotations

import re

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

_CONVERTER = LatexToMathML(annotation=True, fancy_error=False)
# The environments that number their lines: Sphinx numbers equations, math-core must not.
_NUMBERED = re.compile(r"\\(begin|end)\{(equation|align|gather|multline)\}")


def to_mathml(tex: str, *, block: bool) -> str:
    """Convert TeX to a ``<math>`` element that keeps the TeX as an annotation."""
    tex = _NUMBERED.sub(r"\\\1{\2*}", tex.strip())
    if block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    return _CONVERTER.convert_with_local_state(tex, displaystyle=block)


def _convert(node: nodes.math | nodes.math_block, *, block: bool) -> str:
    try:
        # A blank line in a math directive separates equations: one below the other.
        parts = [part for part in node.astext().split("\n\n") if part.strip()]
        return "".join(to_mathml(part, block=block) for part in parts)
    except LatexError as error:
        where = f"{node.source}:{node.line or '?'}"
        message = f"{where}: cannot read the formula\n{node.astext()}\n{error}"
        raise ExtensionError(message) from None


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(_convert(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula, with Sphinx's number where it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    translator.body.append(f'<div class="math-lines">{_convert(node, block=True)}</div>')
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
