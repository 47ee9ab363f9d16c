"""Does a finding support the verdict on a source's claim? The rules of ``claims.yml`` decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from page_sources import provenance
from scrapers import numbers

VERDICTS = ("holds", "compatible", "holds with conditions", "no difference", "undecided", "wrong")


def sources(claims_file: Path) -> dict[str, dict[str, Any]]:
    """Return what ``claims.yml`` says of each source."""
    with claims_file.open(encoding="utf-8") as file:  # so that an error names it
        found: dict[str, dict[str, Any]] = yaml.safe_load(file)
    return found


def rules(claims_file: Path) -> dict[str, dict[str, Any]]:
    """Return the entry of each claim of ``claims.yml``, by its name."""
    every = sources(claims_file).values()
    return {name: rule for source in every for name, rule in source["claims"].items()}


def judge(finding: Any, rule: Mapping[str, Any]) -> bool | None:
    """Return whether the finding supports the verdict; None where these data cannot tell.

    Its value has to lie between ``above`` and ``below``, for "no difference" its whole interval,
    and its interval has to hold what the source ``reported``. Claims on one ``complete`` data set
    are not judged on its sample.
    """
    if "complete" in rule and provenance(rule["complete"]).is_sample:
        return None
    value, low, high = numbers(finding)
    inside = rule.get("above", -math.inf) < value < rule.get("below", math.inf)
    if rule.get("verdict") == "no difference":
        inside = inside and None not in (low, high) and rule["above"] < low < high < rule["below"]
    if "equal" in rule:
        inside = value == rule["equal"]
    if "reported" in rule:
        inside = inside and low is not None and high is not None and low < rule["reported"] < high
    return inside


def in_words(rule: Mapping[str, Any]) -> str:
    """Say what a rule expects of the finding."""
    words = dict(above="above", below="below", equal="exactly", reported="an interval around")
    return " and ".join(f"{words[key]} {rule[key]}" for key in words if key in rule)
