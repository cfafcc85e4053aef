"""Is this tenant's spending out of its own habit? By the hour, against the same hours of the last four weeks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from app.budgets.history import BIN, BINS_AN_HOUR, HOUR, History

WEEK = 7 * 24
WEEKS = 4
LEAST_HOURS = 24
"""Of history; a younger tenant has no habit yet, and only budgets and the stack's own alarms watch it."""
STANDARD_DEVIATIONS = 6.5
"""More misses ten times the habit at night, fewer means a false alarm a month and more: docs/budgets.md."""
LEVEL_HOURS = 48
NOISE_HOURS = 14 * 24
LEVEL_LEAST, LEVEL_MOST = 0.25, 4.0
LEAST_PICO = 50_000_000_000
"""0.05 USD in the hours that are judged: below that nobody wants to be woken."""


@dataclass(frozen=True, slots=True)
class Runaway:
    """Spending that is out of its habit."""

    hours: int
    """Of the sum that shows it: 1 or 3."""
    spent: int
    """Pico-dollars in those hours."""
    expected: int
    """What the same hours cost as a rule, at the level of the last two days."""
    threshold: int

    @property
    def times(self) -> float:
        """Spent, of the expected."""
        return self.spent / self.expected if self.expected else math.inf


class Habit:
    """What a tenant's hours cost as a rule. Made once an hour: it looks at four weeks."""

    def __init__(self, history: History, now: float) -> None:
        self.hour = int(now // HOUR)
        """Made for this hour since 1970."""
        self._history = history
        self._hours = history.hours
        self._usual: dict[int, float] = {}
        known = sorted(hour for hour in history.hours if hour < self.hour)
        self._formed = len(known) >= LEAST_HOURS
        if not self._formed:
            return
        # Without a week of history the same hour of the days before has to do.
        young = known[0] > self.hour - WEEK - 1
        self._lags = [24 * day for day in range(1, 7)] if young else [WEEK * week for week in range(1, WEEKS + 1)]
        self._typical = statistics.median(self._hours[hour] for hour in known)
        # After hours that cost nothing the first request is no runaway.
        self._floor = max(1.0, self._typical / 10)
        self._level = self._recent_level(known)
        self._noise = self._usual_noise(known)

    def judge(self, now: float) -> Runaway | None:
        """The finding of the last hour, or of the last three, or None. `now` is within the hour it was made for."""
        if not self._formed:
            return None
        for hours in (1, 3):
            spent = self._history.last(hours * BINS_AN_HOUR, now)
            if spent < LEAST_PICO:
                continue
            expected, deviation = self.expect(now, hours)
            threshold = expected + STANDARD_DEVIATIONS * deviation
            if spent > threshold:
                return Runaway(hours, spent, int(expected), int(threshold))
        return None

    def expect(self, now: float, hours: int) -> tuple[float, float]:
        """Pico-dollars of the hours that end now, and their standard deviation."""
        start = (now // BIN + 1) * BIN - hours * HOUR
        total = 0.0
        for hour in range(int(start // HOUR), int(now // HOUR) + 1):
            overlap = min((hour + 1) * HOUR, start + hours * HOUR) - max(hour * HOUR, start)
            total += self.usual(hour) * overlap / HOUR
        total *= self._level
        # Requests come one by one: the deviation of a sum grows with the root of what is expected.
        return total, self._noise * math.sqrt(max(total, self._floor * hours))

    def usual(self, hour: int) -> float:
        """Of one hour, before the level: the median of the same hour and its neighbours in the weeks before."""
        if hour not in self._usual:
            near = [self._hours.get(hour - lag + beside) for lag in self._lags for beside in (-1, 0, 1)]
            seen = [pico for pico in near if pico is not None]
            self._usual[hour] = statistics.median(seen) if seen else self._typical
        return self._usual[hour]

    def _recent_level(self, known: list[int]) -> float:
        """The last two days against their habit, without the three hours that are judged."""
        recent = [hour for hour in known if self.hour - LEVEL_HOURS - 3 <= hour < self.hour - 3]
        usual = sum(self.usual(hour) for hour in recent)
        if not usual:
            return 1.0
        # Clipped: one spike of yesterday must not hide today's.
        level = sum(min(self._hours[hour], 3 * self.usual(hour) + self._floor) for hour in recent) / usual
        return min(LEVEL_MOST, max(LEVEL_LEAST, level))

    def _usual_noise(self, known: list[int]) -> float:
        """Standard deviation of an hour, over the root of its habit; the largest hundredth is left out as spikes."""
        sample = known[-NOISE_HOURS - 3 : -3]
        scaled = sorted(
            (self._hours[hour] - usual) ** 2 / max(usual, self._floor)
            for hour in sample
            for usual in (self.usual(hour),)
        )
        kept = scaled[: max(1, len(scaled) * 99 // 100)]
        return math.sqrt(sum(kept) / len(kept))
