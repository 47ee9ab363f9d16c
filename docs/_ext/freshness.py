"""What earlier builds left is used only where it is whole, and is what a build would make now.

A page is executed again when its code, what that reaches in the package, its data, a library or
its own results on the disk changed: sphinx-gallery and myst-nb look at the page's text only.
All pages are read and written again after a build that was killed, failed or warned.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from page_sources import code_of, digest, hash_of

logger = logging.getLogger(__name__)

_executing: set[str] = set()  # the scripts whose results are not sealed yet


def start(app: Sphinx, config: Config) -> None:
    """Wait for other builds in this folder; drop what one that did not end well has left."""
    around, doctrees, static = app.outdir.parent, app.doctreedir, app.outdir / "_static"
    app.build_lock = FileLock(around / "build.lock")
    try:
        app.build_lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another build, which writes to %s", around)
        app.build_lock.acquire()
    doctrees.mkdir(parents=True, exist_ok=True)
    if (doctrees / "unfinished").is_file():
        (doctrees / "environment.pickle").unlink(missing_ok=True)
    (doctrees / "unfinished").touch()
    if static.is_file():  # the theme copies its logo there, even where there is no such folder
        static.unlink()
    static.mkdir(exist_ok=True)
    for page in _pages(app).values():
        if not page.read_bytes().rstrip().endswith(b"</html>"):
            page.unlink()
    for name in {"INITGUIDE_DATA", "INITGUIDE_CACHE"} & set(os.environ):
        os.environ[name] = os.path.abspath(os.environ[name])  # pages run in other folders


def find_inputs(app: Sphinx, config: Config) -> None:
    """Keep what is made of the MyST pages under names and settings that change with its inputs."""
    pages = [code_of(p) for p in sorted(app.srcdir.rglob("*.md")) if "_build" not in p.parts]
    cache = app.outdir.parent / "jupyter_cache" / digest("\n".join(pages))[:16]
    if cache.is_dir() and not _is_sealed(cache / "seal", cache.rglob("*")):
        shutil.rmtree(cache)
    config.nb_execution_cache_path = str(cache)
    config.read_with = hash_of(Path(__file__).parent.glob("*.py"))


def seal_notebook_cache(app: Sphinx, env: BuildEnvironment) -> None:
    """Note what the outputs of the MyST pages are, once all have been read."""
    cache = Path(app.config.nb_execution_cache_path)
    if cache.is_dir():
        (cache / "seal").write_text(hash_of(cache.rglob("*")))


def forget_stale_scripts(app: Sphinx) -> None:
    """Remove what is kept of each gallery script that is to be executed, or that is gone."""
    conf = app.config.sphinx_gallery_conf
    if not conf["plot_gallery"]:
        return  # nothing is executed, so nothing may be lost
    target = Path(app.srcdir, conf["gallery_dirs"])
    target.mkdir(parents=True, exist_ok=True)
    scripts = _scripts(conf, app.srcdir)
    for name in {p.stem for p in target.glob("*.rst")} - {"index", *(p.stem for p in scripts)}:
        _forget(target, name)
    for script in scripts:
        made_from, name = digest(code_of(script)), script.stem
        ignored = re.search(conf["ignore_pattern"], str(script))
        if not ignored and not _is_sealed(target / f"{name}.seal", _kept(target, name), made_from):
            logger.info("[freshness] %s is to be executed", script.name)
            _forget(target, name)
            _executing.add(name)


def seal_scripts(gallery_conf: dict[str, Any], fname: str | None = None) -> None:
    """Note what the results are of the scripts that have been executed to their end."""
    target = Path(gallery_conf["src_dir"], gallery_conf["gallery_dirs"])
    for script in _scripts(gallery_conf, gallery_conf["src_dir"]):
        name = script.stem
        if name in _executing and (target / f"{script.name}.md5").is_file():
            seal = hash_of(_kept(target, name), digest(code_of(script)))
            (target / f"{name}.seal").write_text(seal)
            _executing.remove(name)


def write_times(app: Sphinx) -> None:
    """Write how long each script took when it was last executed, as a table for a page."""
    seal_scripts(app.config.sphinx_gallery_conf)
    target = Path(app.srcdir, app.config.sphinx_gallery_conf["gallery_dirs"])
    costs = sorted(target.glob("*.cost.json"))
    seconds = {path.name.split(".")[0]: json.loads(path.read_text())["time"] for path in costs}
    rows = [f"{{doc}}`/{target.name}/{name}`,{time:.1f}\n" for name, time in seconds.items()]
    table = "".join([*rows, f"**All**,{sum(seconds.values()):.1f}\n"])
    if not (file := target / "times.csv").is_file() or file.read_text() != table:
        file.write_text(table)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Remove pages that are no more; note that the build ended well, if it did."""
    if error is None and app.builder.format == "html":
        for name, page in _pages(app).items():
            if name not in {*app.env.found_docs, "genindex", "search"}:
                page.unlink()
    if error is None and not app.statuscode and not app._warncount:
        (app.doctreedir / "unfinished").unlink()
    app.build_lock.release()


def _pages(app: Sphinx) -> dict[str, Path]:
    """Return the files of the pages that were written, by their pages' names."""
    files = {path.relative_to(app.outdir): path for path in app.outdir.rglob("*.html")}
    pages = {name.with_suffix("").as_posix(): path for name, path in files.items()}
    return {name: path for name, path in pages.items() if not name.startswith("_")}


def _scripts(conf: dict[str, Any], folder: str | Path) -> list[Path]:
    return sorted(Path(folder, conf["examples_dirs"]).glob("*.py"))


def _kept(target: Path, name: str) -> list[Path]:
    """Return the files that were made from a script."""
    image = f"images/sphx_glr_{name}_[0-9]*"
    patterns = (f"{name}.*", image, f"images/thumb/sphx_glr_{name}_thumb.*")
    return [path for pattern in patterns for path in target.glob(pattern)]


def _forget(target: Path, name: str) -> None:
    for path in _kept(target, name):
        path.unlink()


def _is_sealed(seal: Path, paths: Iterable[Path], *parts: str) -> bool:
    return seal.is_file() and seal.read_text() == hash_of(paths, *parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks, around sphinx-gallery's and myst-nb's own."""
    app.add_config_value("read_with", "", "env", str)
    app.connect("config-inited", start, priority=1)
    app.connect("config-inited", find_inputs, priority=2)
    app.connect("builder-inited", forget_stale_scripts, priority=400)
    app.connect("builder-inited", write_times, priority=600)
    app.connect("env-updated", seal_notebook_cache)
    app.connect("build-finished", finish, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
