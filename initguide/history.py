"""What did training measure? A `History` has it all, and `History.frame` makes it a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from initguide.ensemble import Ensemble

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History"]


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
