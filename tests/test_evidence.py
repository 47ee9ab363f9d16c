"""The page on evidence judges each claim by the number beside it, and marks what does not hold."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

DOCS = Path(__file__).parents[1] / "docs"
FINDING = {"value": 0.012, "low": -0.01, "high": 0.034}
CLAIM = {
    "page": "page",
    "verdict": "no difference",
    "above": -0.05,
    "below": 0.05,
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
        "extensions = ['myst_parser', 'sphinx.ext.autosectionlabel', 'evidence', 'page_claims']\n"
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
    assert "verdict-no-difference" in html
    assert "1.2 points [−1.0, 3.4]" in html
    assert 'href="tutorials/page.html#what-it-shows"' in html


def test_a_number_out_of_bounds_is_marked_on_a_whole_page_and_fails_the_build(build):
    for _ in range(2):  # the second time no page has changed
        status, errors, html = build({"S9.1": FINDING | {"value": 0.06}})
        assert status != 0
        assert "claim S9.1 (This one is better.) is judged 'no difference'" in errors
        assert "above -0.05 and below 0.05; found 6.0 points" in errors
        assert "did not hold in this build" in html and "tutorials/page" in errors
    status, errors, html = build({"S9.1": FINDING})
    assert status == 0 and "did not hold" not in html


def test_a_finding_that_is_missing_fails_the_build(build):
    status, errors, _ = build(None)
    assert status != 0
    assert "claim S9.1 has no finding" in errors and "tutorials/page" in errors


@pytest.mark.parametrize(
    ("rule", "finding", "supported"),
    [
        ({"above": 1}, 1.5, True),
        ({"above": 1}, 1.0, False),
        ({"below": 1}, {"mean": 0.5, "low": 0, "high": 2}, True),
        ({"equal": 0}, 0, True),
        ({"equal": 0}, 1e-9, False),
        ({"reported": 3}, {"value": 2.5, "low": 2, "high": 4}, True),
        ({"reported": 5}, {"value": 2.5, "low": 2, "high": 4}, False),
        ({"reported": 3}, 3.0, False),
        ({"reported": 3, "below": 2}, {"difference": 2.5, "low": 2, "high": 4}, False),
        ({"above": 0}, float("nan"), False),
        (CLAIM, {"value": 0.01, "low": -0.04, "high": 0.04}, True),
        (CLAIM, {"value": 0.01, "low": -0.06, "high": 0.04}, False),
        (CLAIM, 0.01, False),
    ],
)
def test_the_number_decides(monkeypatch, rule, finding, supported):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    from verdicts import judge

    assert judge(finding, rule) is supported


def test_a_section_that_is_gone_fails_the_build(build, tmp_path):
    (tmp_path / "tutorials" / "page.md").write_text("# P\n\n## More\n")
    status, errors, _ = build({"S9.1": FINDING})
    assert status != 0
    assert "what it shows" in errors.lower()


def test_what_the_sample_cannot_judge_says_so(build, tmp_path, monkeypatch):
    monkeypatch.setenv("INITGUIDE_OFFLINE", "1")
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path))
    monkeypatch.delenv("INITGUIDE_DATA", raising=False)
    claims = {"S9": {"claims": {"S9.1": CLAIM | {"complete": "mnist"}}}}
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(claims))
    status, _, html = build({"S9.1": FINDING | {"value": 0.06}})
    assert status == 0
    assert "not judged" in html and "needs the complete data" in html


def test_every_claim_has_a_tutorial_a_known_verdict_and_bounds(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    from verdicts import VERDICTS, rules

    scripts = {path.stem for path in (DOCS / "gallery").glob("*.py")}
    for name, rule in rules(DOCS / "claims.yml").items():
        assert rule["page"] in scripts, name
        assert rule["verdict"] in VERDICTS, name
        assert {"above", "below", "equal", "reported"} & set(rule), name
        assert "reported" not in rule or rule["verdict"] == "compatible", name
