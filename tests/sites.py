"""Sites of a page or two, built with the site's own extensions."""

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
CONF = f"""
import sys
sys.path.insert(0, {str(DOCS / "_ext")!r})
extensions = [
    "myst_nb", "sphinx.ext.autosectionlabel", "sphinx_gallery.gen_gallery",
    "evidence", "figures", "freshness",
]
exclude_patterns = ["_build", "gallery", "tutorials/*.ipynb", "tutorials/*.py*", "tutorials/*.json"]
autosectionlabel_prefix_document = True
suppress_warnings = ["sphinx_gallery.space_in_filename"]
nb_render_markdown_format = "myst"
nb_execution_mode = "cache"
nb_execution_show_tb = True
sphinx_gallery_conf = {{
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "filename_pattern": "py$",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("figures.scraper", "scrapers.claims", "scrapers.findings"),
    "reset_modules": ("freshness.seal_scripts", "scrapers.reset"),
    "write_computation_times": False,
    "min_reported_time": float("inf"),
}}
"""
CELL = """---
file_format: mystnb
kernelspec:
  name: python3
---

# {title}

```{{code-cell}} python
{code}
```
"""
SCRIPT = '''"""
{title}
=======

Why?
"""

{code}
'''
TREE = """
```{toctree}
tutorials/index
replication
```
"""


class Site:
    """A site in a folder of its own; it has the pages that are written into it."""

    def __init__(self, root, conf=""):
        self.root, self.out = root, root / "_build" / "html"
        self.write("conf.py", CONF + conf)
        self.write("index.md", f"# Home\n{TREE}")
        self.write("replication.md", "# Replication\n")
        self.write("claims.yml", "{}\n")
        self.write("gallery/GALLERY_HEADER.rst", "Tutorials\n=========\n")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def script(self, name, code):
        self.write(f"gallery/{name}.py", SCRIPT.format(title=name.title(), code=code))

    def start(self, *options, **variables):
        command = [sys.executable, "-m", "sphinx", "-W", *options, self.root, self.out]
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=os.environ | variables, **told)

    def build(self, *options, **variables):
        """Return the status of a build, and what it complained of."""
        with self.start(*options, **variables) as build:
            _, complaints = build.communicate()
        return build.returncode, complaints

    def page(self, name):
        return (self.out / f"{name}.html").read_text(encoding="utf-8")
