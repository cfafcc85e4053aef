"""The windows that budgets are for: days and months as the owner's calendar has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_WEST_SECONDS, _EAST_SECONDS = 12 * 3_600, 14 * 3_600
"""How far clocks are behind UTC and ahead of it."""


class Span(StrEnum):
    """How long a window is."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Window:
    """One day or month of a calendar. A window holds its start and not its end, both in seconds since 1970."""

    span: Span
    name: str
    """`D2026-11-22` or `M2026-11`: also the name of the ledger's item."""
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is: a day with a change of clocks has 23 or 25 hours."""
        return self.end - self.start

    def left(self, now: float) -> float:
        """Seconds until it ends; 0 after that."""
        return max(0.0, self.end - max(now, self.start))

    def elapsed(self, now: float) -> float:
        """Share of it that has passed, 0 to 1."""
        return min(1.0, max(0.0, (now - self.start) / self.seconds))


def zone_of(name: str) -> tzinfo:
    """A zone by its IANA name (`Europe/Madrid`); raises ValueError that continues the sentence `name=value ...`."""
    if name == "UTC":
        return UTC  # needs no time zone data on the machine
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone; use an IANA name such as UTC or America/New_York") from None


def window_at(span: Span, now: float, zone: tzinfo) -> Window:
    """The window of a moment (seconds since 1970). Windows of one span follow each other without gap or overlap."""
    # Whole seconds: the last microsecond of a day would be rounded into the next.
    today = datetime.fromtimestamp(math.floor(now), zone).date()
    if span is Span.DAY:
        return Window(span, f"D{today.isoformat()}", _midnight(today, zone), _midnight(_days(today, 1), zone))
    first = today.replace(day=1)
    following = _days(first, 32).replace(day=1)
    return Window(span, f"M{first:%Y-%m}", _midnight(first, zone), _midnight(following, zone))


def names_anywhere(span: Span, now: float) -> list[str]:
    """What the window of a moment is called anywhere on earth, for who does not know the owner's zone."""
    return sorted({window_at(span, now + ahead, UTC).name for ahead in (-_WEST_SECONDS, 0.0, _EAST_SECONDS)})


def moment(seconds: float, zone: tzinfo) -> str:
    """A moment as people of the zone write it, with its offset."""
    return datetime.fromtimestamp(seconds, zone).isoformat(timespec="seconds")


def _midnight(day: date, zone: tzinfo) -> float:
    """When a day begins. Where clocks jump over midnight that is the jump; where midnight comes twice, the first."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _days(day: date, count: int) -> date:
    return day + timedelta(days=count)
