"""A replication runs a page as it is, under seeds that are not its own."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
REPLICATE = DOCS / "replication" / "replicate.py"
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
    return replicate.Job(page, seeds, "sample", capability or replicate.paths()[0][0], threads)


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
    for capability, threads in dict.fromkeys(replicate.paths()):
        rows = replicate.run(job(replicate, page, 0, capability, threads))
        assert rows[1]["claim"] == f"{capability}, {threads}"
        assert rows[1]["path"].startswith(f"{capability}, {threads} thread")


def test_the_command_fails_where_a_claim_does(tmp_path):
    command = [sys.executable, REPLICATE, "--page", "nowhere", "--table", tmp_path / "t.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "derive_lecun_xavier_and_he" in done.stderr


def test_the_table_holds_what_the_site_shows(replicate):
    rows = replicate.read(replicate.TABLE)
    assert rows and set(rows[0]) == set(replicate.COLUMNS)
    assert {row["page"] for row in rows} == set(replicate.pages())
