"""What does a table look like? Each ``plot_*`` draws one table on one axes.

A scheme has the same colour and marker in every figure; a band or a bar around a mean is its
95 % interval over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from initguide.schemes import SCHEMES, Scheme
from initguide.statistics import summarize

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STYLE", "look", "plot_comparison", "plot_curves", "plot_means"]

#: Path of the matplotlib style sheet, for ``plt.style.use(STYLE)``.
STYLE = Path(__file__).with_name("initguide.mplstyle")


def plot_curves(
    runs: pd.DataFrame,
    *,
    metric: str = "accuracy",
    split: str = "test",
    by: str | Sequence[str] = "scheme",
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric against the step: the mean of each scheme and its 95 % interval.

    Parameters
    ----------
    runs : pandas.DataFrame
        The runs table.
    metric, split : str
        What to draw.
    by : str or sequence of str
        Columns that tell conditions apart, the scheme first. A second one, such as the
        activation, changes the line's dashes or fills the marker.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the current axes by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    keys = [by] if isinstance(by, str) else list(by)
    table = summarize(runs[(runs["metric"] == metric) & (runs["split"] == split)], by=keys)
    dashes = _numbered(table, keys)
    for name, rows in table.groupby(keys, sort=False):
        scheme = look(", ".join(map(str, name)))
        ax.plot(
            rows["step"],
            rows["mean"],
            color=scheme.color,
            marker=scheme.marker,
            linestyle=("-", "--", ":", "-.")[dashes[name[1:]] % 4],
            label=scheme.label,
        )
        ax.fill_between(
            rows["step"], rows["low"], rows["high"], color=scheme.color, alpha=0.2, linewidth=0
        )
    ax.set(xlabel="step (mini-batches)", ylabel=f"{split} {metric}")
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves, never on them
    return ax


def plot_means(
    runs: pd.DataFrame,
    *,
    metric: str = "accuracy",
    split: str = "test",
    by: str | Sequence[str] = "scheme",
    ax: Axes | None = None,
) -> Axes:
    """Draw what each scheme reached at its last step: every seed, the mean, its interval.

    Parameters
    ----------
    runs : pandas.DataFrame
        The runs table.
    metric, split : str
        What to draw.
    by : str or sequence of str
        Columns that tell conditions apart, the scheme first. A second one, such as the
        activation, changes the line's dashes or fills the marker.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the current axes by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    runs = runs[(runs["metric"] == metric) & (runs["split"] == split)]
    keys = [by] if isinstance(by, str) else list(by)
    if "step" in runs:
        runs = runs[runs["step"] == runs.groupby(keys)["step"].transform("max")]
    table = summarize(runs, by=keys)
    fills = _numbered(table, keys)
    names = []
    for row, mean in enumerate(table.to_dict("records")):
        condition = tuple(mean[key] for key in keys)
        scheme = look(", ".join(map(str, condition)))
        names.append(scheme.label)
        seeds = runs.loc[(runs[keys] == list(condition)).all(axis=1), "value"]
        ax.plot(seeds, [row] * len(seeds), "|", color=scheme.color, alpha=0.6, markersize=10)
        ax.errorbar(
            mean["mean"],
            row,
            xerr=[[mean["mean"] - mean["low"]], [mean["high"] - mean["mean"]]],
            color=scheme.color,
            marker=scheme.marker,
            markerfacecolor=scheme.color if fills[condition[1:]] == 0 else "none",
            capsize=4,
        )
    ax.set_yticks(range(len(table)), names)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"{split} {metric}")
    if metric == "accuracy":
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    return ax


def plot_comparison(comparison: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each paired difference with its interval; those that are real are filled.

    Parameters
    ----------
    comparison : pandas.DataFrame
        What `compare` returned, values being fractions.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the current axes by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    for row, pair in enumerate(comparison.to_dict("records")):
        low, middle, high = (100 * pair[column] for column in ("low", "difference", "high"))
        ax.errorbar(
            middle,
            row,
            xerr=[[middle - low], [high - middle]],
            color="#0072B2" if pair["real"] else "#8c8c8c",
            marker="o",
            markerfacecolor="#0072B2" if pair["real"] else "none",
            capsize=3,
        )
    ax.axvline(0, color=plt.rcParams["axes.edgecolor"], linewidth=1)
    names = [
        f"{look(a).label} - {look(b).label}"
        for a, b in zip(comparison["a"], comparison["b"], strict=True)
    ]
    ax.set_yticks(range(len(comparison)), names)
    ax.set_ylim(len(comparison) - 0.5, -0.5)
    ax.set_xlabel("paired difference (percentage points)")
    return ax


def look(condition: str) -> Scheme:
    """Return how a condition looks: its scheme's colour and marker, and its label.

    Parameters
    ----------
    condition : str
        A scheme's name, with other columns behind it as `compare` writes them:
        ``"he_normal"`` or ``"he_normal, relu"``.

    Returns
    -------
    Scheme
        Grey if no scheme of `SCHEMES` has that name.
    """
    name, comma, rest = condition.partition(", ")
    scheme = SCHEMES.get(name) or Scheme(name, 0.0)
    return replace(scheme, label=f"{scheme.label} ({rest})" if comma else scheme.label)


def _numbered(table: pd.DataFrame, keys: list[str]) -> dict[tuple[object, ...], int]:
    others = table[keys[1:]].itertuples(index=False, name=None)
    return {other: number for number, other in enumerate(dict.fromkeys(others))}
