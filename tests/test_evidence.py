"""The page on evidence judges each claim by the number beside it, and marks what does not hold."""

import pytest
import yaml

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

from sites import DOCS, TREE, Site

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
def build(tmp_path):
    site = Site(tmp_path)
    site.write("index.md", f"# E\n\n```{{evidence}}\n```\n\n```{{evidence}} S9\n```\n{TREE}")
    site.write("claims.yml", yaml.safe_dump({"S9": {"claims": {"S9.1": CLAIM}}}))

    def build(findings, section="What it shows", **variables):
        found = "" if findings is None else f"findings = {findings}"
        site.script("page", f"x = 1\n\n# %%\n# {section}\n# {'-' * 20}\n\n{found}\n")
        status, complaints = site.build(**variables)
        html = site.page("index") if (site.out / "index.html").is_file() else ""
        return status, complaints, html

    build.site = site
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
    for _ in range(2):  # the second time no page has changed
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


def test_a_section_that_is_gone_fails_the_build(build):
    status, errors, _ = build({"S9.1": FINDING}, section="More")
    assert status != 0
    assert "what it shows" in errors.lower()


def test_what_the_sample_cannot_judge_says_so(build, tmp_path, monkeypatch):
    monkeypatch.setenv("INITGUIDE_OFFLINE", "1")
    monkeypatch.setenv("INITGUIDE_CACHE", str(tmp_path))
    monkeypatch.delenv("INITGUIDE_DATA", raising=False)
    claims = {"S9": {"claims": {"S9.1": CLAIM | {"complete": "mnist"}}}}
    build.site.write("claims.yml", yaml.safe_dump(claims))
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
