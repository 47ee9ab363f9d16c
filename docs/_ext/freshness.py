"""A page is executed again when the package, its data or a library that it uses changed.

sphinx-gallery and myst-nb look at the page's own text only. This hook forgets what they
remember of a page whose `page_sources.digest` is no longer the one it was executed under.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from page_sources import code_of, digest

logger = logging.getLogger(__name__)


def forget_stale_scripts(app: Sphinx) -> None:
    """Remove what is kept of each gallery script whose digest changed, or that is gone."""
    conf = app.config.sphinx_gallery_conf
    target = Path(app.srcdir, conf["gallery_dirs"])
    target.mkdir(parents=True, exist_ok=True)
    scripts = sorted(Path(app.srcdir, conf["examples_dirs"]).glob("*.py"))
    for page in set(target.glob("*.rst")) - {target / "index.rst"}:
        if page.stem not in {script.stem for script in scripts}:
            for leftover in target.glob(f"{page.stem}.*"):
                leftover.unlink()
    for script in scripts:
        stamp = target / f"{script.name}.digest"
        done = target / f"{script.name}.md5"
        now = digest(code_of(script))
        if not done.is_file() or not stamp.is_file() or stamp.read_text() != now:
            logger.info("[freshness] %s is to be executed", script.name)
            # A failed run leaves a picture that says so, which would be shown for ever.
            pictures = target.glob(f"images/**/sphx_glr_{script.stem}_*")
            for leftover in (done, target / f"{script.stem}.findings.json", *pictures):
                leftover.unlink(missing_ok=True)
            stamp.write_text(now)


def choose_notebook_cache(app: Sphinx, config: Config) -> None:
    """Keep the outputs of the MyST pages under a name that changes with what they use."""
    pages = [p for p in sorted(Path(app.srcdir).rglob("*.md")) if "_build" not in p.parts]
    code = "\n".join(code_of(page) for page in pages)
    folder = Path(app.outdir).parent / "jupyter_cache" / digest(code)[:16]
    config.nb_execution_cache_path = str(folder)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks, before sphinx-gallery's and myst-nb's own."""
    app.connect("config-inited", choose_notebook_cache)
    app.connect("builder-inited", forget_stale_scripts, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
