"""What did training measure? A `History` has it all, and `History.frame` makes it a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from initguide.ensemble import Ensemble

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History", "TrainingError"]


@dataclass(frozen=True, eq=False)
class History:
    """What `train` measured, and the ensemble it ended with.

    Attributes
    ----------
    ensemble : Ensemble
        The trained models.
    batch_loss : Tensor of shape (steps, runs)
        Loss of each mini-batch before the step it caused.
    steps : tuple of int
        When the test set was evaluated; 0 is before training.
    values : dict of Tensor of shape (evaluations, runs)
        By ``(split, metric)``.
    protocol : str
        How the runs were trained, in words.
    """

    ensemble: Ensemble
    batch_loss: Tensor
    steps: tuple[int, ...]
    values: Mapping[tuple[str, str], Tensor]
    protocol: str = field(default="")

    def __repr__(self) -> str:
        return f"History of {len(self.ensemble)} runs: {self.protocol}"

    def frame(self, *, batches: bool = False) -> pd.DataFrame:
        """Return the runs table.

        Parameters
        ----------
        batches : bool
            Return the loss of every mini-batch instead of the evaluations.

        Returns
        -------
        pandas.DataFrame
            Columns ``scheme, seed, step, split, metric, value``, a row a number. Mini-batch
            losses have split ``batch`` and steps counted from 1; what ``observe`` returned has
            split ``model``.
        """
        import pandas as pd

        steps: range | tuple[int, ...] = self.steps
        values = self.values
        if batches:
            steps, values = range(1, len(self.batch_loss) + 1), {("batch", "loss"): self.batch_loss}
        runs = list(zip(self.ensemble.schemes, self.ensemble.seeds, strict=True))
        index = pd.DataFrame(
            [(*run, step) for step in steps for run in runs], columns=["scheme", "seed", "step"]
        )
        return pd.concat(
            [
                index.assign(split=split, metric=metric, value=value.flatten().double().numpy())
                for (split, metric), value in values.items()
            ],
            ignore_index=True,
        )

    def select(self, runs: Sequence[int] | slice) -> History:
        """Return the history of some of the runs, by position; its tensors are copies."""
        index = torch.arange(len(self.ensemble))[
            [*runs] if isinstance(runs, tuple | range) else runs
        ]
        return replace(
            self,
            ensemble=self.ensemble.select(runs),
            batch_loss=self.batch_loss[:, index],
            values={key: value[:, index] for key, value in self.values.items()},
        )

    @staticmethod
    def concatenate(histories: Sequence[History]) -> History:
        """Return the runs of all histories as one; the protocol is the first one's.

        Raises
        ------
        ValueError
            If there is none, or they were not evaluated at the same steps by the same metrics.
        """
        if not histories:
            raise ValueError("no histories: expected at least one to concatenate.")
        first = histories[0]
        for history in histories:
            for found, expected in (
                (history.steps, first.steps),
                (sorted(history.values), sorted(first.values)),
                (len(history.batch_loss), len(first.batch_loss)),
            ):
                if found != expected:
                    raise ValueError(
                        f"histories measured {found} and {expected}: expected the same steps and "
                        "metrics. Train them alike."
                    )
        return replace(
            first,
            ensemble=Ensemble.concatenate([h.ensemble for h in histories]),
            batch_loss=torch.cat([h.batch_loss for h in histories], 1),
            values={key: torch.cat([h.values[key] for h in histories], 1) for key in first.values},
        )


class TrainingError(RuntimeError):
    """Not all runs could be trained; those that could are kept.

    Attributes
    ----------
    history : History
        Of the runs that were trained, in the order of the ensemble.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str, History]]:
        return type(self), (str(self), self.history)
