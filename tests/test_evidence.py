"""The page on evidence shows each claim, and a verdict that flips fails the build."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

DOCS = Path(__file__).parents[1] / "docs"
FINDING = {"verdict": "noise", "value": 0.012, "low": -0.01, "high": 0.034}
CLAIM = {
    "page": "page",
    "verdict": "noise",
    "claim": "This one is better.",
    "measure": "the difference",
    "at": "What it shows",
    "unit": "points",
}


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import evidence

    (tmp_path / "tutorials").mkdir()
    (tmp_path / "tutorials" / "page.md").write_text("# P\n\n## What it shows\n\n## More\n")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\n"
        "extensions = ['myst_parser', 'sphinx.ext.autosectionlabel', 'evidence']\n"
        "autosectionlabel_prefix_document = True\n"
    )
    (tmp_path / "index.md").write_text(
        "# E\n\n```{evidence}\n```\n\n```{evidence} S9\n```\n\n```{toctree}\ntutorials/page\n```\n"
    )
    (tmp_path / "claims.yml").write_text(yaml.safe_dump({"S9": {"claims": {"S9.1": CLAIM}}}))

    def build(findings):
        block_vars = {
            "example_globals": {"findings": findings} if findings is not None else {},
            "target_file": str(tmp_path / "tutorials" / "page.py"),
        }
        assert evidence.scraper(SimpleNamespace(), block_vars, {}) == ""
        out = tmp_path / "_build"
        command = [sys.executable, "-m", "sphinx", "-qW", tmp_path, out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        page = out / "index.html"
        return done.returncode, done.stderr, page.read_text() if page.is_file() else ""

    return build


def test_a_claim_stands_with_its_verdict_value_and_page(build):
    status, errors, html = build({"S9.1": FINDING})
    assert status == 0, errors
    assert "This one is better." in html
    assert "verdict-noise" in html
    assert "1.2 points [−1.0, 3.4]" in html
    assert 'href="tutorials/page.html#what-it-shows"' in html


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ({"S9.1": FINDING | {"verdict": "holds"}}, "the verdict on claim S9.1 is 'holds'"),
        (None, "claim S9.1 has no finding"),
    ],
)
def test_a_verdict_that_flips_or_is_missing_fails_the_build(build, findings, words):
    status, errors, _ = build(findings)
    assert status != 0
    assert words in errors and "tutorials/page" in errors


def test_a_section_that_is_gone_fails_the_build(build, tmp_path):
    (tmp_path / "tutorials" / "page.md").write_text("# P\n\n## More\n")
    status, errors, _ = build({"S9.1": FINDING})
    assert status != 0
    assert "what it shows" in errors.lower()


def test_what_the_sample_cannot_judge_says_so(build):
    status, _, html = build({"S9.1": FINDING | {"verdict": None}})
    assert status == 0
    assert "not judged" in html and "needs the complete data" in html


def test_every_claim_names_a_tutorial_and_a_known_verdict():
    sources = yaml.safe_load((DOCS / "claims.yml").read_text(encoding="utf-8"))
    scripts = {path.stem for path in (DOCS / "gallery").glob("*.py")}
    verdicts = {"holds", "holds with conditions", "noise", "wrong"}
    for source in sources.values():
        for claim in source["claims"].values():
            assert claim["page"] in scripts
            assert claim["verdict"] in verdicts
