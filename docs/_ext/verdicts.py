"""Does a finding support the verdict on a source's claim? The rules of ``claims.yml`` decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from page_sources import provenance

VERDICTS = ("holds", "compatible", "holds with conditions", "no difference", "undecided", "wrong")


def rules(claims_file: Path) -> dict[str, dict[str, Any]]:
    """Return the entry of each claim of ``claims.yml``, by its name."""
    sources = yaml.safe_load(claims_file.read_text(encoding="utf-8"))
    return {name: rule for source in sources.values() for name, rule in source["claims"].items()}


def numbers(finding: Any) -> tuple[float, float | None, float | None]:
    """Return value, low and high of a finding: a number, or a row of a table of means."""
    if not isinstance(finding, Mapping) and not hasattr(finding, "to_dict"):
        return float(finding), None, None
    row = dict(finding)
    value = next(row[name] for name in ("value", "mean", "difference") if name in row)
    low, high = (None if row.get(name) is None else float(row[name]) for name in ("low", "high"))
    return float(value), low, high


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
    words = {
        "above": "above",
        "below": "below",
        "equal": "exactly",
        "reported": "an interval around",
    }
    return " and ".join(f"{words[key]} {rule[key]}" for key in words if key in rule)
