"""The few statistics that a figure is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


def percentile(values: Sequence[float], percent: float, failures: int = 0) -> float | None:
    """The smallest value that at least `percent` of the attempts did not exceed; a failure is an endless wait.

    None when that attempt failed, or when there was none.
    """
    attempts = len(values) + failures
    if not attempts:
        return None
    rank = max(1, math.ceil(attempts * percent / 100))
    return sorted(values)[rank - 1] if rank <= len(values) else None


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over rounds."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median and range of the rounds that have the figure; None when fewer than half have it."""
    every = list(values)
    known = [value for value in every if value is not None]
    if not known or 2 * len(known) < len(every):
        return None
    return Spread(median(known), min(known), max(known))
