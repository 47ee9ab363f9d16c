"""Intervals and verdicts agree with scipy and keep their error rates."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from initguide import compare, describe, summarize


def table(values, **columns):
    """Return a runs table from ``{scheme: one value a seed}``."""
    return pd.concat(
        [
            pd.DataFrame({"scheme": name, "seed": range(len(v)), "value": v, **columns})
            for name, v in values.items()
        ],
        ignore_index=True,
    )


def normal(seed=0, shifts=(0.0, 0.5, 0.6), seeds=10):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=seeds)
    return {f"s{i}": s + common + 0.3 * rng.normal(size=seeds) for i, s in enumerate(shifts)}


def holm(p):
    """Adjust p-values by the definition: reject while p_(k) (m - k + 1) is small enough."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, so_far = {}, 0.0
    for k, i in enumerate(order):
        so_far = max(so_far, (len(p) - k) * p[i])
        adjusted[i] = min(so_far, 1.0)
    return [adjusted[i] for i in range(len(p))]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_summarize_is_students_interval(level):
    values = normal()
    rows = summarize(table(values), level=level).set_index("scheme")
    assert list(rows.columns) == ["n", "mean", "std", "low", "high"]
    assert list(rows.index) == list(values)
    for name, v in values.items():
        low, high = stats.t.interval(level, len(v) - 1, np.mean(v), stats.sem(v))
        expected = [10, np.mean(v), np.std(v, ddof=1), low, high]
        assert rows.loc[name].tolist() == pytest.approx(expected, rel=1e-12)


def test_one_more_run_lies_in_its_interval_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 6))
    runs = pd.DataFrame(
        {
            "scheme": np.repeat(np.arange(4000), 5),
            "seed": np.tile(np.arange(5), 4000),
            "value": draws[:, :5].ravel(),
        }
    )
    rows = summarize(runs, level=0.9, interval="run")
    inside = ((rows["low"] < draws[:, 5]) & (draws[:, 5] < rows["high"])).mean()
    assert abs(inside - 0.9) < 5 * (0.9 * 0.1 / 4000) ** 0.5  # standard errors
    with pytest.raises(ValueError, match="interval='seed': expected 'mean' or 'run'"):
        summarize(runs, interval="seed")


def test_summarize_keeps_conditions_apart():
    runs = pd.concat(
        table({"b": [1.0, 2.0], "a": [3.0, 4.0]}, step=step, split="test", metric=metric, lr=lr)
        for step, metric, lr in itertools.product([0, 5], ["loss", "accuracy"], [0.1, 1.0])
    )
    rows = summarize(runs, by=["scheme", "lr"])
    assert list(rows.columns[:5]) == ["scheme", "lr", "step", "split", "metric"]
    assert len(rows) == 16 and set(rows["n"]) == {2}
    assert list(dict.fromkeys(rows["scheme"])) == ["b", "a"]  # the table's order


def test_one_seed_has_no_interval():
    row = summarize(table({"a": [0.5]})).iloc[0]
    assert row["mean"] == 0.5 and row[["std", "low", "high"]].isna().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_run_is_not_skipped(bad):
    values = {"a": [1.0, 2.0, bad], "b": [1.0, 2.0, 2.5], "c": [7.0, 8.1, 8.4]}
    rows = summarize(table(values)).set_index("scheme")
    assert not math.isfinite(rows["mean"]["a"]) and rows["n"]["a"] == 3
    assert rows.loc["b"].notna().all()
    pairs = compare(table(values)).set_index(["a", "b"])
    assert pairs.loc[[("a", "b"), ("a", "c")], "p"].isna().all()
    assert (
        not pairs["real"][("a", "b")]
        and "not all values are finite" in pairs["verdict"][("a", "b")]
    )
    assert pairs["p"][("b", "c")] <= 3 * stats.ttest_rel(values["b"], values["c"]).pvalue
    text = describe(compare(table(values)), percent=False)
    assert "No verdict on a and b and c: not all values are finite." in text and "nan" not in text
    assert "b is lower than c, by" in text
    worse = compare(table({"a": [bad, 1.0, 2.0], "b": [1.0, bad, 2.0]}))
    assert worse["p"].isna().all() and not worse["real"].any()


def test_compare_is_the_paired_test_adjusted_by_holm():
    values = normal()
    pairs = compare(table(values))
    expected = [("s0", "s1"), ("s0", "s2"), ("s1", "s2")]
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == expected
    tests = [stats.ttest_rel(values[a], values[b]) for a, b in expected]
    assert pairs["p"].tolist() == pytest.approx(holm([t.pvalue for t in tests]), rel=1e-9)
    for test, (_, row) in zip(tests, pairs.iterrows(), strict=True):
        low, high = test.confidence_interval(1 - 0.05 / 3)  # Bonferroni
        d = np.subtract(values[row["a"]], values[row["b"]])
        wanted = [10, d.mean(), low, high]
        assert row[["n", "difference", "low", "high"]].tolist() == pytest.approx(wanted, rel=1e-9)
    assert pairs["real"].tolist() == [True, True, False]
    assert pairs["verdict"].tolist() == [
        "s0 is lower than s1",
        "s0 is lower than s2",
        "no difference shown between s1 and s2",
    ]


def test_holm_textbook_example():
    from initguide.statistics import _holm

    p = pd.Series([0.01, 0.04, 0.03, 0.005])  # e.g. Wikipedia: 0.03, 0.06, 0.06, 0.02
    assert _holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        assert _holm(pd.Series(p)).tolist() == pytest.approx(holm(p))


def test_pairs_are_matched_by_seed_not_by_position():
    values = normal()
    runs = table(values)
    shuffled = runs.sample(frac=1, random_state=0)
    left = compare(runs).set_index(["a", "b"])
    right = compare(shuffled)
    for _, row in right.iterrows():
        key = (row["a"], row["b"])
        sign = 1 if key in left.index else -1
        same = left.loc[key if sign == 1 else key[::-1]]
        assert (
            row["p"] == pytest.approx(same["p"]) and row["difference"] == sign * same["difference"]
        )
    only = compare(
        pd.concat([runs, pd.DataFrame({"scheme": ["s0"], "seed": [99], "value": [1e9]})])
    )
    assert only["n"].tolist() == [10, 10, 10] and only["p"].tolist() == left["p"].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_an_interval_without_zero_is_always_real(seed):
    pairs = compare(table(normal(seed, shifts=(0, 0.2, 0.3, 0.5), seeds=6)))
    excludes = (pairs["low"] > 0) | (pairs["high"] < 0)
    assert (pairs["real"] | ~excludes).all()


@pytest.mark.parametrize("baseline", [None, "s1"])
def test_family_wise_error_under_the_null(baseline):
    draws, wrong, missed = 400, 0, 0
    for seed in range(draws):
        pairs = compare(table(normal(seed, shifts=(0, 0, 0, 0), seeds=5)), baseline=baseline)
        wrong += pairs["real"].any()
        missed += ((pairs["low"] > 0) | (pairs["high"] < 0)).any()
    sigma = math.sqrt(0.05 * 0.95 / draws)
    assert 0.005 < wrong / draws < 0.05 + 4 * sigma
    assert missed / draws < 0.05 + 4 * sigma


def test_baseline_is_subtracted_and_corrects_for_fewer_pairs():
    values = normal()
    pairs = compare(table(values), baseline="s1")
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == [("s0", "s1"), ("s2", "s1")]
    assert pairs["difference"][0] == pytest.approx(np.mean(values["s0"]) - np.mean(values["s1"]))
    raw = [stats.ttest_rel(values[a], values["s1"]).pvalue for a in ("s0", "s2")]
    assert pairs["p"].tolist() == pytest.approx(holm(raw))


def test_rows_are_chosen_by_metric_split_and_step():
    parts = [
        table(normal(i), step=step, split=split, metric=metric)
        for i, (step, split, metric) in enumerate(
            itertools.product([0, 4], ["test", "batch"], ["loss", "accuracy"])
        )
    ]
    runs = pd.concat(parts)
    assert compare(runs).equals(compare(table(normal(5))))  # step 4, test, accuracy
    chosen = compare(runs, metric="loss", split="batch", step=0)
    assert chosen.equals(compare(table(normal(2))))


def test_pairs_without_spread():
    pairs = compare(table({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [0.5, 1.5]}))
    assert pairs["real"].tolist() == [False, True, True]
    assert pairs["p"].tolist() == [1.0, 0.0, 0.0]
    assert (pairs["low"] == pairs["high"]).all()


@pytest.mark.parametrize("size", [1e-310, 1e-170, 1e-160, 1.0, 1e170, 1e300])
def test_the_size_of_values_does_not_matter(size):
    # Squares of 1e-170 vanish: a spread of 0 would make any difference certain.
    unit = 2.0 ** math.frexp(size)[1]  # which scales exactly
    values = {"a": np.array([1.0, 3.0, 2.0, 4.0]), "b": np.array([2.0, 1.0, 4.0, 3.5])}
    plain, scaled = (table({k: f * v for k, v in values.items()}) for f in (1.0, unit))
    expected, found = compare(plain), compare(scaled)
    assert found["verdict"].item() == "no difference shown between a and b"
    assert found["p"].item() == pytest.approx(expected["p"].item(), rel=1e-12)
    for column in ("difference", "low", "high"):
        assert found[column].item() / unit == pytest.approx(expected[column].item(), rel=1e-12)
    expected, found = summarize(plain), summarize(scaled)
    for column in ("mean", "std", "low", "high"):
        assert (found[column] / unit).tolist() == pytest.approx(
            expected[column].tolist(), rel=1e-12
        )


def test_conditions_of_two_columns():
    runs = pd.concat(table(normal(i, (0, 1)), activation=a) for i, a in enumerate(["relu", "tanh"]))
    pairs = compare(runs.reset_index(drop=True), by=["scheme", "activation"])
    assert pairs["a"][0] == "s0, relu" and len(pairs) == 6


def test_describe_names_losers_and_what_is_not_shown():
    values = normal(shifts=(0.5, 0.0, 0.45))
    runs = table(dict(zip(["he_normal", "zeros", "mine"], values.values(), strict=True)))
    pairs = compare(runs)
    text = describe(pairs)
    points = 100 * pairs["difference"].abs()[pairs["real"]]
    by = f"{points.min():.2f} to {points.max():.2f} points"
    assert f"zeros is lower than every other, by {by}." in text
    assert "No difference is shown between He normal and mine" in text
    row = pairs[~pairs["real"]].iloc[0]
    limit = 100 * max(abs(row["low"]), abs(row["high"]))
    assert text.endswith(f"if there is one, it is below {limit:.2f} points.")
    assert "points" not in describe(pairs, percent=False)
    assert "No difference" not in describe(pairs[pairs["real"]])


@pytest.mark.parametrize("function", [summarize, compare])
@pytest.mark.parametrize(
    ("runs", "options", "words"),
    [
        (table(normal()).drop(columns="seed"), {}, "no column 'seed'.*History.frame"),
        (table(normal()), {"by": "optimizer"}, "no column 'optimizer'.*'scheme', 'seed'"),
        (table(normal()).iloc[:0], {}, "is empty.*a row for each run"),
        (table(normal()), {"level": 95}, "level=95.*between 0 and 1, such as 0.95"),
        (table(normal()), {"level": 1.0}, "level=1.0.*between 0 and 1"),
        (pd.concat([table(normal())] * 2), {}, "seed.*stands twice.*by="),
    ],
)
def test_errors(function, runs, options, words):
    with pytest.raises(ValueError, match=words):
        function(runs, **options)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (normal(), {"baseline": "he"}, "baseline='he' is no condition.*'s0', 's1'"),
        (normal(), {"metric": "auc"}, "no rows of metric='auc'.*drop_duplicates"),
        (normal(), {"step": 7}, "no rows of .*step=7.*drop_duplicates"),
        (normal(shifts=[0]), {}, r"\['s0'\] is one condition.*at least two"),
        (normal(seeds=1), {}, "share 1 seeds: expected at least 2.*range"),
    ],
)
def test_nothing_to_compare(values, options, words):
    with pytest.raises(ValueError, match=words):
        compare(table(values, step=3, split="test", metric="accuracy"), **options)


def test_each_condition_is_compared_at_its_own_last_step():
    rows = [("a", s, 100, 0.9 + s / 1e3) for s in range(3)]
    rows += [("b", s, t, t / 1e3) for s in range(3) for t in (100, 200)]
    runs = pd.DataFrame(rows, columns=["scheme", "seed", "step", "value"])
    assert compare(runs)["difference"].item() == pytest.approx(0.901 - 0.2)
