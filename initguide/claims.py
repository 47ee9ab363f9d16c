"""Does a measurement bear out what a page claims? `claim` puts the two side by side.

A script states each of its claims once, with the value that decides it and the bound that the
value has to keep. Where the script runs by itself, the outcome is printed; a page shows it, and
a replication counts it: they `listen`.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

__all__ = ["Outcome", "claim", "listen", "show"]

T = TypeVar("T")
_listeners: list[Callable[[Outcome], None]] = []


@dataclass(frozen=True)
class Outcome:
    """A sentence, the value that decides it, and what is expected of that value.

    Attributes
    ----------
    text : str
        The claim in words.
    value : float or bool
        What was found.
    above, below, equal : float, optional
        What was expected: a value above, below, or equal to this.
    line : int
        Where the claim stands in its script.
    """

    text: str
    value: float | bool
    above: float | None = None
    below: float | None = None
    equal: float | None = None
    line: int = 0

    @property
    def held(self) -> bool:
        """Whether the value is as expected; NaN never is."""
        if isinstance(self.value, bool):
            return self.value
        return (
            not math.isnan(self.value)
            and (self.above is None or self.value > self.above)
            and (self.below is None or self.value < self.below)
            and (self.equal is None or self.value == self.equal)
        )

    @property
    def expected(self) -> str:
        """What was expected, in words."""
        bounds = {"above": self.above, "below": self.below, "exactly": self.equal}
        return " and ".join(f"{word} {b:.4g}" for word, b in bounds.items() if b is not None)

    def _ipython_display_(self) -> None:
        """Show nothing more: a notebook has printed the claim when it was made."""

    def __str__(self) -> str:
        outcome = "Held" if self.held else "Did not hold"
        text = self.text.rstrip(".")
        if isinstance(self.value, bool):
            return f"{outcome}: {text}"
        return f"{outcome}: {text} (expected {self.expected}, found {self.value:.4g})"


def claim(
    text: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
    equal: float | None = None,
) -> Outcome:
    r"""State a claim, and say whether it holds.

    It never raises because a claim fails: what comes after it still runs.

    Parameters
    ----------
    text : str
        The claim in words, one short sentence.
    value : float, bool, or array of floats
        What was measured. Of several values, the one that fails by most, or is nearest to
        failing, decides. A bool is a claim by itself.
    above, below, equal : float, optional
        What the value has to be; one at least, unless it is a bool.

    Returns
    -------
    Outcome
        Printed, unless somebody `listen`\\ s.

    Raises
    ------
    ValueError
        If there is no value, no bound to hold it against, or a bound for a bool.

    Examples
    --------
    >>> claim("two thirds are more than a half", 2 / 3, above=1 / 2).held
    Held: two thirds are more than a half (expected above 0.5, found 0.6667)
    True
    """
    line = sys._getframe(1).f_lineno
    values = np.asarray(value.detach().cpu().tolist() if hasattr(value, "detach") else value)
    bounds = {"above": above, "below": below, "equal": equal}
    if values.dtype == bool and not values.ndim and set(bounds.values()) == {None}:
        made = Outcome(text, bool(values), line=line)
    else:
        if not values.size or values.dtype == bool or set(bounds.values()) == {None}:
            raise ValueError(
                f"claim {text!r} has value {value!r} and bounds {bounds}: expected one bool "
                "without bounds, or at least one number and one bound."
            )
        limits = {name: None if bound is None else float(bound) for name, bound in bounds.items()}
        each = [Outcome(text, float(v), **limits, line=line) for v in values.ravel()]
        made = min(each, key=lambda one: (one.held, _slack(one)))
    for listener in _listeners:
        listener(made)
    if not _listeners:
        print(made)
    return made


def show(value: T) -> T:
    """Return a value, and print it where neither a page nor a notebook shows it.

    Parameters
    ----------
    value : object
        A table, a report, data.

    Returns
    -------
    object
        The same: the last line of a cell, which a page or a notebook shows.
    """
    if not _listeners and not hasattr(builtins, "__IPYTHON__"):
        print(value)
    return value


@contextlib.contextmanager
def listen(listener: Callable[[Outcome], None]) -> Iterator[None]:
    """Hear of each claim, in place of its being printed.

    Parameters
    ----------
    listener : callable
        Called with each `Outcome` that is made.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _slack(made: Outcome) -> float:
    """Return by how much a value keeps its bounds; below zero, by how much it fails."""
    value = float(made.value)
    if math.isnan(value):
        return -math.inf
    slacks = [
        *([value - made.above] if made.above is not None else []),
        *([made.below - value] if made.below is not None else []),
        *([-abs(value - made.equal)] if made.equal is not None else []),
    ]
    return min(slacks)
