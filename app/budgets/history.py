"""What a budget's hours cost: four weeks of them, as a pace to plan by and as the habit that a runaway breaks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HOUR = 3_600
BIN = 600
"""The last hours are kept finer, so that an hour is judged every ten minutes and not when the clock strikes."""
BINS_AN_HOUR = HOUR // BIN
KEPT_HOURS = 4 * 7 * 24 + 2
KEPT_BINS = 3 * BINS_AN_HOUR
NOT_SEEN = -1
"""Nobody looked: no data is not no spend."""
HALF_LIFE_HOURS = 48.0
"""How fast a pace forgets: weekdays and weekends mix, and a jump of demand counts half after two days."""
PACE_HOURS = 14 * 24


@dataclass(slots=True)
class History:
    """Pico-dollars by the hour and, for the last three hours, by ten minutes; as they would be without degradation."""

    hours: dict[int, int] = field(default_factory=dict)
    """Hours since 1970 that were looked at -> pico-dollars."""
    bins: dict[int, int] = field(default_factory=dict)
    seen_at: float | None = None
    """When it was last added to, in seconds since 1970; None before."""
    began_at: float | None = None

    def add(self, now: float, pico: int) -> None:
        """Note what was spent since the last time, spread over the time since then. The first call notes only when."""
        if self.seen_at is None:
            self.seen_at = self.began_at = now
            return
        since, self.seen_at = self.seen_at, max(self.seen_at, now)
        _spread(self.hours, HOUR, since, now, pico, KEPT_HOURS)
        _spread(self.bins, BIN, since, now, pico, KEPT_BINS)

    def skip(self, now: float) -> None:
        """Let the time since the last call go unseen: what was refused or held says nothing about demand."""
        self.seen_at = now
        if self.began_at is None:
            self.began_at = now

    def pace(self, now: float) -> float:
        """Pico-dollars a second, young hours weighing more; 0 before anything was seen.

        A simple pace, on purpose: a calibrated forecast can take its place over the same hours. It looks at whole days
        as soon as it has them, or each noon would be a runaway and each night a standstill.
        """
        weight = spent = 0.0
        for hour, pico in self.hours.items():
            start, end = hour * HOUR, min((hour + 1) * HOUR, now)
            seconds = end - max(start, self.began_at or start)
            age = (now - end) / HOUR
            if seconds <= 0 or age > PACE_HOURS:
                continue
            share: float = 0.5 ** (age / HALF_LIFE_HOURS)
            weight += share * seconds
            spent += share * pico
        # A minute of a new budget is no measure: until an hour was seen, what was spent counts as a whole hour's.
        return spent / max(weight, float(HOUR)) if weight else 0.0

    def last(self, bins: int, now: float) -> int:
        """Pico-dollars of the last so many ten minutes, the one that runs now included."""
        newest = int(now // BIN)
        return sum(self.bins.get(number, 0) for number in range(newest - bins + 1, newest + 1))

    def to_json(self) -> dict[str, Any]:
        """As it is kept between readings: compact lists from the oldest to the newest."""
        return {
            "hours": _listed(self.hours),
            "bins": _listed(self.bins),
            "seen_at": self.seen_at,
            "began_at": self.began_at,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> History:
        """What `to_json` gave."""
        return cls(_numbered(kept["hours"]), _numbered(kept["bins"]), kept["seen_at"], kept["began_at"])


def _spread(kept: dict[int, int], width: int, since: float, now: float, pico: int, most: int) -> None:
    newest = math.ceil(now / width) - 1  # at a full hour: the one that has ended
    oldest = max(int(since // width), newest - most + 1)
    seconds = now - since
    rest = pico
    for number in range(oldest, newest):
        # The newest takes what is left, so that nothing is lost to rounding.
        overlap = min((number + 1) * width, now) - max(number * width, since)
        part = int(pico * overlap / seconds)
        kept[number] = kept.get(number, 0) + part
        rest -= part
    kept[newest] = kept.get(newest, 0) + rest
    for number in [number for number in kept if number <= newest - most]:
        del kept[number]


def _listed(kept: Mapping[int, int]) -> list[int]:
    """The first number, then an amount for each; what was not seen is NOT_SEEN."""
    if not kept:
        return []
    first = min(kept)
    return [first, *(kept.get(number, NOT_SEEN) for number in range(first, max(kept) + 1))]


def _numbered(listed: list[int]) -> dict[int, int]:
    return {listed[0] + place: pico for place, pico in enumerate(listed[1:]) if pico != NOT_SEEN} if listed else {}
