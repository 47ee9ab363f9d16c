"""Every task of the project: ``nox -l`` lists them, ``nox -s docs`` builds the site.

torch takes 5 GB and a minute or two to install, so the sessions that need it share one
environment, ``.nox/dev``: the session ``dev`` brings it up to date, and they require it.
"""

import functools
import hashlib
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # uv would ignore pip's configuration
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "doctest", "docs"]

DEV = Path(".nox/dev", "Scripts" if os.name == "nt" else "bin").absolute()
HTML = Path("docs/_build/html")
SPHINX = ("-m", "sphinx", "-nW", "--keep-going", "-d")
DOCTREES = "docs/_build/doctrees"

in_dev = functools.partial(nox.session, requires=["dev"], venv_backend="none")


def install(session: nox.Session, group: str, *more: str) -> None:
    """Install a dependency group at the versions that constraints.txt pins."""
    pyproject = nox.project.load_toml("pyproject.toml")
    wanted = nox.project.dependency_groups(pyproject, group)
    session.install("--constraint", "constraints.txt", *wanted, *more)


def python(session: nox.Session, *arguments: str | Path) -> None:
    """Run the shared environment's Python."""
    session.run(DEV / "python", *arguments, external=True)


def borrow_packages(session: nox.Session) -> None:
    """Lend the shared environment's packages to a session's own, all but initguide.

    A folder named in a ``.pth`` file joins the path, but the ``.pth`` files in it are not
    read, and the shared environment's editable initguide is one of those.
    """
    ask = ("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    lender = session.run(DEV / "python", *ask, external=True, silent=True).strip()
    borrower = session.run("python", *ask, silent=True).strip()
    Path(borrower, "borrowed.pth").write_text(lender)


@nox.session
def dev(session: nox.Session) -> None:
    """Bring the shared environment up to date, if what it is made from changed."""
    made_from = [Path(name) for name in ("constraints.txt", "noxfile.py", "pyproject.toml")]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in made_from)).hexdigest()
    has = Path(session.virtualenv.location, "made-from")
    if not has.is_file() or has.read_text() != wanted:
        has.unlink(missing_ok=True)
        install(session, "dev", "--editable", ".")
        has.write_text(wanted)


@in_dev()
def docs(session: nox.Session) -> None:
    """Build the site, executing every page: docs/_build/html."""
    python(session, *SPHINX, DOCTREES, "-b", "html", *session.posargs, "docs", HTML)
    session.log(f"Open {(HTML / 'index.html').absolute().as_uri()}")


@in_dev()
def page(session: nox.Session) -> None:
    """Build one page alone, in seconds: ``-- keep_the_variance_level`` or ``-- how-to-choose``."""
    name = " ".join(session.posargs)
    is_script = Path("docs/gallery", f"{name}.py").is_file()
    if not is_script and not Path("docs", f"{name}.md").is_file():
        session.error(f"{name!r}: expected the name of a script in docs/gallery or a page in docs")
    only = f"tutorials/{name}" if is_script else name
    ignored = rf"(?<!\b{name}\.py)$" if is_script else ""
    settings = {
        "root_doc": only,
        "include_patterns": f"{only}.*,glossary.md,references.md",
        "sphinx_gallery_conf.ignore_pattern": ignored,
        "autosummary_generate": 0,
        "nitpicky": 0,
        "suppress_warnings": "bibtex,myst,ref,reference,toc",  # links to what is left out
    }
    out = HTML.with_name("page")
    flags = [word for key, value in settings.items() for word in ("-D", f"{key}={value}")]
    python(session, "-m", "sphinx", "-q", "-d", out / "doctrees", *flags, "docs", out)
    session.log(f"Open {(out / f'{only}.html').absolute().as_uri()}")


@in_dev()
def tests(session: nox.Session) -> None:
    """Run the tests; ``-- -m slow`` runs the slow ones."""
    python(session, "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff; ``-- --fix`` mends what it can."""
    install(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))


@in_dev()
def types(session: nox.Session) -> None:
    """Check the package's types with mypy, strictly."""
    python(session, "-m", "mypy", *session.posargs)


@in_dev()
def doctest(session: nox.Session) -> None:
    """Run the examples in the docstrings."""
    python(session, "-m", "pytest", "--doctest-modules", "initguide", *session.posargs)


@in_dev()
def linkcheck(session: nox.Session) -> None:
    """Follow every link of the site, without executing its pages."""
    quick = ("-D", "plot_gallery=0", "-D", "nb_execution_mode=off")
    out = HTML.with_name("linkcheck")
    python(session, *SPHINX, out / "doctrees", "-b", "linkcheck", *quick, "docs", out)


@in_dev()
def browser(session: nox.Session) -> None:
    """Test the built site in Chromium: layout, keyboard, accessibility."""
    python(session, "-m", "pytest", "-m", "browser", "-n", "auto", *session.posargs)


@in_dev()
def replicate(session: nox.Session) -> None:
    """Run the pages under other seeds; ``-- --times 20 --page NAME --data complete``."""
    python(session, "docs/replication/replicate.py", *session.posargs)


@in_dev()
def reproduce(session: nox.Session) -> None:
    """Build the last commit twice from scratch; only the times on about.html may differ."""
    root = Path(session.create_tmp()).absolute()
    sites = [root / name / HTML for name in ("one", "two")]
    for name in ("one", "two"):
        shutil.rmtree(root / name, ignore_errors=True)
        session.run("git", "clone", "--quiet", ".", root / name, external=True)
        with session.chdir(root / name):
            python(session, *SPHINX, DOCTREES, "-b", "html", "-q", "docs", HTML)
    # .buildinfo, Sphinx's note to itself, depends on the folder.
    excluded = ("--exclude=about.html", "--exclude=.buildinfo")
    session.run("diff", "-rq", *excluded, *sites, external=True)


@in_dev()
def bench(session: nox.Session) -> None:
    """Time training many models at once against training them one by one."""
    python(session, "tests/benchmarks/bench_training.py", *session.posargs)


@nox.session(requires=["dev"], reuse_venv=False)
def build(session: nox.Session) -> None:
    """Build sdist and wheel, then test the wheel in place of the source tree."""
    python(session, "-m", "build")  # makes the wheel from the sdist
    session.install("--no-deps", "--force-reinstall", *map(str, Path("dist").glob("*.whl")))
    borrow_packages(session)
    session.run("python", "-m", "pip", "check")
    root = Path.cwd()
    session.chdir(session.create_tmp())  # away from the source tree
    session.run("python", "-c", "import initguide, sys; assert sys.prefix in initguide.__file__")
    session.run("python", "-m", "pytest", "-c", root / "pyproject.toml", root / "tests")


@in_dev(name="docs-live")
def docs_live(session: nox.Session) -> None:
    """Serve the site and rebuild it at each change."""
    live = ("-m", "sphinx_autobuild", "--watch", "initguide", "--open-browser")
    python(session, *live, *session.posargs, "docs", HTML)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the newest versions that fit together on every Python and platform."""
    session.install("uv")
    compile_ = ("uv", "pip", "compile", "--quiet", "--upgrade", "--no-annotate", "--universal")
    # As few versions of a package as can be: what one Python tests, the others run too.
    fewest = ("--python-version", "3.11", "--fork-strategy", "fewest", "--group", "dev")
    refresh = ("--custom-compile-command", "nox -s lock", "--output-file", "constraints.txt")
    session.run(*compile_, *fewest, *refresh, "pyproject.toml")
