"""What stands twice in the project's files stands there alike."""

import re
from pathlib import Path

import pytest

from initguide.datasets._sources import IMAGE_SETS

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_pre_commit_runs_the_ruff_that_is_pinned():
    (pinned,) = re.findall(r"^ruff==\S+", text("constraints.txt"), re.M)
    assert f"[{pinned}]" in text(".pre-commit-config.yaml")


def test_ci_installs_one_version_of_nox():
    installs = "".join(text(name) for name in (".ci/run", ".github/workflows/ci.yml"))
    versions = re.findall(r"pip install (?:--quiet )?nox(\S*)", installs)
    assert len(versions) == 2
    assert re.fullmatch(r"==[\d.]+", versions[0])
    assert versions[0] == versions[1]


@every_workflow
def test_actions_are_pinned_by_commit_with_their_version(path):
    for action in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


@every_workflow
def test_a_clone_keeps_no_token(path):
    steps = path.read_text(encoding="utf-8").split("      - ")
    clones = [step for step in steps if "actions/checkout@" in step]
    assert clones
    assert all("persist-credentials: false" in step for step in clones)


@every_workflow
def test_nothing_may_write_unless_it_says_so(path):
    assert "\npermissions:\n  contents: read\n" in path.read_text(encoding="utf-8")


def test_the_security_note_names_every_mirror():
    from torchvision import datasets

    mirrors = [m for known in IMAGE_SETS.values() for m in getattr(datasets, known.folder).mirrors]
    hosts = [mirror.split("/")[2] for mirror in mirrors]
    assert [host for host in hosts if host not in text("SECURITY.md")] == []


def test_contributing_says_where_every_module_is():
    modules = {path.name for path in (ROOT / "initguide").rglob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"[`/](\w+\.py)`", text("CONTRIBUTING.md")))
    assert modules - named == set()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", "SECURITY.md"])
def test_links_to_files_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(name)):
        assert (ROOT / target).exists()


def test_commands_name_sessions_that_exist():
    sessions = set(re.findall(r"^def (\w+)\(session", text("noxfile.py"), re.M)) | {"docs-live"}
    commands = re.findall(r"nox -s ([a-z -]*?)(?= --|[`#\n]|$)", text("CONTRIBUTING.md"), re.M)
    assert {each for command in commands for each in command.split()} - sessions == set()
