"""Do the claims of the pages hold under other seeds, on other paths? ``nox -s replicate`` tells.

Each replication runs a page in a process of its own, with every seed shifted by the same number
(`run_page`). The paths take turns: PyTorch's vector instructions and AVX2's, one thread and two.
What is in the table already is not run again, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import csv
import datetime
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1]
TABLE = DOCS / "replication" / "table.csv"
COLUMNS = ("page", "claim", "line", "seeds", "data", "path", "held", "value", "expected")
COLUMNS += ("code", "torch", "processor", "date")
AVX2 = {  # for PyTorch's own loops, MKL's and oneDNN's
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
sys.path.insert(0, str(DOCS / "_ext"))


class Job(NamedTuple):
    """One run of one page."""

    page: Path
    seeds: int
    data: str
    capability: str
    threads: int

    @property
    def path(self) -> str:
        """The float path in words."""
        return f"{self.capability}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this run from others in the table."""
        return self.page.stem, str(self.seeds), self.data, self.path, code(self.page)


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

    tree = ast.parse(code_of(page))
    body = [node for node in tree.body if not _is_text(node)]
    return hashlib.sha256("".join(map(ast.dump, body)).encode()).hexdigest()[:12]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def paths() -> list[tuple[str, int]]:
    """Return the float paths of this machine, capability and threads, in turn.

    Two threads gain little on small models and keep two cores busy: they get a turn in five.
    """
    import torch

    best = torch.backends.cpu.get_cpu_capability()
    capabilities = [best] if best in ("DEFAULT", "AVX2") else [best, "AVX2"]
    one, two = ([(c, threads) for c in capabilities] for threads in (1, 2))
    return one * 4 + two if (os.cpu_count() or 1) > 1 else one


def run(job: Job) -> list[dict[str, object]]:
    """Run a job in a process of its own; return its rows."""
    import torch

    environment = os.environ | {"MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(job.threads)
    if job.capability != torch.backends.cpu.get_cpu_capability():
        environment |= AVX2
    with tempfile.TemporaryDirectory() as folder:
        if job.data == "sample":
            environment |= {"INITGUIDE_OFFLINE": "1", "INITGUIDE_CACHE": folder}
            environment.pop("INITGUIDE_DATA", None)
        out = Path(folder, "rows.json")
        command = [sys.executable, "-W", "ignore", Path(__file__).with_name("run_page.py")]
        command += [job.page, str(job.seeds), str(job.threads), out]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if not out.is_file():
            raise RuntimeError(f"{job.page.name} ended with {done.returncode}: {done.stderr}")
        rows = json.loads(out.read_text())
    about = dict(zip(("page", "seeds", "data", "path", "code"), job.key, strict=True))
    about |= {"torch": torch.__version__.partition("+")[0], "processor": processor()}
    about |= {"date": datetime.date.today().isoformat()}
    return [about | row for row in rows]


def processor() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    """Return what `Job.key` was for a row of the table."""
    return tuple(row[name] for name in ("page", "seeds", "data", "path", "code"))


def read(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none where there is no file."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: list[dict[str, object]]) -> None:
    """Write the rows, sorted, in place of what the file held: all of them or none."""
    rows = sorted(rows, key=lambda r: (r["page"], r["data"], int(str(r["seeds"])), r["path"]))
    new = table.with_suffix(".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    new.replace(table)


def replicate(jobs: list[Job], table: Path, workers: int) -> Iterator[list[dict[str, object]]]:
    """Run the jobs that the table does not have, put each into it, and yield its rows.

    Rows of the same pages that were run on other code, or stopped on their way, make way for them.
    """
    from tqdm import tqdm

    now = {job.page.stem: code(job.page) for job in jobs}
    kept = [row for row in read(table) if now.get(row["page"], row["code"]) == row["code"]]
    stopped = {key_of(row) for row in kept if row["line"] == "0" and row["value"] == ""}
    kept = [row for row in kept if key_of(row) not in stopped]
    done = {key_of(row) for row in kept}
    todo = [job for job in jobs if job.key not in done]
    rows: list[dict[str, object]] = [*kept]
    with tqdm(total=len(todo), unit="page", smoothing=0) as bar:
        for threads, batch in itertools.groupby(
            sorted(todo, key=lambda job: job.threads), key=lambda job: job.threads
        ):
            pool = ThreadPoolExecutor(max(workers // threads, 1))
            try:
                for future in as_completed([pool.submit(run, job) for job in batch]):
                    new = future.result()
                    rows += new
                    write(table, rows)
                    for row in new:
                        if not row["held"]:
                            bar.write(say(row))
                    bar.update()
                    yield new
            finally:
                pool.shutdown(cancel_futures=True)


def say(row: dict[str, object]) -> str:
    """Tell of a claim that did not hold."""
    where = (
        f"{row['page']}, line {row['line']}, seeds +{row['seeds']}, {row['data']}, {row['path']}"
    )
    return (
        f"{where}: did not hold: {row['claim']} (expected {row['expected']}, found {row['value']})"
    )


def summary(rows: list[dict[str, str]]) -> str:
    """Return a line a claim: how often it held, and the spread of its value."""
    import pandas as pd

    table = pd.DataFrame(rows)
    table["held"] = table["held"].astype(str) == "True"
    table["value"] = table["value"].astype(float)
    groups = table.groupby(["page", "claim", "expected", "data"], sort=False)
    told = groups.agg(
        held=("held", "sum"),
        n=("held", "size"),
        **{name: ("value", name) for name in ("mean", "std", "min", "max")},
    )
    return told.reset_index().to_string(index=False, max_colwidth=60, float_format="{:.4g}".format)


def main() -> int:
    """Run what the command line asks for; return 1 if a claim did not hold."""
    known = pages()
    parser = argparse.ArgumentParser(prog="nox -s replicate --", description=__doc__)
    parser.add_argument("--times", type=int, default=4, help="replications of each page")
    parser.add_argument("--page", action="append", choices=known, help="only this one; repeatable")
    parser.add_argument("--seeds-from", type=int, default=1000, help="the first shift")
    parser.add_argument("--step", type=int, default=1000, help="from one shift to the next")
    parser.add_argument("--data", choices=("sample", "complete"), default="sample")
    parser.add_argument("--path", choices=("all", "native", "avx2"), default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads in use")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    if options.data == "complete":
        from initguide import datasets

        for name in ("mnist", "fashion_mnist"):
            if (found := datasets.find(name)).is_sample:
                parser.error(f"{found.summary}: set INITGUIDE_DATA to the complete data")
    ways = paths()
    if options.path != "all":
        ways = [way for way in ways if (way[0] == "AVX2") == (options.path == "avx2")] or ways
    jobs = [
        Job(known[name], options.seeds_from + n * options.step, options.data, *ways[n % len(ways)])
        for n in range(options.times)
        for name in options.page or known
        if options.data == "sample" or uses_data(known[name])
    ]
    for _ in replicate(jobs, options.table, options.jobs):
        pass
    wanted = {job.key for job in jobs}
    rows = [row for row in read(options.table) if key_of(row) in wanted]
    failed = [row for row in rows if row["held"] != "True"]
    print(summary(rows))
    print(f"{len(rows) - len(failed)} of {len(rows)} held, in {len(wanted)} runs of pages")
    print("\n".join(map(say, failed)))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
