"""Time as the simulator sees it: the real clock, or one that a test moves."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds on a monotonic scale, and waiting on that scale."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of real time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told, or when somebody waits on it: waiting takes no real time."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds that were advanced so far, from the start value."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        """Move the clock forward and let other tasks run."""
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)
