"""Run one page with every seed shifted, and write down what it claims: a subprocess of replicate.

The page itself stays as it is: what draws random numbers takes another seed than it was given.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
import traceback
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
FINISHED = "the page runs to its end"


def shift_seeds(shift: int) -> None:
    """Let torch and numpy add a number to every seed that they are given from now on.

    Seeds of 2**32 and more are hashes of smaller ones, which have been shifted already.
    """
    import numpy as np
    import torch

    seed_torch, seed_numpy = torch.manual_seed, np.random.seed
    rng, sequence = np.random.default_rng, np.random.SeedSequence

    def shifted(seed: Any) -> Any:
        if isinstance(seed, int | np.integer) and 0 <= seed < 2**32:
            return int(seed) + shift
        if isinstance(seed, tuple | list):  # a seed and what it is for
            return [shifted(seed[0]), *seed[1:]]
        return seed

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(shifted(seed))

    class RandomState(np.random.RandomState):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(shifted(seed))

    def seed_sequence(entropy: Any = None, **settings: Any) -> np.random.SeedSequence:
        return sequence(shifted(entropy), **settings)

    torch.Generator = Generator  # type: ignore[misc]
    torch.manual_seed = torch.random.manual_seed = lambda seed: seed_torch(shifted(seed))
    np.random.SeedSequence = seed_sequence  # type: ignore[misc]
    np.random.seed = lambda seed=None: seed_numpy(shifted(seed))
    np.random.RandomState = RandomState  # type: ignore[misc]
    np.random.default_rng = lambda seed=None: rng(shifted(seed))


def run(page: Path, shift: int) -> list[dict[str, Any]]:
    """Return a row for each claim and each finding of the page, and one on its running at all."""
    sys.path.insert(0, str(DOCS / "_ext"))
    import matplotlib.pyplot as plt

    from initguide.claims import Outcome, listen
    from page_sources import code_of
    from verdicts import in_words, judge, numbers, rules

    plt.show = plt.close  # no figure is kept
    made: list[Outcome] = []
    variables: dict[str, Any] = {"__name__": page.stem}
    trouble = ""
    start = time.perf_counter()
    shift_seeds(shift)
    try:
        with listen(made.append):
            if page.suffix == ".py":
                variables = runpy.run_path(str(page))
            else:
                exec(compile(code_of(page), page.name, "exec"), variables)
    except Exception as error:
        trouble = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    seconds = round(time.perf_counter() - start, 1)
    rows = [row(FINISHED, 0, not trouble, None if trouble else seconds, trouble)]
    for claim in made:
        rows.append(row(claim.text, claim.line, claim.held, float(claim.value), claim.expected))
    known = rules(DOCS / "claims.yml")
    for name, finding in variables.get("findings", {}).items():
        if name not in known:
            rows.append(row(name, 0, False, None, "an entry in claims.yml"))
        elif (held := judge(finding, known[name])) is not None:
            rows.append(row(name, 0, held, numbers(finding)[0], in_words(known[name])))
    return rows


def row(claim: str, line: int, held: bool, value: float | None, expected: str) -> dict[str, Any]:
    """Return what the table says of one claim."""
    return {"claim": claim, "line": line, "held": held, "value": value, "expected": expected}


if __name__ == "__main__":
    import torch

    page, shift, threads, out = sys.argv[1:]
    torch.set_num_threads(int(threads))
    Path(out).write_text(json.dumps(run(Path(page), int(shift))), encoding="utf-8")
