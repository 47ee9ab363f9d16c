"""A claim is shown where it stands; one that fails leaves the page whole and the build red."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the site's own tools are not installed")

DOCS = Path(__file__).parents[1] / "docs"
CONF = f"""
import sys
sys.path.insert(0, {str(DOCS / "_ext")!r})
extensions = ["myst_nb", "sphinx_gallery.gen_gallery", "figures", "page_claims"]
exclude_patterns = ["_build", "gallery", "tutorials/*.ipynb", "tutorials/*.py*", "tutorials/*.json"]
nb_render_markdown_format = "myst"
nb_execution_raise_on_error = True
sphinx_gallery_conf = {{
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "filename_pattern": "py$",
    "image_scrapers": ("figures.scraper", "page_claims.scraper"),
    "reset_modules": ("figures.reset", "page_claims.reset"),
    "write_computation_times": False,
}}
"""
INDEX = """---
file_format: mystnb
kernelspec:
  name: python3
---

# Home

```{code-cell} python
:tags: [remove-input]
from initguide import claim

claim("home is small", {small}, below=2);
```

After the claim.

```{toctree}
tutorials/index
replication
```
"""
SCRIPT = '''"""
Measure it
==========

Why?
"""

from initguide import claim, show

claim("two is more than {bound}", 2, above={bound})

# %%
# The rest of the page.

claim("it is so", True)
show("the end")
'''


@pytest.fixture
def build(tmp_path):
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "replication.md").write_text("# Replication\n")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "GALLERY_HEADER.rst").write_text("Tutorials\n=========\n")

    def build(bound, small=1):
        (tmp_path / "index.md").write_text(INDEX.replace("{small}", str(small)))
        (tmp_path / "gallery" / "measure.py").write_text(SCRIPT.format(bound=bound))
        out = tmp_path / "_build" / "html"
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", tmp_path, out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        pages = (out / "tutorials" / "measure.html", out / "index.html")
        return done, *(page.read_text(encoding="utf-8") for page in pages)

    return build


def test_claims_stand_on_their_pages_and_failed_ones_end_the_build_red(build):
    done, script, home = build(1)
    assert done.returncode == 0, done.stderr
    assert script.count('class="claim held"') == 2
    assert "Two is more than 1. " in script
    assert "Found 2, expected above 1." in script
    assert 'href="../replication.html"' in script
    assert "the end" in script
    assert "Home is small." in home and "After the claim." in home
    assert home.count('class="claim held"') == 1

    for _ in range(2):  # the second time nothing is executed or read again
        done, script, home = build(3)
        assert done.returncode != 0
        assert "measure" in done.stderr
        assert "Did not hold: two is more than 3 (expected above 3, found 2)" in done.stderr
        assert "Did not hold in this build" in script
        assert script.count('class="claim held"') == 1 and "the end" in script
        assert home.count('class="claim held"') == 1

    done, script, _ = build(1)
    assert done.returncode == 0, done.stderr
    assert "Did not hold" not in script


def test_a_failed_claim_of_a_myst_page_is_marked_and_listed(build):
    for _ in range(2):
        done, script, home = build(1, small=3)
        assert done.returncode != 0
        assert "Did not hold: home is small (expected below 2, found 3)" in done.stderr
        assert "Did not hold in this build" in home and "After the claim." in home
        assert script.count('class="claim held"') == 2
    done, _, home = build(1)
    assert done.returncode == 0 and "Did not hold" not in home, done.stderr
