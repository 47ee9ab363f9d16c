"""A gallery block that ends in a SymPy value shows it as a formula.

MyST pages do so by themselves. Name `scraper` in ``image_scrapers`` and ``sympy`` in
``ignore_repr_types``, or the value is shown as text too.
"""

from __future__ import annotations

import ast
from textwrap import indent
from typing import Any


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return a ``.. math::`` directive for the block's last value if SymPy made it."""
    body = ast.parse(block.content).body
    if not body or not isinstance(body[-1], ast.Expr):
        return ""  # the last value that is remembered is an earlier block's
    value = block_vars["example_globals"].get("___")
    if not type(value).__module__.startswith("sympy."):
        return ""
    from sympy import latex

    return f"\n.. math::\n\n{indent(latex(value), '   ')}\n\n"
