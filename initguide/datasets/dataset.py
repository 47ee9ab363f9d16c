"""What does a model learn from, and what is it tested on? Four tensors, and their origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from initguide.datasets._checks import (
    check_names,
    check_split,
    check_type,
    part_of,
    seed_number,
    whole_number,
)
from initguide.datasets.provenance import Provenance

__all__ = ["Dataset"]

PARTS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test data in memory, and where they come from.

    Parameters
    ----------
    name : str
        The data set, for example ``"mnist"``.
    train_inputs, test_inputs : torch.Tensor
        Floating point, finite, shape ``(examples, *features)``.
    train_targets, test_targets : torch.Tensor
        Integer class indices, shape ``(examples,)``, or floating-point values.
    classes : tuple of str
        The class that each integer target stands for.
    provenance : Provenance
        Where the data come from.

    Raises
    ------
    TypeError
        If a part is of another type: an array instead of a tensor, a string instead of a tuple.
    ValueError
        If lengths, shapes, number types, devices or values do not fit together.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        check_type("name", self.name, str)
        check_type("provenance", self.provenance, Provenance)
        object.__setattr__(self, "classes", check_names("classes", self.classes))
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {self.classes}; expected different names.")
        check_split("train", self.train_inputs, self.train_targets, self.classes)
        check_split("test", self.test_inputs, self.test_targets, self.classes)
        for part in ("inputs", "targets"):
            train, test = getattr(self, f"train_{part}"), getattr(self, f"test_{part}")
            found, expected = ((x.dtype, tuple(x.shape[1:])) for x in (test, train))
            if found != expected:
                raise ValueError(
                    f"Each of test_{part} is {found}; expected {expected}, like train_{part}. "
                    "Convert or reshape one of them."
                )
        places = {str(getattr(self, part).device) for part in PARTS}
        if len(places) > 1:
            raise ValueError(
                f"The tensors are on {' and '.join(sorted(places))}; expected one device. Move "
                "them with .to()."
            )

    @property
    def is_sample(self) -> bool:
        """Whether these are a bundled sample, not the complete data."""
        return self.provenance.is_sample

    def first(self, train: int, test: int) -> Dataset:
        """Keep the first examples, for an experiment that needs no more.

        Parameters
        ----------
        train, test : int
            How many of each set.

        Raises
        ------
        TypeError, ValueError
            If they are not whole numbers, from 1 to the number that there is.

        Examples
        --------
        >>> from initguide import datasets
        >>> datasets.threshold().first(10, 5).train_inputs.shape
        torch.Size([10, 1])
        """
        for name, count in (("train", train), ("test", test)):
            total = len(getattr(self, f"{name}_inputs"))
            if not 0 < whole_number(name, count) <= total:
                raise ValueError(f"{name}={count!r}: expected 1 to {total:,}, all {name} examples.")
        return replace(
            self,
            train_inputs=self.train_inputs[:train],
            train_targets=self.train_targets[:train],
            test_inputs=self.test_inputs[:test],
            test_targets=self.test_targets[:test],
            provenance=self.provenance.derive(f"the first {train:,} + {test:,}"),
        )

    def map(self, function: Callable[..., Tensor], *arguments: object) -> Dataset:
        """Change the inputs of both sets.

        Parameters
        ----------
        function : callable
            Called as ``function(inputs, *arguments)``, with a copy: it may work in place.
        *arguments
            What else it takes.

        Raises
        ------
        TypeError, ValueError
            If it is not callable, or what it returns is no data; see `Dataset`.

        Examples
        --------
        >>> import torch
        >>> from initguide import datasets
        >>> data = datasets.mnist(download=False).map(torch.nn.functional.avg_pool2d, 2)
        >>> data.train_inputs.shape[1:]
        torch.Size([1, 14, 14])
        """
        if not callable(function):
            raise TypeError(f"function is {function!r}; expected a callable.")
        name = getattr(function, "__name__", type(function).__name__)  # no address: it varies
        step = f"{name}({', '.join(map(str, ('inputs', *arguments)))})"
        return replace(
            self,
            train_inputs=function(self.train_inputs.clone(), *arguments),
            test_inputs=function(self.test_inputs.clone(), *arguments),
            provenance=self.provenance.derive(step),
        )

    def standardized(self) -> Dataset:
        """Give the inputs mean 0 and mean square 1, as measured over the training set.

        One mean and one standard deviation serve all features: pixels that are always black
        have none of their own.

        Raises
        ------
        ValueError
            If all training inputs are equal, or so large that their squares overflow.

        Examples
        --------
        >>> from initguide import datasets
        >>> x = datasets.threshold().standardized().train_inputs
        >>> abs(float(x.mean())) < 1e-6, abs(float(x.square().mean()) - 1) < 1e-6
        (True, True)
        """
        std, mean = torch.std_mean(self.train_inputs, correction=0)
        if std == 0:
            raise ValueError(
                f"all training inputs of {self.name} are {mean:g}: expected different ones. Look "
                "at what was done to them."
            )
        if not math.isfinite(std):
            raise ValueError(
                f"the training inputs of {self.name} overflow {self.train_inputs.dtype}: expected "
                "a finite standard deviation. Divide them first."
            )
        return replace(
            self,
            train_inputs=(self.train_inputs - mean) / std,
            test_inputs=(self.test_inputs - mean) / std,
            provenance=self.provenance.derive(f"minus {mean:.4g}, over {std:.4g}"),
        )

    def holdout(self, count_or_fraction: int | float, *, seed: int) -> Dataset:
        """Make a validation split: part of the training set becomes the test set.

        The original test set is left out of the result, so that it stays unseen. Both parts
        keep the order of the training set; the provenance records the step.

        Parameters
        ----------
        count_or_fraction : int or float
            How many training examples to hold out, or which fraction, between 0 and 1.
        seed : int
            Seed of the random choice. The global generator is not used.

        Raises
        ------
        TypeError
            If ``count_or_fraction`` is no number or ``seed`` no whole one.
        ValueError
            If either part would be empty, or ``seed`` is not from 0 to 2**64 - 1.

        Examples
        --------
        >>> from initguide import datasets
        >>> data = datasets.threshold().holdout(0.2, seed=0)
        >>> len(data.train_inputs), len(data.test_inputs)
        (32, 8)
        """
        total = len(self.train_inputs)
        count = part_of(total, "count_or_fraction", count_or_fraction)
        if not 0 < count < total:
            raise ValueError(
                f"count_or_fraction is {count_or_fraction!r}, {count:,} of {total:,} training "
                f"examples; expected 1 to {total - 1:,}, or a fraction between 0 and 1."
            )
        generator = torch.Generator().manual_seed(seed_number(seed))
        order = torch.randperm(total, generator=generator)
        held = torch.isin(torch.arange(total), order[:count])
        step = f"{count:,} of {total:,} training examples held out for validation, seed {seed}"
        return replace(
            self,
            train_inputs=self.train_inputs[~held],
            train_targets=self.train_targets[~held],
            test_inputs=self.train_inputs[held],
            test_targets=self.train_targets[held],
            provenance=self.provenance.derive(step),
        )

    def select_classes(self, classes: Sequence[str | int]) -> Dataset:
        """Keep the examples of some classes, relabelled 0, 1, ... in the order given.

        Parameters
        ----------
        classes : sequence of str or int
            Names or indices of classes, each once.

        Raises
        ------
        TypeError
            If ``classes`` is not a sequence.
        ValueError
            If the targets are not class indices, or a class is unknown or repeated.

        Examples
        --------
        >>> from initguide import datasets
        >>> data = datasets.mnist(download=False).select_classes(["3", "8"])
        >>> data.classes, data.train_targets.unique().tolist()
        (('3', '8'), [0, 1])
        """
        if self.train_targets.is_floating_point():
            raise ValueError(
                f"The targets of {self.name} are {self.train_targets.dtype}; expected integer "
                "class indices. Select examples by their values instead."
            )
        if isinstance(classes, str) or not isinstance(classes, Iterable):
            raise TypeError(f"classes is {classes!r}; expected a list of classes.")
        given = list(classes)
        indices = {key: index for index, name in enumerate(self.classes) for key in (index, name)}
        known = [isinstance(each, str | Integral) and not isinstance(each, bool) for each in given]
        chosen = [indices.get(each, -1) if k else -1 for each, k in zip(given, known, strict=True)]
        if not chosen or len(set(chosen)) < len(chosen) or -1 in chosen:
            raise ValueError(
                f"classes is {given!r}; expected different ones of {list(self.classes)}, "
                "or of their indices."
            )
        relabel = torch.full((len(self.classes),), -1)
        relabel[chosen] = torch.arange(len(chosen))
        train, test = relabel[self.train_targets], relabel[self.test_targets]
        kept = tuple(self.classes[index] for index in chosen)
        return replace(
            self,
            train_inputs=self.train_inputs[train >= 0],
            train_targets=train[train >= 0],
            test_inputs=self.test_inputs[test >= 0],
            test_targets=test[test >= 0],
            classes=kept,
            provenance=self.provenance.derive(f"classes {', '.join(kept)}"),
        )

    def __repr__(self) -> str:
        return f"Dataset({self.name}: {self._sizes()} | {self.provenance.summary})"

    def _repr_html_(self) -> str:
        return f"<div><p>{self._sizes()}</p>{self.provenance._repr_html_()}</div>"

    def _sizes(self) -> str:
        return (
            f"{len(self.train_inputs):,} training and {len(self.test_inputs):,} test examples of "
            f"shape {tuple(self.train_inputs.shape[1:])}, {len(self.classes)} classes"
        )
