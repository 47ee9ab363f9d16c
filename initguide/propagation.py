"""How do a signal and its gradient travel through a model? `probe` measures, layer by layer.

One forward pass, and with a loss one backward pass, of any torch module. The model is left
exactly as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from initguide._recorder import Recorder
from initguide._unchanged import copies, unchanged
from initguide.layers import arguments, check_memory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["probe"]


def probe(
    model: nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None = None
) -> pd.DataFrame:
    """Measure the activations and gradients of every layer on one batch.

    Parameters
    ----------
    model : nn.Module
        Measured in the mode it is in, train or eval.
    batch : Tensor, tuple, list or mapping
        A tensor, positional inputs, or keyword inputs.
    loss : callable, optional
        Maps the model's output to a scalar: ``lambda out: F.cross_entropy(out, targets)``. With
        it, gradients are measured too.

    Returns
    -------
    pandas.DataFrame
        The layers table: ``layer, name, quantity, value, origin``. ``layer`` counts from 1 in
        the order of execution; ``origin`` is ``measured``. Of each layer's output:

        - ``mean``, ``second_moment``, ``zeros`` (the fraction that is exactly 0);
        - ``saturated``, the fraction within 1 % of the range of a bound, if it is the result of
          tanh, sigmoid, hardtanh, hardsigmoid, softsign or erf;
        - if it has a batch dimension: ``example_variance``, each unit's variance over the examples
          at each position, and their mean, ``output.var(dim=0).mean()``; and ``dead_units``, the
          fraction of units that are 0 for every example at every position;
        - with a loss, ``gradient_mean``, ``gradient_second_moment`` and ``gradient_zeros`` of
          the loss's gradient with respect to it.

        With a loss also ``weight_gradient_mean`` ... of each parameter, in rows that have the
        parameter's name and the layer of the module that owns it.

    Raises
    ------
    TypeError
        If the model, the batch or the loss is of another type.
    ValueError
        If the model has no layer, a parameter or buffer has no memory (lazy or meta device), or
        the loss does not return a scalar tensor or has no gradient.

    Notes
    -----
    A layer is a module without submodules; an activation function that another module's
    ``forward`` calls (``block.relu`` for ``F.relu(x)`` in ``block``); and whatever else such a
    module computes and returns, ``block`` itself for a residual sum. A name met again ends in
    ``#2``, ``#3``, ...; several tensors of one output are told apart as in Python: ``lstm[0]``,
    ``lstm[1][0]``, ``heads['logits']``. Only floating-point tensors count, with the values that
    the layer returned: before any in-place operation behind it.

    A batch dimension is one, of two or more, whose size is that of the inputs' first dimension; or
    of their second, if the first module with ``batch_first=False`` gets them that way. An output
    without one, as of a position embedding, has no ``example_variance`` and no ``dead_units``, nor
    has one of less than two dimensions, or a batch of one example. Units are channels behind a
    convolution, batch or group normalization, and the last dimension behind other layers.

    ``second_moment`` does not tell a signal from biases, which are the same for all examples;
    ``example_variance`` does. ReLU6, like ReLU, is judged by ``zeros``. Sums are taken in double
    precision (single on a device that has no other). Values that are not finite are recorded as
    they are. No gradient is listed where autograd computes none: nothing in or before the layer
    requires it, the loss does not depend on it, or the output is a view that is then overwritten
    in place.

    Afterwards the model is what it was, also after an error: parameters and buffers, their
    ``.grad`` and ``requires_grad``; each module's attributes, its mode and hooks among them; and
    what these hold, at any depth: tensors, numpy arrays, random generators, and the contents of
    lists, dicts, sets, deques, of their subclasses (``Counter``), tuples, dataclasses and modules
    that are no submodules. So are the random states of torch, numpy and Python. Not put back is
    what else a forward reaches: attributes of objects of other classes, iterators, global
    variables, files, and the history of a tensor that has one. A compiled module runs uncompiled.

    The model gets copies of the batch's tensors and arrays, at any depth. Where one requires a
    gradient the copy does, and the loss may differentiate by the one in the batch.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional as F
    >>> from initguide import mlp
    >>> x, y = torch.rand(50, 784), torch.arange(50) % 10
    >>> table = probe(mlp(784, 100, 10), x, lambda out: F.cross_entropy(out, y))
    >>> list(table["name"].unique()[1:5])
    ['hidden1', 'hidden1.weight', 'hidden1.bias', 'activation1']
    >>> moments = table[table["quantity"] == "second_moment"].set_index("name")["value"]
    >>> bool(moments["activation1"] < moments["hidden1"])  # what a ReLU takes away
    True
    """
    if not isinstance(model, nn.Module) or not (loss is None or callable(loss)):
        raise TypeError(
            f"model is of type {type(model).__name__}, loss of type {type(loss).__name__}: "
            "expected a torch.nn.Module and a function of its output, as in "
            "probe(model, x, lambda out: F.cross_entropy(out, y))."
        )
    named = [*model.named_parameters(), *model.named_buffers()]
    check_memory(named)
    frozen = [name for name, tensor in named if tensor.is_inference()]
    if frozen and loss is not None:
        raise ValueError(
            f"{frozen[0]!r} was made in inference mode, without gradients: expected an ordinary "
            "tensor. Probe copy.deepcopy(model), or leave out the loss."
        )
    graph = loss is not None or torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(graph), unchanged(model, batch):
        # torch lets nobody write to the tensors of inference mode; those of a copy are ordinary.
        measured = copy.deepcopy(model) if frozen else model
        recorder = Recorder(measured, copies(arguments(batch)), gradients=loss is not None)
        with recorder.hooks:
            output = recorder.forward()
            if loss is not None:
                recorder.backward(loss(output))
        return recorder.table()
