"""A claim is shown where it stands; one that fails leaves the page whole and the build red."""

import pytest

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

from sites import CELL, TREE, Site

HOME = """:tags: [remove-input]
from initguide import claim

claim("home is small", {small}, below=2);"""
MEASURE = """from initguide import claim, show

claim("two is more than {bound}", 2, above={bound})

# %%
# The rest of the page.

claim("it is so", True)
show("the end")"""


@pytest.fixture
def build(tmp_path):
    site = Site(tmp_path)

    def build(bound, small=1):
        cell = CELL.format(title="Home", code=HOME.format(small=small))
        site.write("index.md", f"{cell}\nAfter the claim.\n{TREE}")
        site.script("measure", MEASURE.format(bound=bound))
        status, complaints = site.build()
        return status, complaints, site.page("tutorials/measure"), site.page("index")

    return build


def test_claims_stand_on_their_pages_and_failed_ones_end_the_build_red(build):
    status, complaints, script, home = build(1)
    assert status == 0, complaints
    assert script.count('class="claim held"') == 2
    assert "Two is more than 1. " in script
    assert "Found 2, expected above 1." in script
    assert 'href="../replication.html"' in script
    assert "the end" in script
    assert "Home is small." in home and "After the claim." in home
    assert home.count('class="claim held"') == 1

    for _ in range(2):  # the second time nothing is executed
        status, complaints, script, home = build(3)
        assert status != 0
        assert "measure" in complaints
        assert "Did not hold: two is more than 3 (expected above 3, found 2)" in complaints
        assert "Did not hold in this build" in script
        assert script.count('class="claim held"') == 1 and "the end" in script
        assert home.count('class="claim held"') == 1

    status, complaints, script, _ = build(1)
    assert status == 0, complaints
    assert "Did not hold" not in script


def test_a_failed_claim_of_a_myst_page_is_marked_and_listed(build):
    for _ in range(2):
        status, complaints, script, home = build(1, small=3)
        assert status != 0
        assert "Did not hold: home is small (expected below 2, found 3)" in complaints
        assert "Did not hold in this build" in home and "After the claim." in home
        assert script.count('class="claim held"') == 2
    status, complaints, _, home = build(1)
    assert status == 0 and "Did not hold" not in home, complaints
