"""The few statistics that a figure is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

CONFIDENCE = 2.0
"""Standard errors on either side between which 95 % are."""


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
    """A figure over rounds, or a mean and the bounds between which it is."""

    median: float
    least: float
    most: float

    def percent_more(self) -> Spread:
        """Of a ratio: by how many percent it is more than one."""
        return Spread(*(100 * (value - 1) for value in (self.median, self.least, self.most)))


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median and range of the rounds that have the figure; None when fewer than half have it."""
    every = list(values)
    known = [value for value in every if value is not None]
    if not known or 2 * len(known) < len(every):
        return None
    return Spread(median(known), min(known), max(known))


def ratio_within(pairs: Sequence[tuple[float, float]]) -> Spread | None:
    """The ratio of the sums of pairs, and between what the true one is with 95 % confidence; None of fewer than five.

    The ratio of sums and not the mean of quotients: what happens in few turns counts, for as much as it costs.
    """
    if len(pairs) < 5:
        return None
    below = sum(second for _, second in pairs)
    ratio = sum(first for first, _ in pairs) / below
    error = stdev(first - ratio * second for first, second in pairs) * math.sqrt(len(pairs)) / below
    return Spread(ratio, ratio - CONFIDENCE * error, ratio + CONFIDENCE * error)
