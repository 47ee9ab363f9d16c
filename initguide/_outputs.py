"""What is in the outputs of a layer? Tensors, examples and units, and their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Bounds = tuple[float, float]

# Layers whose units are the channels, in dimension 1, and those with units in the last dimension.
_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_FEATURES = (
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm),
    *(nn.RNNBase, nn.MultiheadAttention),
)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module's output, each with the expression that selects it."""
    if isinstance(value, Tensor):
        yield path, value
    items: dict[str, Any] = {}
    if isinstance(value, Mapping):
        items = {f"[{key!r}]": part for key, part in value.items()}
    elif isinstance(value, (tuple, list)):
        items = {f"[{key}]": part for key, part in enumerate(value)}
    elif is_dataclass(value):
        items = {f".{key}": part for key, part in vars(value).items()}
    for key, part in items.items():
        yield from tensors(part, path + key)


class Axes:
    """Tell which dimension of an output counts the examples, and which the units.

    As many examples as the first dimension of the inputs has; as the second, if the first module
    with ``batch_first=False`` is given three. Units are the last dimension of what a linear or
    recurrent layer returns, the channels of a convolution, and with other layers as with the last
    output that had the same shape, or else as many dimensions.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        shapes = [t.shape for _, t in tensors(inputs) if t.dim()]
        shape = next((s for s in shapes if len(s) > 1), shapes[0] if shapes else ())
        self.orders = {_batch_first(m) for m in model.modules()} - {None}
        # Two or three dimensions may begin with the sequence.
        self.unclear = False in self.orders and len(shape) < 4
        self.count = shape[0] if shape and not self.unclear else 0
        self.units: dict[tuple[int, ...] | int, int] = {}

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Look at what a module is given."""
        dims = args[0].dim() if args and isinstance(args[0], Tensor) else 0
        if self.unclear and dims == 3 and _batch_first(module) is False:
            self.unclear, self.count = False, args[0].shape[1]

    def of(self, module: nn.Module | None, shape: tuple[int, ...]) -> tuple[int | None, int]:
        """Return the dimensions of examples, if any, and of units in a module's output.

        ``module`` is None for what a function returns.
        """
        n = len(shape)
        if isinstance(module, _CHANNELS):
            unit = 1
        elif isinstance(module, _FEATURES):
            unit = n - 1
        else:
            unit = self.units.get(shape, self.units.get(n, 1 if n > 3 else n - 1))
        self.units[shape] = self.units[n] = unit
        if self.count > 1 and n > 1 and all(shape):
            if shape[0] == self.count:
                return 0, unit
            # Sequences first, or a recurrent layer's last states.
            if self.orders and n > 2 and unit > 1 and shape[1] == self.count:
                return 1, unit
        return None, unit


def _batch_first(module: nn.Module) -> bool | None:
    first = getattr(getattr(module, "self_attn", module), "batch_first", None)
    return first if isinstance(first, bool) else None


class Average(NamedTuple):
    """A sum on the device, and the number of its terms: one transfer gets all that there are."""

    total: Tensor
    terms: int


def moments(
    x: Tensor, bounds: Bounds | None = None, *, examples: int | None = None, unit: int = -1
) -> dict[str, Average]:
    """Return the mean of a tensor, of its square, ... by quantity.

    Parameters
    ----------
    x : Tensor
        Of any shape and layout.
    bounds : pair of float, optional
        Values within 1 % of them are ``saturated``.
    examples, unit : int
        Dimensions of ``x``. With examples, ``example_variance`` and ``dead_units`` are returned.
    """
    x = x if x.layout is torch.strided else x.to_dense()
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    order = sorted((d for d in range(x.dim()) if d != examples), key=x.stride, reverse=True)
    # In the order of memory, and in blocks that fit a cache: no second copy of the whole.
    size = 2**17 if x.device.type == "cpu" else 2**24
    if examples is None:
        columns = [_split(x.permute(order).reshape(-1), size)]
    else:  # one for each unit and position
        table = x.permute(examples, *order).reshape(x.shape[examples], -1)
        width = min(max(size // len(table), 64), table.shape[1])
        columns = [_split(part, max(size // width, 1)) for part in _split(table, width, dim=1)]
    memory = torch.empty(columns[0][0].numel(), dtype=dtype, device=x.device)
    blocks = [_Block.of(parts, memory, bounds) for parts in columns]
    n = x.numel()
    found = {
        "mean": Average(_sum([b.sums.sum() for b in blocks]), n),
        "second_moment": Average(_sum([b.squares for b in blocks]), n),
        "zeros": Average(_sum([b.zeros.sum() for b in blocks]), n),
    }
    saturated = [b.saturated for b in blocks if b.saturated is not None]
    if saturated:
        found["saturated"] = Average(_sum(saturated), n)
    if examples is not None:
        found["example_variance"] = Average(_sum([b.spread() for b in blocks]), n - table.shape[1])
        zeros = torch.cat([b.zeros for b in blocks]).view([x.shape[d] for d in order])
        positions = [d for d in range(len(order)) if order[d] != unit]
        dead = (zeros.amin(positions) if positions else zeros) == len(table)
        found["dead_units"] = Average(dead.sum(), x.shape[unit])
    return found


class _Block(NamedTuple):
    """Some columns of a table, or a vector, in parts: sums over the rows, or over all elements."""

    parts: Sequence[Tensor]
    sums: Tensor
    squares: Tensor
    zeros: Tensor
    saturated: Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Tensor], memory: Tensor, bounds: Bounds | None) -> _Block:
        sums, squares, zeros, saturated = [], [], [], []
        for part in parts:
            flat = memory[: part.numel()]
            wide = flat.view(part.shape).copy_(part)
            sums.append(wide.sum(0))
            squares.append(flat.dot(flat))
            if bounds is not None:
                middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
                saturated.append((wide - middle).abs_().ge_(0.98 * half).sum())
            zeros.append(wide.eq_(0).sum(0))  # in place and last: the fastest way to count
        share = _sum(saturated) if saturated else None
        return cls(parts, _sum(sums), _sum(squares), _sum(zeros), share)

    def spread(self) -> Tensor:
        """Return the sum of squared deviations from each column's mean."""
        n = sum(map(len, self.parts))
        found = self.squares - self.sums.dot(self.sums) / n
        # Where examples are nearly alike that cancels: the differences from the first one do not.
        # To ask costs nothing on a CPU, elsewhere a wait for the device.
        if found.device.type != "cpu" or not float(found) > 1e-4 * float(self.squares):
            first = self.parts[0][0].to(found.dtype)
            sums, squares = torch.zeros_like(self.sums), torch.zeros_like(self.squares)
            for part in self.parts:
                apart = part.to(found.dtype).sub(first)
                sums += apart.sum(0)
                squares += apart.square_().sum()
            found = squares - sums.dot(sums) / n
        return found.clamp(min=0)


def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    return [x] if x.shape[dim] <= size else torch.split(x, size, dim)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors)).sum(0)
