"""What was done to a model? An `Initialization` says it for every parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from initguide import initializers as init
from initguide.layers import Fans
from initguide.orthogonal import orthogonal_
from initguide.schemes import Scheme

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Initialization", "Row"]


class Row(NamedTuple):
    """What happened to one parameter.

    Attributes
    ----------
    name, what : str
        As in ``named_parameters()``, and in words.
    shape : tuple of int
    matrices : int
        How many the tensor holds.
    fan_in, fan_out : int or None
        Of each matrix; None where there is none.
    rule : str
        What filled it; empty if it was left alone.
    wanted, found : float or None
        Root mean square that the rule gives and that the values have.
    why : str
        Why it was left alone.
    """

    name: str
    what: str
    shape: tuple[int, ...]
    matrices: int
    fan_in: int | None
    fan_out: int | None
    rule: str
    wanted: float | None
    found: float | None
    why: str


@dataclass(frozen=True, repr=False)
class Initialization:
    """What `initialize_` did to a model.

    Attributes
    ----------
    scheme : Scheme
        The rule for all that no other rule named.
    rows : tuple of Row
        One for each parameter.
    initialized : tuple of str
        Names of the layers whose parameters were filled.
    left_alone : tuple of str
        Names of the parameters that are what they were.
    identical : tuple of tuple of str
        Parameters with equal values that are not constant, as cloned layers have.
    readouts : tuple of str
        The output layers, where they were looked for.
    """

    scheme: Scheme
    rows: tuple[Row, ...]
    initialized: tuple[str, ...]
    left_alone: tuple[str, ...]
    identical: tuple[tuple[str, ...], ...] = ()
    readouts: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """Return a table with the columns of `Row`, a row a parameter."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=Row._fields).set_index("name")

    @property
    def summary(self) -> str:
        """How many parameters were filled, and what to know beside it, in words."""
        filled = sum(bool(row.rule) for row in self.rows)
        told = f"{self.scheme.label}: initialized {filled} of {len(self.rows)} parameters"
        for names in self.identical:
            told += f"\nidentical: {', '.join(names)}"
        return told

    def __repr__(self) -> str:
        return f"{self.summary}\n{self._table().to_string(max_rows=60, max_colwidth=40)}"

    def _repr_html_(self) -> str:
        import html

        table = self._table().to_html(border=0, max_rows=200)
        return f"<p>{html.escape(self.summary)}</p>{table}"

    def _table(self) -> pd.DataFrame:
        table = self.frame()
        done = table["rule"].where(table["rule"] != "", "left alone: " + table["why"])
        fan = table[["fan_in", "fan_out"]].map(lambda n: "" if n is None or n != n else f"{n:.0f}")
        size = table[["wanted", "found"]].map(lambda x: "" if x is None or x != x else f"{x:.4g}")
        return table[["what", "shape"]].join(fan).join(done).join(size).rename_axis(None)


def words(rule: Any) -> str:
    """Name what fills a parameter."""
    if isinstance(rule, partial):
        options = ", ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in rule.keywords.items()
        )
        return f"{words(rule.func)} ({options})"
    if callable(rule):
        return str(getattr(rule, "__name__", rule)).rstrip("_").replace("_", " ")
    return f"{rule:g}"


def wanted_size(rule: Any, fan: Fans | None, shape: Sequence[int]) -> float | None:
    """Return the root mean square that a rule of ours gives, None of others."""
    options: dict[str, Any] = {}
    while isinstance(rule, partial):
        options = {**rule.keywords, **options}
        rule = rule.func
    if not callable(rule):
        return abs(float(rule))
    factor = options.get("gain")
    if rule is init.normal_:
        return math.hypot(options.get("mean", 0.0), options.get("std", 1.0))
    if rule is init.uniform_:
        low, high = options.get("low", 0.0), options.get("high", 1.0)
        return math.sqrt((low * low + low * high + high * high) / 3)
    if fan is None:
        return None
    if rule is orthogonal_:
        return (1.0 if factor is None else factor) / math.sqrt(max(shape[0], fan.fan_in))
    scales = {
        init.lecun_normal_: 1 / fan.fan_in,
        init.lecun_uniform_: 1 / fan.fan_in,
        init.glorot_normal_: 2 / (fan.fan_in + fan.fan_out),
        init.glorot_uniform_: 2 / (fan.fan_in + fan.fan_out),
        init.he_normal_: (2 if factor is None else 1) / fan.fan_in,
        init.he_uniform_: (2 if factor is None else 1) / fan.fan_in,
        init.torch_default_: 1 / 3 / fan.fan_in,
    }
    if rule not in scales or set(options) - {"gain"}:
        return None
    return (1.0 if factor is None else float(factor)) * math.sqrt(scales[rule])
