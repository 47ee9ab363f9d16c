"""Do the claims of the pages hold under other seeds, on other paths? ``nox -s replicate`` tells.

Each replication runs a page in a process of its own, with every seed shifted by the same number
(`run_page`). The float paths take turns: PyTorch's vector instructions and AVX2's, one thread and
two. What is in the table already is not run again, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import csv
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1]
TABLE = DOCS / "replication" / "table.csv"
# What tells one run of a page from another, and what it found.
RUN = ("page", "seeds", "data", "float_path", "code", "torch", "numpy", "python", "processor")
COLUMNS = (*RUN, "date", "claim", "line", "held", "value", "expected")
AVX2 = {  # for PyTorch's own loops, MKL's and oneDNN's
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS / "replication")]
from run_page import FINISHED, row  # noqa: E402

Key = tuple[str, ...]
Rows = list[dict[str, Any]]


class Job(NamedTuple):
    """One run of one page."""

    page: Path
    seeds: int
    data: str
    capability: str
    threads: int

    @property
    def key(self) -> Key:
        """What tells this run from others in the table: the values of `RUN`."""
        path = f"{self.capability}, {self.threads} thread{'s' * (self.threads > 1)}"
        return (self.page.stem, str(self.seeds), self.data, path, code(self.page), *machine())


@cache
def machine() -> Key:
    """Return the versions and the processor that a run's rounding depends on."""
    versions = version("torch").partition("+")[0], version("numpy"), platform.python_version()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (*versions, names[0] if names else platform.processor() or platform.machine())


def pages() -> dict[str, Path]:
    """Return every page that makes claims, by name."""
    found = [*(DOCS / "gallery").glob("*.py"), DOCS / "how-to-choose.md", DOCS / "index.md"]
    return {path.stem: path for path in sorted(found)}


def uses_data(page: Path) -> bool:
    """Return whether a page uses a data set that has a sample: others are alike on either."""
    from page_sources import code_of, datasets_used

    return bool(datasets_used(code_of(page)))


def code(page: Path) -> str:
    """Return a short hash of what a page executes: not of its prose, comments or format."""
    from page_sources import code_of

    body = [node for node in ast.parse(code_of(page)).body if not _is_text(node)]
    return hashlib.sha256(repr(_plain(body)).encode()).hexdigest()[:12]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _plain(node: Any) -> Any:
    """Return a syntax tree as tuples, without the empty fields in which Pythons differ."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, *((name, _plain(value)) for name, value in fields)
    return tuple(map(_plain, node)) if isinstance(node, list) else repr(node)


def float_paths() -> list[tuple[str, int]]:
    """Return the float paths of this machine, capability and threads, in turn.

    Two threads gain little on small models and keep two cores busy: they get a turn in five.
    """
    import torch

    best = torch.backends.cpu.get_cpu_capability()
    capabilities = [best, "AVX2"] if best == "AVX512" else [best]
    one, two = ([(c, threads) for c in capabilities] for threads in (1, 2))
    turns = [one[n % len(one)] for n in range(4)]
    return [*turns, two[0], *turns, two[-1]] if (os.cpu_count() or 1) > 1 else one


def run(job: Job) -> Rows:
    """Run a job in a process of its own; return its rows, none if its page changed meanwhile."""
    import torch

    key = job.key
    environment = os.environ | {"MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(job.threads)
    if job.capability != torch.backends.cpu.get_cpu_capability():
        environment |= AVX2
    with tempfile.TemporaryDirectory() as folder:
        for name in {"INITGUIDE_DATA", "INITGUIDE_CACHE"} & set(environment):
            environment[name] = str(Path(environment[name]).resolve())
        if job.data == "sample":
            environment |= {"INITGUIDE_OFFLINE": "1", "INITGUIDE_CACHE": folder}
            environment.pop("INITGUIDE_DATA", None)
        out = Path(folder, "rows.json")
        command = [sys.executable, "-W", "ignore", Path(__file__).with_name("run_page.py")]
        command += [job.page, str(job.seeds), str(job.threads), out]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, errors="replace"
        )
        if out.is_file():
            found = json.loads(out.read_text(encoding="utf-8"))
        else:  # it was killed, or crashed
            told = f"status {done.returncode}: {done.stderr[-300:]}"
            found = [row(FINISHED, 0, False, None, told)]
    if job.key != key:
        return []
    about = dict(zip(RUN, key, strict=True)) | {"date": datetime.date.today().isoformat()}
    return [about | each for each in found]


def read(table: Path) -> Rows:
    """Return the rows of a table; none where there is no file."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: Rows) -> None:
    """Write the rows, sorted, in place of what the file held: all of them or none."""
    rows = sorted(rows, key=lambda r: (r["page"], r["data"], int(r["seeds"]), r["float_path"]))
    new = table.with_suffix(".csv.new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    new.replace(table)


def key_of(row: dict[str, Any]) -> Key:
    """Return what `Job.key` was for a row of the table."""
    return tuple(row[name] for name in RUN)


def replicate(jobs: list[Job], table: Path, workers: int) -> Iterator[Rows]:
    """Run the jobs that the table does not have, put each into it, and yield its rows.

    Rows of the same pages that were run on other code, or stopped on their way, make way for them.
    """
    from filelock import FileLock
    from tqdm import tqdm

    with FileLock(f"{table}.lock", timeout=0):
        now = {job.page.stem: code(job.page) for job in jobs}
        rows = [each for each in read(table) if now.get(each["page"], each["code"]) == each["code"]]
        stopped = {key_of(r) for r in rows if r["claim"] == FINISHED and r["held"] != "True"}
        rows = [each for each in rows if key_of(each) not in stopped]
        done = {key_of(each) for each in rows}
        todo = [job for job in dict.fromkeys(jobs) if job.key not in done]
        with tqdm(total=len(todo), unit="page", smoothing=0) as bar:
            for threads in sorted({job.threads for job in todo}):
                batch = [job for job in todo if job.threads == threads]
                pool = ThreadPoolExecutor(max(workers // threads, 1))
                try:
                    for future in as_completed([pool.submit(run, job) for job in batch]):
                        new = future.result()
                        rows += new
                        write(table, rows)
                        for each in new:
                            if not each["held"]:
                                bar.write(say(each))
                        bar.update()
                        yield new
                finally:
                    pool.shutdown(cancel_futures=True)


def say(row: dict[str, Any]) -> str:
    """Tell of a claim that did not hold."""
    where = f"{row['page']}, line {row['line']}, seeds +{row['seeds']}, {row['data']}"
    found = f"expected {row['expected']}, found {row['value']}"
    if row["claim"] == FINISHED:
        found = row["expected"]
    return f"{where}, {row['float_path']}: did not hold: {row['claim']} ({found})"


def summary(rows: Rows) -> str:
    """Return a line a claim: how often it held, and the spread of its value."""
    import pandas as pd

    table = pd.DataFrame(rows)
    table["held"] = table["held"].astype(str) == "True"
    table["value"] = pd.to_numeric(table["value"])
    groups = table.groupby(["page", "claim", "data"], sort=False)
    spread = {name: ("value", name) for name in ("mean", "std", "min", "max")}
    told = groups.agg(held=("held", "sum"), n=("held", "size"), **spread).reset_index()
    return told.to_string(index=False, max_colwidth=60, float_format="{:.4g}".format)


def main() -> int:
    """Run what the command line asks for; return 1 if a claim did not hold."""
    known = pages()
    parser = argparse.ArgumentParser(prog="nox -s replicate --", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="replications of each page")
    parser.add_argument("--page", action="append", choices=known, help="only this one; repeatable")
    parser.add_argument("--seeds-from", type=int, default=1000, help="the first shift")
    parser.add_argument("--step", type=int, default=1000, help="from one shift to the next")
    parser.add_argument("--data", choices=("sample", "complete"), default="sample")
    parser.add_argument("--path", choices=("all", "native", "avx2"), default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cores to use")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    names = options.page or list(known)
    if options.data == "complete":
        from initguide import datasets

        names = [name for name in names if uses_data(known[name])]
        for name in ("mnist", "fashion_mnist"):
            if (found := datasets.find(name)).is_sample:
                parser.error(f"{found.summary}: set INITGUIDE_DATA to the complete data")
    turns = float_paths()
    if options.path != "all":
        capability = "AVX2" if options.path == "avx2" else turns[0][0]
        turns = [turn for turn in turns if turn[0] == capability]
    shifts = range(
        options.seeds_from, options.seeds_from + options.times * options.step, options.step
    )
    if not (turns and names):
        print("nothing to run: no such float path here, or no page that uses a data set")
        return 0
    jobs = [
        Job(known[name], shift, options.data, *turns[n % len(turns)])
        for n, shift in enumerate(shifts)
        for name in names
    ]
    wanted = {job.key for job in jobs}
    before = len(wanted & {key_of(each) for each in read(options.table)})
    try:
        for _ in replicate(jobs, options.table, options.jobs):
            pass
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here")
        return 130
    rows = [each for each in read(options.table) if key_of(each) in wanted]
    failed = [each for each in rows if each["held"] != "True"]
    print(summary(rows))
    print(
        f"{len(rows) - len(failed)} of {len(rows)} held, in {len(wanted)} runs of pages, ", end=""
    )
    print(f"{before} of which the table had already")
    print("\n".join(map(say, failed)))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
