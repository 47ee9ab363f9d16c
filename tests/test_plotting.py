"""A figure shows the table's numbers in the scheme's looks."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from initguide import SCHEMES, compare, summarize
from initguide.plotting import STYLE, look, plot_comparison, plot_curves, plot_means

NAMES = ["he_normal", "xavier_uniform", "mine"]
RNG = np.random.default_rng(0)
RUNS = pd.DataFrame(
    [
        (scheme, seed, step, "test", metric, 0.1 * i + 0.05 * step + 0.02 * RNG.normal())
        for i, scheme in enumerate(NAMES)
        for seed in range(5)
        for step in (0, 10, 20)
        for metric in ("accuracy", "loss")
    ],
    columns=["scheme", "seed", "step", "split", "metric", "value"],
)
TWO = pd.concat([RUNS.assign(activation="relu"), RUNS.assign(activation="tanh")], ignore_index=True)


@pytest.fixture(autouse=True)
def figures():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def summary(metric="accuracy"):
    return summarize(RUNS[RUNS.metric == metric]).set_index(["scheme", "step"])


def same_color(drawn, scheme):
    return to_hex(drawn) == to_hex(look(scheme).color)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_curves_are_means_with_their_intervals(metric):
    ax = plt.figure().subplots()
    assert plot_curves(RUNS, metric=metric, ax=ax) is ax
    wanted = summary(metric)
    assert len(ax.lines) == len(ax.collections) == len(NAMES)
    for name, line, band in zip(NAMES, ax.lines, ax.collections, strict=True):
        assert same_color(line.get_color(), name) and same_color(band.get_facecolor()[0], name)
        assert line.get_marker() == look(name).marker and line.get_label() == look(name).label
        np.testing.assert_allclose(line.get_xydata()[:, 0], [0, 10, 20])
        np.testing.assert_allclose(line.get_ydata(), wanted.loc[name, "mean"])
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(9)}
        for step, row in wanted.loc[name].round(9).iterrows():
            assert {(step, row["low"]), (step, row["high"])} <= corners
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [look(n).label for n in NAMES]
    assert "step" in ax.get_xlabel() and ax.get_ylabel() == f"test {metric}"
    ax.figure.canvas.draw()
    assert ("%" in ax.get_yticklabels()[0].get_text()) == (metric == "accuracy")


def test_means_show_every_seed_and_the_interval_at_the_last_step():
    ax = plt.figure().subplots()
    assert plot_means(RUNS, ax=ax) is ax
    wanted = summary().xs(20, level="step")
    assert [t.get_text() for t in ax.get_yticklabels()] == [look(n).label for n in NAMES]
    for row, (name, container) in enumerate(zip(NAMES, ax.containers, strict=True)):
        line, _, (bar,) = container.lines
        assert line.get_xydata().tolist() == [[pytest.approx(wanted["mean"][name]), row]]
        assert same_color(line.get_color(), name) and line.get_marker() == look(name).marker
        ends = bar.get_segments()[0][:, 0]
        np.testing.assert_allclose(ends, wanted.loc[name, ["low", "high"]].astype(float))
        (seeds,) = (
            x
            for x in ax.lines
            if x.get_marker() == "|" and row in x.get_ydata() and len(x.get_xdata()) == 5
        )
        at_end = RUNS[(RUNS.scheme == name) & (RUNS.step == 20) & (RUNS.metric == "accuracy")]
        assert sorted(seeds.get_xdata()) == sorted(at_end.value)


def test_a_second_column_changes_dashes_and_fill():
    curves, means = plt.figure().subplots(2)
    plot_curves(TWO, by=["scheme", "activation"], ax=curves)
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in curves.lines}
    assert looks["He normal (relu)"] == (SCHEMES["he_normal"].color, "-")
    assert looks["He normal (tanh)"] == (SCHEMES["he_normal"].color, "--")
    plot_means(TWO, by=["scheme", "activation"], ax=means)
    fills = [container.lines[0].get_markerfacecolor() for container in means.containers]
    assert fills.count("none") == 3 and SCHEMES["he_normal"].color in fills


def test_comparison_is_in_points_and_real_ones_are_filled():
    pairs = compare(RUNS.replace({"scheme": {"mine": "zeros"}}))
    pairs.loc[1, "real"] = False
    ax = plot_comparison(pairs)
    assert ax is plt.gca()
    for (_, pair), container in zip(pairs.iterrows(), ax.containers, strict=True):
        line, _, (bar,) = container.lines
        assert line.get_xdata()[0] == pytest.approx(100 * pair["difference"])
        np.testing.assert_allclose(
            bar.get_segments()[0][:, 0], [100 * pair["low"], 100 * pair["high"]]
        )
        assert (line.get_markerfacecolor() != "none") == pair["real"]
    assert ax.get_yticklabels()[0].get_text() == "He normal - Xavier uniform"
    assert "points" in ax.get_xlabel()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_looks_the_same_everywhere(name):
    assert look(name) == SCHEMES[name]
    behind = look(f"{name}, relu, 0.1")
    assert (behind.color, behind.marker) == (SCHEMES[name].color, SCHEMES[name].marker)
    assert behind.label == f"{SCHEMES[name].label} (relu, 0.1)"


def test_an_unknown_condition_is_grey():
    assert look("mine, tanh").label == "mine (tanh)" and look("mine").color == "#666666"


def test_diverged_runs_can_be_drawn():
    broken = RUNS.copy()
    broken.loc[(broken.scheme == "mine") & (broken.seed == 0), "value"] = float("nan")
    one, two, three = plt.figure().subplots(3)
    plot_curves(broken, ax=one)
    plot_means(broken, ax=two)
    plot_comparison(compare(broken), ax=three)
    one.figure.canvas.draw()


def test_the_style_sheet_is_one_matplotlib_knows():
    with plt.style.context(STYLE):
        assert mpl.rcParams["axes.grid"]
