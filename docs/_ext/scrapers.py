"""What stands beside a page's code while it runs: a clean start, its claims, findings, formulas.

`reset` is in conf.py's ``reset_modules``, `claims`, `findings` and `formulas` are among its
``image_scrapers``; the kernel of a MyST page starts with `install_in_kernel`.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pandas as pd
import torch

import figures
from initguide.claims import Outcome, listen

_made: list[Outcome] = []
_listening = ExitStack()


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


# What a script can set for the whole process, and so for the scripts after it.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (lambda: None, torch.set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_rng_state, torch.set_rng_state),
    (lambda: "default", lambda profile: torch.set_printoptions(profile=profile)),
    (np.get_printoptions, lambda options: np.set_printoptions(**options)),
    (np.geterr, lambda errors: np.seterr(**errors)),
    (lambda: "^display", pd.reset_option),
    (lambda: dict(os.environ), _set_environment),
)


@cache
def _at_start() -> list[Any]:
    """Return the settings as the first script finds them."""
    return [get() for get, _ in _SETTINGS]


def reset(gallery_conf: dict[str, Any], fname: str) -> None:
    """Give each script what a process of its own would, and listen to its claims."""
    for (_, put), value in zip(_SETTINGS, _at_start(), strict=True):
        put(value)
    figures.reset(gallery_conf, fname)
    _listening.close()
    _made.clear()
    _listening.enter_context(listen(_made.append))


def claims(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return a directive for each claim that a block of a script made."""
    rst = "".join(f"\n.. claim::\n\n   {_dump(claim)}\n\n" for claim in _made)
    _made.clear()
    return rst


def findings(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Write the findings of a script beside its page, once it has set them."""
    found = block_vars["example_globals"].get("findings")
    if found is not None:
        parts = ("value", "low", "high")
        table = {name: dict(zip(parts, numbers(row), strict=True)) for name, row in found.items()}
        path = Path(block_vars["target_file"]).with_suffix(".findings.json")
        path.write_text(json.dumps(table, indent=1, sort_keys=True))
    return ""


def formulas(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return a ``.. math::`` directive for a block's last value if SymPy made it.

    MyST pages show formulas by themselves. ``ignore_repr_types`` leaves out the value as text.
    """
    body = ast.parse(block.content).body
    if not body or not isinstance(body[-1], ast.Expr):
        return ""  # the last value that is remembered is an earlier block's
    value = block_vars["example_globals"].get("___")
    if not type(value).__module__.startswith("sympy."):
        return ""
    from sympy import latex

    return f"\n.. math::\n\n{indent(latex(value), '   ')}\n\n"


def numbers(finding: Any) -> tuple[float, float | None, float | None]:
    """Return value, low and high of a finding: a number, or a row of a table of means."""
    if not isinstance(finding, Mapping) and not hasattr(finding, "to_dict"):
        return float(finding), None, None
    row = dict(finding)
    value = next(row[name] for name in ("value", "mean", "difference") if name in row)
    low, high = (None if row.get(name) is None else float(row[name]) for name in ("low", "high"))
    return float(value), low, high


def install_in_kernel() -> None:
    """Let a Jupyter kernel put each claim of a MyST page below its cell."""
    from IPython.display import display

    def show(claim: Outcome) -> None:
        display({"text/markdown": f"```{{claim}}\n{_dump(claim)}\n```"}, raw=True)

    _listening.enter_context(listen(show))


def _dump(claim: Outcome) -> str:
    return json.dumps(asdict(claim), sort_keys=True)
