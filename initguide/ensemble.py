"""How do many models train as one? As slices of the same tensors, one a run.

An `Ensemble` stacks models of one architecture: each of its parameters has a leading
dimension of length runs, and run *i* is the pair of a scheme and a seed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from initguide.initialize import initialize_
from initguide.schemes import Scheme, get_scheme

__all__ = ["Ensemble", "run_generator"]

_STREAMS = ("weights", "batches", "dropout", "evaluation", "architecture")


def run_generator(seed: int, stream: str) -> torch.Generator:
    """Return the random stream of a run for one purpose.

    Parameters
    ----------
    seed : int
        The run's seed, not negative.
    stream : {"weights", "batches", "dropout", "evaluation", "architecture"}
        What is drawn. Streams of one seed are independent of each other, so that drawing more
        of one changes nothing in another. ``weights`` is seeded with the seed itself: `initialize_`
        with ``torch.Generator().manual_seed(seed)`` gives the weights of that run.

    Returns
    -------
    torch.Generator
        On the CPU, whatever device the run trains on.
    """
    generator = torch.Generator().manual_seed(seed)
    if stream == "weights":
        return generator
    key = (seed, _STREAMS.index(stream))
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return generator.manual_seed(int(state[0] >> np.uint64(1)))


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Models of one architecture, one for each pair of a scheme and a seed.

    Use `Ensemble.build`.

    Attributes
    ----------
    template : nn.Module
        The architecture; its own weights mean nothing.
    parameters, buffers : dict of Tensor
        By name, of shape ``(runs, *shape)``.
    schemes : tuple of str
        Name of each run's scheme.
    seeds : tuple of int
        Seed of each run.
    """

    template: nn.Module
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    schemes: tuple[str, ...]
    seeds: tuple[int, ...]

    @classmethod
    def build(
        cls,
        make_model: Callable[[], nn.Module],
        *,
        schemes: Iterable[str | Scheme] | Mapping[str, str | Scheme],
        seeds: Iterable[int],
        rules: Mapping[str, Any] | None = None,
        batch: Any = None,
    ) -> Ensemble:
        """Build and initialize a model for each scheme and each seed.

        Parameters
        ----------
        make_model : callable
            Returns a new model of always the same shapes.
        schemes : iterable or mapping of schemes
            Keys of `SCHEMES` or schemes of your own; a mapping gives the names under which they
            stand in the results.
        seeds : iterable of int
            Different numbers, not negative. All schemes get each seed, so that they can be
            compared in pairs.
        rules, batch
            As in `initialize_`, the same for all runs: ``rules={"rnn": None}`` keeps what
            ``make_model`` gave a layer under that seed.

        Returns
        -------
        Ensemble
            Runs in the order of seeds, and of schemes within a seed.

        Raises
        ------
        ValueError
            If there is no scheme or no seed, one stands twice, a seed is not a whole number from
            0 up, or two models differ in more than the values of their weights.

        Notes
        -----
        A run's weights depend on its seed and scheme only: the schemes of one seed start from
        the same stream of random numbers, whatever the other schemes are and whatever the
        state of torch's global generator, which is left as it was. Parameters that no scheme
        covers keep what ``make_model`` gave them under that seed.

        Examples
        --------
        >>> from initguide import Ensemble, mlp
        >>> make = lambda: mlp(4, 3, 2)
        >>> ensemble = Ensemble.build(make, schemes=["zeros", "he_normal"], seeds=range(3))
        >>> len(ensemble), ensemble.parameters["hidden1.weight"].shape
        (6, torch.Size([6, 3, 4]))
        """
        if isinstance(make_model, nn.Module) or not callable(make_model):
            raise TypeError(
                f"make_model is a {type(make_model).__name__}: expected a function that returns a "
                "new model. Pass the lines that build it as a lambda or def."
            )
        for name, several in (("schemes", schemes), ("seeds", seeds)):
            if not isinstance(several, Iterable | Scheme):
                raise TypeError(
                    f"{name}={several!r}: expected several, for example schemes=['he_normal'], "
                    "seeds=range(10)."
                )
        rows = schemes if isinstance(schemes, Mapping) else {_name(s): s for s in _listed(schemes)}
        named = {name: get_scheme(scheme) for name, scheme in rows.items()}
        seeds = tuple(seeds)
        if not named or not seeds:
            raise ValueError(
                f"{len(named)} schemes and {len(seeds)} seeds make no run: expected at least one "
                "of each, for example schemes=['he_normal'], seeds=range(10)."
            )
        for seed in seeds:
            whole = isinstance(seed, int | np.integer) and 0 <= seed < 2**64
            if not whole or seeds.count(seed) > 1:
                raise ValueError(
                    f"seed {seed!r} in seeds={seeds} cannot be used: expected different whole "
                    "numbers from 0 up, below 2**64, for example range(10)."
                )
        models: list[nn.Module] = []
        for seed in map(int, seeds):
            model = _seeded(make_model, seed)
            if models:
                _check_same(model, models[0], "model", len(models) // len(named))
            for scheme in named.values():
                models.append(copy.deepcopy(model))
                generator = run_generator(seed, "weights")
                initialize_(models[-1], scheme, rules=rules, batch=batch, generator=generator)
        return cls(
            template=copy.deepcopy(models[0]),
            parameters=_stack([dict(model.named_parameters()) for model in models]),
            buffers=_stack([dict(model.named_buffers()) for model in models]),
            schemes=tuple(named) * len(seeds),
            seeds=tuple(int(seed) for seed in seeds for _ in named),
        )

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.seeds)

    def __repr__(self) -> str:
        each = sum(p[0].numel() for p in self.parameters.values())
        return (
            f"Ensemble of {len(self)} runs ({len(set(self.schemes))} schemes x "
            f"{len(set(self.seeds))} seeds) of {each:,} parameters each"
        )

    def model(self, scheme: str, seed: int) -> nn.Module:
        """Return a copy of one run's model.

        Raises
        ------
        KeyError
            If the ensemble has no such run; the message says which it has.
        """
        runs = list(zip(self.schemes, self.seeds, strict=True))
        if (scheme, seed) not in runs:
            raise KeyError(
                f"no run of scheme {scheme!r} and seed {seed!r}: expected a scheme of "
                f"{sorted(set(self.schemes))} and a seed of {sorted(set(self.seeds))}."
            )
        number = runs.index((scheme, seed))
        model = copy.deepcopy(self.template)
        state = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                tensor.copy_(state[name][number])
        return model

    def select(self, runs: Sequence[int] | slice) -> Ensemble:
        """Return the ensemble of some of the runs, by position; its tensors are copies."""
        index = torch.arange(len(self))[[*runs] if isinstance(runs, tuple | range) else runs]
        return replace(
            self,
            parameters={name: p.detach()[index].clone() for name, p in self.parameters.items()},
            buffers={name: b.detach()[index].clone() for name, b in self.buffers.items()},
            schemes=tuple(self.schemes[i] for i in index.tolist()),
            seeds=tuple(self.seeds[i] for i in index.tolist()),
        )

    @staticmethod
    def concatenate(ensembles: Sequence[Ensemble]) -> Ensemble:
        """Return the runs of all ensembles as one.

        Raises
        ------
        ValueError
            If there is none, or they are not of one architecture.
        """
        if not ensembles:
            raise ValueError("no ensembles: expected at least one to concatenate.")
        for number, ensemble in enumerate(ensembles):
            _check_same(ensemble.template, ensembles[0].template, "ensemble", number)
        return replace(
            ensembles[0],
            parameters={
                name: torch.cat([e.parameters[name] for e in ensembles])
                for name in ensembles[0].parameters
            },
            buffers={
                name: torch.cat([e.buffers[name] for e in ensembles])
                for name in ensembles[0].buffers
            },
            schemes=tuple(scheme for e in ensembles for scheme in e.schemes),
            seeds=tuple(seed for e in ensembles for seed in e.seeds),
        )


def _name(scheme: str | Scheme) -> str:
    return scheme.name if isinstance(scheme, Scheme) else scheme


def _listed(schemes: Iterable[str | Scheme]) -> list[str | Scheme]:
    listed: list[str | Scheme] = [schemes] if isinstance(schemes, str | Scheme) else [*schemes]
    names = [_name(scheme) for scheme in listed]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"scheme {name!r} stands twice in schemes={names}: expected different names. "
                "Pass a mapping from names to schemes to run one scheme under two names."
            )
    return listed


def _seeded(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    # Layers that no scheme covers draw from the global generator when they are built: seed
    # it for them, with a stream of their own, and give the caller's state back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run_generator(seed, "architecture").initial_seed())
        return make_model()


def _check_same(model: nn.Module, first: nn.Module, kind: str, number: int) -> None:
    if model is first:
        return
    found, expected = _architecture(model), _architecture(first)
    if found != expected:
        names = sorted(n for n in {**found, **expected} if found.get(n) != expected.get(n))[:5]
        raise ValueError(
            f"{kind} {number} differs from {kind} 0 in {', '.join(names)}: "
            f"{[found.get(n) for n in names]} instead of {[expected.get(n) for n in names]}. "
            "An ensemble holds one architecture: build one ensemble for each."
        )


def _architecture(model: nn.Module) -> dict[str, str]:
    """Return what runs must have in common, by name: each layer, parameter and buffer."""
    layers = {name or "the model": m for name, m in model.named_modules()}
    told = {name: f"{type(m).__qualname__}({m.extra_repr()})" for name, m in layers.items()}
    told = {name: re.sub(r" at 0x[0-9a-fA-F]+", "", text) for name, text in told.items()}
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        fixed = ", fixed" if isinstance(p, nn.Parameter) and not p.requires_grad else ""
        told[name] = f"{tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}{fixed}"
    return told


def _stack(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([s[name].detach() for s in states]) for name in states[0]}
