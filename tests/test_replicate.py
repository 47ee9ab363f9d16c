"""A replication runs a page as it is, under seeds that are not its own."""

import csv
import sys
from pathlib import Path

import pytest
from filelock import Timeout

DOCS = Path(__file__).parents[1] / "docs"
PAGE = """
import numpy as np
import torch

from initguide import Ensemble, claim, datasets, mlp

torch.manual_seed(0)
claim("torch", torch.rand(()), above=0)
generator = torch.Generator().manual_seed(0)
claim("generator", torch.rand((), generator=generator), above=0)
claim("numpy", np.random.default_rng(0).random(), above=0)
np.random.seed(0)
claim("numpy's old way", np.random.rand(), above=0)
claim("numpy's old state", np.random.RandomState(0).rand(), above=0)
claim("plane", datasets.plane(n=4, n_test=4, seed=0).train_inputs[0, 0], above=0)
ensemble = Ensemble.build(lambda: mlp(2, 2, 2), schemes=["he_normal"], seeds=[0])
claim("ensemble", ensemble.parameters["hidden1.weight"][0, 0, 0], above=-100)
claim("exact", 1.0, equal=1)
"""


@pytest.fixture
def replicate(monkeypatch):
    pytest.importorskip("sphinx", reason="the site's own tools are not installed")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    monkeypatch.syspath_prepend(DOCS / "replication")
    import replicate

    return replicate


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    return page


def job(replicate, page, seeds, capability=None, threads=1):
    return replicate.Job(
        page, seeds, "sample", capability or replicate.float_paths()[0][0], threads
    )


def values(rows):
    return {row["claim"]: row["value"] for row in rows if "runs to its end" not in row["claim"]}


def test_every_stream_of_random_numbers_shifts(replicate, page):
    own, own_again, other = (
        values(replicate.run(job(replicate, page, seeds))) for seeds in (0, 0, 1000)
    )
    assert own == own_again
    assert {name for name in own if own[name] == other[name]} == {"exact"}


def test_a_shift_is_that_seed(replicate, page):
    shifted = values(replicate.run(job(replicate, page, 7)))
    page.write_text(PAGE.replace("(0)", "(7)").replace("seed=0", "seed=7").replace("=[0]", "=[7]"))
    named = values(replicate.run(job(replicate, page, 0)))
    assert shifted == named


def test_a_failed_claim_or_page_does_not_stop_the_others(replicate, page, tmp_path):
    page.write_text("from initguide import claim\nclaim('no', 1, above=2)\nclaim('yes', True)\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    table = tmp_path / "table.csv"
    jobs = [job(replicate, p, s) for p in (broken, page) for s in (1, 2)]
    assert len(list(replicate.replicate(jobs, table, 2))) == 4
    with table.open() as file:
        rows = list(csv.DictReader(file))
    held = {(row["page"], row["claim"], row["seeds"]): row["held"] for row in rows}
    assert "ZeroDivisionError" in next(r["expected"] for r in rows if r["page"] == "broken")
    assert len(replicate.summary(rows).splitlines()) == 5  # a stopped page has no value
    assert held["page", "no", "1"] == held["page", "no", "2"] == "False"
    assert held["page", "yes", "1"] == "True"
    assert held["broken", "the page runs to its end", "1"] == "False"
    assert [row["line"] for row in rows if row["claim"] == "no"] == ["2", "2"]
    assert {row["data"] for row in rows} == {"sample"}


def test_what_was_run_is_not_run_again(replicate, page, tmp_path):
    table = tmp_path / "table.csv"
    first = [job(replicate, page, 1)]
    assert len(list(replicate.replicate(first, table, 1))) == 1
    before = table.read_text()
    assert list(replicate.replicate(first, table, 1)) == []
    assert table.read_text() == before
    # Other prose is the same page; other code is not, and its rows make way.
    page.write_text("# A comment.\n" + PAGE)
    assert list(replicate.replicate(first, table, 1)) == []
    page.write_text(PAGE + "claim('one more', True)\n")
    assert len(list(replicate.replicate(first, table, 1))) == 1
    assert len(table.read_text().splitlines()) == len(before.splitlines()) + 1


def test_the_path_is_the_one_that_was_asked_for(replicate, page):
    page.write_text(
        "import torch\nfrom initguide import claim\n"
        "path = torch.backends.cpu.get_cpu_capability()\n"
        "claim(f'{path}, {torch.get_num_threads()}', True)\n"
    )
    for capability, threads in dict.fromkeys(replicate.float_paths()):
        rows = replicate.run(job(replicate, page, 0, capability, threads))
        assert rows[1]["claim"] == f"{capability}, {threads}"
        assert rows[1]["float_path"].startswith(f"{capability}, {threads} thread")


def test_a_page_that_is_killed_is_a_row_and_runs_again(replicate, page, tmp_path):
    page.write_text("import os\nos._exit(9)\n")
    table = tmp_path / "table.csv"
    (rows,) = replicate.replicate([job(replicate, page, 1)], table, 1)
    assert [(row["held"], row["expected"][:8]) for row in rows] == [(False, "status 9")]
    assert len(list(replicate.replicate([job(replicate, page, 1)], table, 1))) == 1
    assert len(replicate.read(table)) == 1


def test_a_page_that_changed_while_it_ran_leaves_no_row(replicate, page):
    page.write_text(f"import pathlib\npathlib.Path({str(page)!r}).write_text('1 / 0')\n")
    assert replicate.run(job(replicate, page, 1)) == []


def test_two_do_not_write_one_table(replicate, page, tmp_path):
    table = tmp_path / "table.csv"
    jobs = [job(replicate, page, seeds) for seeds in (1, 2)]
    first = replicate.replicate(jobs, table, 1)
    next(first)
    with pytest.raises(Timeout):
        next(replicate.replicate(jobs, table, 1))
    first.close()
    assert len(list(replicate.replicate(jobs, table, 1))) == 1


def test_the_command_fails_where_a_claim_does(replicate, page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(replicate, "pages", lambda: {"page": page})
    arguments = ["replicate", "--times", "2", "--table", str(tmp_path / "table.csv")]
    monkeypatch.setattr(sys, "argv", arguments)
    page.write_text("from initguide import claim\nclaim('yes', 3, above=2)\n")
    assert replicate.main() == 0
    assert "4 of 4 held, in 2 runs of pages, 0 of which" in capsys.readouterr().out
    page.write_text("from initguide import claim\nclaim('no', 1, above=2)\n1 / 0\n")
    assert replicate.main() == 1
    told = capsys.readouterr().out
    assert "0 of 4 held" in told
    assert "page, line 2, seeds +1000, sample" in told
    assert "did not hold: no (expected above 2, found 1.0)" in told
    assert "ZeroDivisionError" in told


def test_a_hash_is_of_the_code_not_of_the_words(replicate, tmp_path):
    def code(text):
        (tmp_path / "page.py").write_text(text)
        return replicate.code(tmp_path / "page.py")

    assert code('"""One."""\nx = f(1)  # why\n') == code('"""Two."""\n\n# %%\nx = f( 1 )\n')
    assert len({code(f"x = {value}\n") for value in ("1", "1.0", "'1'", "-1", "[1]", "f(1)")}) == 6


def test_the_table_holds_what_the_site_shows(replicate):
    rows = replicate.read(replicate.TABLE)
    assert rows and set(rows[0]) == set(replicate.COLUMNS)
    assert {row["page"] for row in rows} == set(replicate.pages())
    assert all(row["held"] == "True" for row in rows)
