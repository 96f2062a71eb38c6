"""Medians over the rounds, and ratios between servers. Pure: samples in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

__all__ = ["medians", "ratio", "spread"]

Sample = Mapping[str, Any]
Key = tuple[str, str]  # trial, server

# What must not be averaged away: one lost notification in one round is one too many.
_WORST = {"lost", "misordered", "failed", "wrong", "same_session_failed"}


def medians(samples: Iterable[Sample]) -> dict[Key, dict[str, Any]]:
    """Put the rounds of each trial and server together.

    Args:
        samples: Each with `trial` and `server`, and numbers, texts, or an `error`.

    Returns:
        For each trial and server the median of every number over the rounds that worked, the sum of what counts
        losses, the first text of each kind, `rounds`, and `error`, the first one, if any round failed.
    """
    grouped: dict[Key, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample["trial"], sample["server"]), []).append(sample)
    return {key: _together(rounds) for key, rounds in grouped.items()}


def _together(rounds: list[Sample]) -> dict[str, Any]:
    good = [one for one in rounds if "error" not in one]
    found: dict[str, Any] = {"rounds": len(good)}
    for name in dict.fromkeys(name for one in good for name in one if name not in {"trial", "server", "round"}):
        values = [one[name] for one in good if name in one]
        if not all(isinstance(value, int | float) for value in values):
            found[name] = values[0]
        else:
            found[name] = sum(values) if name in _WORST else median(values)
    if errors := [one["error"] for one in rounds if "error" in one]:
        found["error"] = errors[0]
    return found


def ratio(mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None, key: str) -> float | None:
    """Mine by theirs, or None where either was not measured."""
    if mine is None or theirs is None or not theirs.get(key) or mine.get(key) is None:
        return None
    return mine[key] / theirs[key]


def spread(samples: Iterable[Sample], trial: str, server: str, key: str) -> float | None:
    """How far the rounds lie apart: (highest - lowest) by the median; None with fewer than two."""
    values = [one[key] for one in samples if one["trial"] == trial and one["server"] == server and key in one]
    if len(values) < 2 or not (middle := median(values)):
        return None
    return (max(values) - min(values)) / middle
