"""A claim holds its value against its bounds, and tells whoever listens."""

import json
import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from initguide import claim, show
from initguide.claims import listen


@pytest.fixture
def heard():
    made = []
    with listen(made.append):
        yield made


@pytest.mark.parametrize(
    ("value", "bounds", "held"),
    [
        (0.6, {"above": 0.5}, True),
        (0.5, {"above": 0.5}, False),
        (0.4, {"below": 0.5}, True),
        (0.5, {"below": 0.5}, False),
        (0.4, {"above": 0.5, "below": 0.7}, False),
        (0.6, {"above": 0.5, "below": 0.7}, True),
        (3, {"equal": 3}, True),
        (3 + 1e-12, {"equal": 3}, False),
        (math.nan, {"above": -math.inf}, False),
        (math.nan, {"equal": math.nan}, False),
        (math.inf, {"above": 1}, True),
        (True, {}, True),
        (np.bool_(False), {}, False),
        (torch.tensor(0.6), {"above": 0.5}, True),
        (torch.tensor(0.6, requires_grad=True), {"above": np.float32(0.5)}, True),
        (torch.tensor(0.6, dtype=torch.bfloat16), {"above": torch.tensor(0.7)}, False),
        (torch.tensor(True), {}, True),
        ([5.0, math.inf], {"below": math.inf}, False),
        ([math.inf, 0.0], {"equal": math.inf}, False),
    ],
)
def test_a_claim_holds_within_its_bounds(heard, value, bounds, held):
    made = claim("it is so", value, **bounds)
    assert made.held is held
    assert heard == [made]
    assert json.loads(json.dumps(asdict(made)))["text"] == "it is so"


@pytest.mark.parametrize("wrap", [list, np.array, torch.tensor, pd.Series])
def test_the_value_nearest_to_its_bound_decides(heard, wrap):
    assert claim("all are above", wrap([3.0, 1.5, 2.0]), above=1).value == 1.5
    assert claim("all are below", wrap([3.0, 1.5, 2.0]), below=2.5).value == 3.0
    assert claim("all are between", wrap([1.125, 1.9375]), above=1, below=2).value == 1.9375
    assert math.isnan(claim("none is missing", wrap([1.0, math.nan]), above=0).value)


def test_a_claim_knows_its_line(heard):
    line = claim("it stands here", True).line
    assert line == sys._getframe().f_lineno - 1


@pytest.mark.parametrize(
    ("value", "bounds"),
    [(1.0, {}), ([], {"above": 0}), (True, {"above": 0}), ([True, False], {})],
)
def test_nothing_to_decide_is_an_error(value, bounds):
    with pytest.raises(ValueError, match="expected one bool"):
        claim("it is so", value, **bounds)


def test_a_script_alone_says_what_was_expected_and_found_and_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from initguide import claim, show\n"
        "claim('two is more than three', 2, above=3)\n"
        "claim('it is so', True)\n"
        "show([1, 2])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "Did not hold: two is more than three (expected above 3, found 2)",
        "Held: it is so",
        "[1, 2]",
    ]


def test_nothing_is_printed_where_somebody_listens(heard, capsys):
    claim("it is so", True)
    assert show("a table") == "a table"
    assert not capsys.readouterr().out


def test_an_error_ends_the_listening():
    made = []
    with pytest.raises(ZeroDivisionError), listen(made.append):
        raise ZeroDivisionError
    claim("it is so", True)
    assert not made
