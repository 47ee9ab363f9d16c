r"""How large should the weights of *this* model be on *this* data? Measure, and rescale.

Layer-sequential unit-variance initialization: the weights of each layer, in order of execution,
are divided by the standard deviation of the layer's output until that is 1. No gain is needed,
whatever stands between the layers. `lsuv_` does it in one pass through the model.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initguide._outputs import Axes
from initguide._rescale import LSUVLayer, Rescale, layers_of, quiet
from initguide._unchanged import copies, unchanged
from initguide.layers import arguments

__all__ = ["LSUVLayer", "LSUVReport", "lsuv_"]

_ALIKE = 0.01  # share of the variance that tells examples apart


@dataclass(frozen=True)
class LSUVReport:
    """What `lsuv_` did to a model.

    Attributes
    ----------
    layers : tuple of LSUVLayer
        In order of execution; ``pandas.DataFrame(report.layers)`` is a table.
    left_alone : tuple of str
        Names of the parameters that were not touched: they are what they were.
    """

    layers: tuple[LSUVLayer, ...]
    left_alone: tuple[str, ...]

    @property
    def alike(self) -> tuple[str, ...]:
        """Layers whose output is nearly the same for all examples.

        Less than 1 % of its variance is between examples, the rest between units.
        """
        return tuple(y.name for y in self.layers if y.between < _ALIKE * y.after)

    def __repr__(self) -> str:
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':{width}}  variance before  after  rescales  between examples"]
        lines += [
            f"{name:{width}}  {before:15.4g}  {after:5.3f}  {rescales:8}  {between:16.4g}"
            for name, before, after, rescales, between in self.layers
        ]
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        import pandas as pd

        columns = ["layer", "variance before", "after", "rescales", "between examples"]
        table = pd.DataFrame(self.layers).set_axis(columns, axis=1)
        rows = table.to_html(index=False, border=0, float_format="{:.4g}".format)
        return rows + "".join(
            f"<p>{html.escape(line[0].upper() + line[1:])}</p>" for line in self._remarks()
        )

    def _remarks(self) -> Iterator[str]:
        yield f"left alone: {', '.join(self.left_alone) or 'nothing'}"
        if self.alike:
            yield f"nearly the same for all examples: {', '.join(self.alike)}"


def lsuv_(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any],
    *,
    tolerance: float = 0.1,
    max_rescales: int = 10,
    orthogonal: bool = True,
    frozen: bool = False,
    generator: torch.Generator | None = None,
) -> LSUVReport:
    r"""Give the output of every layer variance 1 on a batch of real data [mishkin2016]_.

    Parameters
    ----------
    model : nn.Module
        Changed in place: its Linear, Conv and ConvTranspose layers, the output layer too.
    batch : Tensor, tuple, list or mapping
        A tensor, positional inputs, or keyword inputs: some hundred examples of the training
        set, prepared as for training; no labels.
    tolerance : float
        By how much a variance may miss 1, between 0 and 1.
    max_rescales : int
        How often a layer's weight may be rescaled, at least once.
    orthogonal : bool
        Start from orthogonal weights (a convolution's seen as a matrix) and zero biases.
        Otherwise rescale the weights that the model has, and keep its biases.
    frozen : bool
        Whether to change parameters with ``requires_grad=False`` and low-rank adapters, too.
    generator : torch.Generator, optional
        Where the orthogonal weights come from, layer by layer in order of execution; torch's
        global one by default.

    Returns
    -------
    LSUVReport
        Variances and rescales by layer, the layers behind which the examples are nearly alike,
        and the parameters that were left alone: frozen ones, those of other kinds of layers, and
        of layers that the batch did not reach.

    Raises
    ------
    ValueError
        If an argument is out of range, no layer can be rescaled or none was reached, or if a
        layer's weight is zero or sharded, or its output is not finite, does not vary, or cannot
        be given variance 1.
    TypeError
        If ``batch`` is none of these.

    Notes
    -----
    The variance is that over all elements of the output: examples, units, positions. Where it is
    1, examples may still be alike, as behind sigmoids: then it is a variance between units.

    Without a bias the variance is :math:`v` times that of :math:`W / \sqrt v`, so one rescale is
    enough; a bias that is kept does not shrink with the weight, and takes several.

    The model runs once, without gradients, on a copy of the batch. Before a layer runs, its output
    is computed, and again after each rescale, from inputs that passed through rescaled layers
    only. Dropout, and what else asks for the mode, is off, so that nothing is random; batch
    normalization keeps its mode, as it normalizes while it trains. A layer or a weight that is
    used more than once is rescaled at its first use. A weight that a module of another kind owns
    too, such as a tied embedding, is left alone; so is, where others are frozen, one that is zero,
    such as the second of a low-rank adapter, and one with "lora" in its name.

    All or nothing: after an error the parameters are what they were. Everything else always is,
    as after `probe`; torch's global random state if ``generator`` is given or no weight is drawn.

    Examples
    --------
    >>> import torch
    >>> from initguide import mlp
    >>> g = torch.Generator().manual_seed(0)
    >>> model = mlp(20, *[50] * 10, 3, activation="gelu")
    >>> report = lsuv_(model, torch.randn(200, 20, generator=g), generator=g)
    >>> max(layer.rescales for layer in report.layers), report.left_alone
    (1, ())
    """
    args, kwargs = arguments(batch)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r}: expected between 0 and 1. Leave it at 0.1.")
    if max_rescales < 1:
        raise ValueError(f"max_rescales={max_rescales!r}: expected at least 1. Leave it at 10.")
    names = layers_of(model, frozen)
    # Without a generator of the caller's, the global one must move on: it gave the weights.
    draws = generator is not None or not orthogonal
    with unchanged(model, batch, draws=draws) as kept, quiet(model), ExitStack() as hooks:
        args, kwargs = copies((args, kwargs))
        run = Rescale(
            *(model, names, Axes(model, (args, kwargs)), frozen),
            *(tolerance, max_rescales, orthogonal, generator),
        )
        for m in model.modules():
            if not isinstance(m, torch.jit.ScriptModule):
                hooks.callback(m.register_forward_pre_hook(run.axes.enter).remove)
        for m in names:
            hooks.callback(m.register_forward_pre_hook(run.visit, with_kwargs=True).remove)
        model(*args, **kwargs)
        if not run.layers:
            raise ValueError(
                f"the batch reached none of {', '.join(names.values())}: expected a layer to be "
                "called. Pass inputs for which the model calls its layers."
            )
        kept.update(run.changed)
    left = tuple(name for name, p in model.named_parameters() if p not in run.changed)
    return LSUVReport(tuple(run.layers), left)
