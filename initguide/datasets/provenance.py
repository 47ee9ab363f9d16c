"""Where do data come from? A `Provenance` says, with licence and digests."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from initguide.datasets._checks import check_names, check_type

__all__ = ["DatasetError", "Provenance", "SampleWarning"]

Source = Literal["root", "environment", "cache", "download", "sample", "generated"]

_SOURCE_WORDS: dict[Source, str] = {
    "root": "complete, from a folder named by the caller",
    "environment": "complete, from $INITGUIDE_DATA",
    "cache": "complete, from the user cache",
    "download": "complete, downloaded",
    "sample": "bundled sample",
    "generated": "generated",
}


class DatasetError(RuntimeError):
    """Data that were asked for by place are missing, damaged or not what they should be."""


class SampleWarning(UserWarning):
    """The complete data cannot be had, so the bundled sample stands in for them."""


@dataclass(frozen=True)
class Provenance:
    """Where data come from, under which licence, and which files exactly were read.

    Parameters
    ----------
    name : str
        The data set, for example ``"mnist"``.
    source : {"root", "environment", "cache", "download", "sample", "generated"}
        The place the files were found in.
    licence, homepage : str
        The licence's short name and a public URL; empty for generated data.
    sha256 : mapping of str to str
        SHA-256 of each file that was read, of its decompressed content.
    details : tuple of str
        What to know beside the source: the size of a sample, the parameters of generated
        data, and each step by which a data set was derived from another.
    path : pathlib.Path, optional
        The folder on this machine. It appears in no ``repr``.

    Raises
    ------
    TypeError
        If a part is of another type, for example a string for ``details``.
    ValueError
        If ``source`` is not one of these.

    Examples
    --------
    >>> from initguide import datasets
    >>> datasets.threshold().provenance.source
    'generated'
    """

    name: str
    source: Source
    licence: str = ""
    homepage: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)
    details: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for part in ("name", "source", "licence", "homepage"):
            check_type(part, getattr(self, part), str)
        check_type("sha256", self.sha256, Mapping)
        object.__setattr__(self, "details", check_names("details", self.details))
        if self.source not in _SOURCE_WORDS:
            raise ValueError(
                f"source is {self.source!r}; expected one of {', '.join(_SOURCE_WORDS)}. Say "
                "more in details."
            )

    @property
    def is_sample(self) -> bool:
        """Whether these are the bundled sample, not the complete data."""
        return self.source == "sample"

    @property
    def fingerprint(self) -> str:
        """One hex digest over what the data are, equal wherever the same files were found.

        The source is left out on purpose: what was downloaded today comes from the cache
        tomorrow, and nothing computed from it has become stale.
        """
        content = [self.name, sorted(self.sha256.items()), self.details]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """The source and the details, one phrase for a notice on a page."""
        words = _SOURCE_WORDS[self.source]
        return f"{words}: {'; '.join(self.details)}" if self.details else words

    def derive(self, step: str) -> Provenance:
        """Return the provenance of data made from these by ``step``."""
        return replace(self, details=(*self.details, step))

    def __repr__(self) -> str:
        parts = [f"{self.name}, {self.summary}", self.licence, self.fingerprint[:12]]
        return f"Provenance({' | '.join(filter(None, parts))})"

    def _repr_html_(self) -> str:
        name, summary = html.escape(self.name), html.escape(self.summary)
        if self.homepage:
            name = f'<a href="{html.escape(self.homepage)}">{name}</a>'
        licence = f" Licence: {html.escape(self.licence)}." if self.licence else ""
        return f"<p><strong>{name}</strong>: {summary}.{licence}</p>"
