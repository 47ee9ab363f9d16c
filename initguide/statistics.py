"""Which differences are real? Means and paired differences over seeds, with intervals.

All functions take the runs table (columns ``scheme, seed, step, split, metric, value``) and
return a table. The assumption throughout: over seeds, values (or differences of pairs) are
independent and close enough to normal for Student's t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initguide.schemes import SCHEMES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare", "describe", "summarize"]


def summarize(
    runs: pd.DataFrame,
    *,
    by: str | Sequence[str] = "scheme",
    level: float = 0.95,
    interval: str = "mean",
) -> pd.DataFrame:
    r"""Average over seeds and say how sure the average is.

    Parameters
    ----------
    runs : pandas.DataFrame
        The runs table; further columns may be named in ``by``.
    by : str or sequence of str
        Columns that tell conditions apart.
    level : float
        Confidence of the intervals.
    interval : {"mean", "run"}
        Where the mean over all seeds lies, or where one more run will.

    Returns
    -------
    pandas.DataFrame
        A row for each condition and each ``step, split, metric`` that the table has, in the
        order of their first rows, with columns ``n, mean, std, low, high``: the number of
        seeds, mean and standard deviation over them, and the t-interval of the mean or of one
        more run. One seed has no interval: ``std, low, high`` are NaN.

    Raises
    ------
    ValueError
        If a column is missing, the table is empty, a seed stands twice in a condition,
        ``level`` is not between 0 and 1, or ``interval`` is another word.

    Notes
    -----
    Of the mean :math:`\bar x \pm t_{n-1} s / \sqrt n`, of one more run
    :math:`\bar x \pm t_{n-1} s \sqrt{1 + 1/n}`.

    Examples
    --------
    >>> import pandas as pd
    >>> runs = pd.DataFrame({"scheme": "he", "seed": range(4), "value": [1.0, 2.0, 3.0, 4.0]})
    >>> row = summarize(runs).iloc[0]
    >>> bool(row["low"] < row["mean"] < row["high"])
    True
    """
    if interval not in ("mean", "run"):
        raise ValueError(f"interval={interval!r}: expected 'mean' or 'run'.")
    keys = _check(runs, by, level)
    keys += [key for key in ("step", "split", "metric") if key in runs and key not in keys]
    repeated = runs.duplicated([*keys, "seed"])
    if repeated.any():
        raise ValueError(
            f"seed {runs.loc[repeated, 'seed'].iloc[0]} stands twice in one condition: expected "
            f"one row for each seed and {keys}. Name the column that tells them apart in by=."
        )
    table = (
        runs.groupby(keys, sort=False, observed=True, dropna=False)["value"]
        .agg(n="size", mean=_mean, std=_std)
        .reset_index()
    )
    factor = (1 / table["n"] + (interval == "run")) ** 0.5
    half = _t_quantile(table["n"] - 1, level) * table["std"] * factor
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def compare(
    runs: pd.DataFrame,
    *,
    metric: str = "accuracy",
    split: str = "test",
    step: int | None = None,
    by: str | Sequence[str] = "scheme",
    baseline: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    r"""Compare conditions in pairs, seed by seed, and say which differences are real.

    Runs of one seed share their random numbers, so the noise that they have in common cancels
    in their difference.

    Parameters
    ----------
    runs : pandas.DataFrame
        The runs table.
    metric, split : str
        What to compare; ignored if the table has no such column.
    step : int, optional
        When; each condition's last step by default.
    by : str or sequence of str
        Columns that tell conditions apart.
    baseline : str, optional
        Compare the others with this condition only, it being *b*; all pairs by default.
    level : float
        Simultaneous confidence over all pairs of the table.

    Returns
    -------
    pandas.DataFrame
        A row a pair with columns ``a, b, n, difference, low, high, p, real, verdict``:
        the mean of *a* minus *b* over the ``n`` seeds that both have, its interval, the
        Holm-adjusted p-value of the paired t-test, whether that is below ``1 - level``, and the
        same in words. Values that are not finite make no verdict: ``p`` is NaN.

    Raises
    ------
    ValueError
        If a column is missing, nothing is left to compare, ``baseline`` is no condition, or two
        conditions share fewer than two seeds.

    Notes
    -----
    The intervals are Bonferroni's, simultaneous over the :math:`m` pairs:
    :math:`\bar d \pm t_{n-1}(1 - \tfrac{1 - \text{level}}{2m})\, s_d / \sqrt n`. Holm's step-down
    test is uniformly at least as sharp, so that a difference may be real whose interval just
    touches zero; never the other way round. [holm1979]_

    Examples
    --------
    >>> import pandas as pd
    >>> runs = pd.DataFrame(
    ...     {"scheme": ["he"] * 3 + ["zeros"] * 3, "seed": [0, 1, 2] * 2,
    ...      "value": [0.97, 0.98, 0.97, 0.1, 0.11, 0.09]}
    ... )
    >>> compare(runs)["verdict"].item()
    'he is higher than zeros'
    """
    import pandas as pd
    from scipy import stats

    keys = _check(runs, by, level)
    for column, value in (("metric", metric), ("split", split)):
        if column in runs:
            runs = runs[runs[column] == value]
    if "step" in runs:
        last = runs.groupby(keys)["step"].transform("max")
        runs = runs[runs["step"] == (last if step is None else step)]
    if runs.empty:
        raise ValueError(
            f"no rows of metric={metric!r}, split={split!r}, step={step!r}: expected values that "
            "the table has. Look at table[['metric', 'split', 'step']].drop_duplicates()."
        )
    label = runs[keys].astype(str).agg(", ".join, axis=1)
    if pd.DataFrame({"label": label, "seed": runs["seed"]}).duplicated().any():
        raise ValueError(
            f"a seed stands twice in one condition of {keys}: expected one row for each. "
            "Name the column that tells them apart in by=."
        )
    wide = runs.assign(label=label).pivot(index="seed", columns="label", values="value")
    names = list(dict.fromkeys(label))
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline={baseline!r} is no condition: expected one of {names}.")
    pairs = [
        (a, b)
        for a, b in itertools.combinations(names, 2)
        if baseline is None or baseline in (a, b)
    ]
    if not pairs:
        raise ValueError(
            f"{names} is one condition of {keys}: expected at least two to compare. Train more "
            "schemes, or name the column that tells conditions apart in by=."
        )
    pairs = [(b, a) if a == baseline else (a, b) for a, b in pairs]
    rows = []
    for a, b in pairs:
        both = sorted(set(runs["seed"][label == a]) & set(runs["seed"][label == b]))
        d = wide.loc[both, a] - wide.loc[both, b]
        if len(d) < 2:
            raise ValueError(
                f"{a!r} and {b!r} share {len(d)} seeds: expected at least 2. Train both with the "
                "same seeds, for example seeds=range(10)."
            )
        _, scale = _scaled(d)
        mean, error = _mean(d / scale), _std(d / scale) / len(d) ** 0.5
        half = stats.t.ppf(1 - (1 - level) / 2 / len(pairs), len(d) - 1) * error
        # Equal pairs have no spread: an exact zero is no difference, any other is certain.
        p = 2 * stats.t.sf(abs(mean) / error, len(d) - 1) if error else float(mean == 0)
        rows.append((a, b, len(d), scale * mean, scale * (mean - half), scale * (mean + half), p))
    table = pd.DataFrame(rows, columns=["a", "b", "n", "difference", "low", "high", "p"])
    table["p"] = _holm(table["p"])
    table["real"] = table["p"] < 1 - level
    table["verdict"] = [_verdict(pair) for pair in table.to_dict("records")]
    return table


def _verdict(pair: Mapping[Hashable, Any]) -> str:
    a, b = pair["a"], pair["b"]
    if math.isnan(pair["p"]):
        return f"no verdict on {a} and {b}: not all values are finite"
    if not pair["real"]:
        return f"no difference shown between {a} and {b}"
    return f"{a} is {'higher' if pair['difference'] > 0 else 'lower'} than {b}"


def describe(comparison: pd.DataFrame, *, percent: bool = True) -> str:
    """Say in a few sentences which differences of a comparison are real.

    A difference is told from its lower side: for a loss, that is the better one.

    Parameters
    ----------
    comparison : pandas.DataFrame
        What `compare` returned.
    percent : bool
        Whether the values are fractions, to be told in percentage points.

    Returns
    -------
    str
        One sentence for each condition that is lower than others, one that names the differences
        which the seeds do not show, and one the pairs whose values are not all finite.
    """
    scale, unit = (100, " points") if percent else (1, "")
    conditions = {*comparison["a"], *comparison["b"]}
    sentences = []
    real = comparison[comparison["real"]]
    up = real["difference"] > 0
    losers, winners = real["b"].where(up, real["a"]), real["a"].where(up, real["b"])
    size = real["difference"].abs() * scale
    for loser in dict.fromkeys(losers):
        by, beaten = size[losers == loser], list(winners[losers == loser])
        everyone = 1 < len(beaten) == len(conditions) - 1
        span = f"{by.min():.2f}" if len(by) == 1 else f"{by.min():.2f} to {by.max():.2f}"
        than = "every other" if everyone else _listing(map(_label, beaten))
        sentences.append(f"{_label(loser)} is lower than {than}, by {span}{unit}.")
    finite = comparison["p"].notna()
    undecided = comparison[finite & ~comparison["real"]]
    if len(undecided):
        widest = (undecided[["low", "high"]].abs().max(axis=1) * scale).max()
        names = dict.fromkeys([*undecided["a"], *undecided["b"]])
        if len(undecided) == len(names) * (len(names) - 1) // 2:  # every pair of them
            where = f"between {_listing(map(_label, names))}"
        elif len(undecided) > 6:  # more than a reader wants to hear: the table has them
            where = f"in {len(undecided)} of the {len(comparison)} pairs"
        else:
            where = f"between {_couples(undecided)}"
        sentences.append(
            f"No difference is shown {where}: if there is one, it is below {widest:.2f}{unit}."
        )
    if not finite.all():
        couples = _couples(comparison[~finite])
        sentences.append(f"No verdict on {couples}: not all values are finite.")
    return " ".join(sentences)


def _couples(pairs: pd.DataFrame) -> str:
    others = {a: pairs["b"][pairs["a"] == a] for a in dict.fromkeys(pairs["a"])}
    return "; ".join(f"{_label(a)} and {_listing(map(_label, b))}" for a, b in others.items())


def _label(condition: str) -> str:
    name, comma, rest = condition.partition(", ")
    label = SCHEMES[name].label if name in SCHEMES else name
    return f"{label} ({rest})" if comma else label


def _listing(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _check(runs: pd.DataFrame, by: str | Sequence[str], level: float) -> list[str]:
    import pandas as pd

    keys = [by] if isinstance(by, str) else list(by)
    missing = [column for column in (*keys, "seed", "value") if column not in runs]
    if missing:
        raise ValueError(
            f"the table has no column {missing[0]!r}: expected scheme, seed, step, split, metric, "
            f"value and it has {list(runs.columns)}. Pass History.frame()."
        )
    if runs.empty:
        raise ValueError("the table is empty: expected a row for each run. Pass History.frame().")
    if not pd.api.types.is_numeric_dtype(runs["value"]):
        raise ValueError(
            f"column 'value' holds {runs['value'].dtype}: expected numbers. Convert it with "
            ".astype(float)."
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a confidence between 0 and 1, such as 0.95.")
    return keys


def _mean(values: pd.Series) -> float:
    # numpy's: pandas skips NaN, and the mean of the seeds that survived would pass for all's.
    v, scale = _scaled(values)
    with np.errstate(invalid="ignore"):
        return scale * float(v.mean())


def _std(values: pd.Series) -> float:
    v, scale = _scaled(values)
    with np.errstate(invalid="ignore"):  # a run that overflowed: inf - inf
        return scale * float(v.std(ddof=1)) if len(v) > 1 else math.nan


def _scaled(values: pd.Series) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    # By a power of two, which rounds nothing: the square of 1e-170 vanishes, 1e170's overflows.
    v = values.to_numpy(np.float64)
    largest = float(np.abs(v).max())
    scale = math.ldexp(1, math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0
    return v / scale, scale


def _t_quantile(degrees: pd.Series, level: float) -> pd.Series:
    from scipy import stats

    return degrees.where(degrees > 0).map(lambda n: float(stats.t.ppf((1 + level) / 2, n)))


def _holm(p: pd.Series) -> pd.Series:
    # Holm 1979: the k-th smallest of m p-values times m - k + 1, kept in order, at most 1.
    ordered = p.sort_values()
    return ordered.mul([*range(len(p), 0, -1)]).cummax().clip(upper=1).reindex(p.index)
