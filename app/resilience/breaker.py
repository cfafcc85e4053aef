"""A circuit breaker: a model that fails most of the time is not asked, until one probe says that it is well."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import Enum

WINDOW_SECONDS = 10.0
"""Outcomes are counted in halves of this: the running half and the one before it."""
FEWEST_OUTCOMES = 10
"""Fewer in the window say nothing."""
OPEN_SECONDS = 5.0
MOST_OPEN_SECONDS = 60.0
"""Each probe that fails doubles the wait, up to this."""
JITTER = 0.5
"""A wait is up to this share longer by chance, so that replicas do not probe together."""


class Entry(Enum):
    """What a breaker says to a call that wants to be made."""

    CLOSED = "closed"
    PROBE = "probe"
    """The one call that finds out; its outcome decides for all."""
    REFUSED = "refused"


CLOSED, PROBE, REFUSED = Entry  # on the class they are looked up slowly, several times a call


class Breaker:
    """Closed, open, or half-open. Every call that entered is settled exactly once."""

    def __init__(
        self,
        on_open: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        open_seconds: float = OPEN_SECONDS,
    ) -> None:
        """`on_open` is called each time it opens; `chance` gives numbers from 0 to 1."""
        self._on_open = on_open
        self._clock = clock
        self._chance = chance
        self._open_seconds = open_seconds
        self._until: float | None = None
        self._probing = False
        self._failed_probes = 0
        self._half_began = clock()
        self._total = self._failed = 0
        self._before = (0, 0)
        """Outcomes and failures of the half window before the running one."""

    @property
    def closed(self) -> bool:
        """Whether calls pass."""
        return self._until is None

    @property
    def seconds_left(self) -> float:
        """Until a probe may pass; 0 when one may, or when it is closed."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def enter(self) -> Entry:
        """Whether a call may be made now."""
        if self._until is None:
            return CLOSED
        if self._probing or self._clock() < self._until:
            return REFUSED
        self._probing = True
        return PROBE

    def settle(self, entry: Entry, healthy: bool | None) -> None:
        """The outcome of a call that entered; None when it says nothing about the model."""
        if entry is PROBE:
            self._probing = False
            if healthy:
                self._until = None
                self._failed_probes = 0
                self._forget()
            elif healthy is False:
                self._failed_probes += 1
                self.open()
        elif self._until is None and healthy is not None:
            self._count(healthy)

    def open(self) -> None:
        """Refuse calls from now on, for a while."""
        seconds = min(MOST_OPEN_SECONDS, self._open_seconds * 2 ** min(self._failed_probes, 10))
        self._until = self._clock() + seconds * (1 + JITTER * self._chance())
        self._on_open()

    def _count(self, healthy: bool) -> None:
        now = self._clock()
        half = WINDOW_SECONDS / 2
        if now - self._half_began >= half:
            fresh = now - self._half_began < 2 * half
            self._before = (self._total, self._failed) if fresh else (0, 0)
            self._total = self._failed = 0
            self._half_began = now
        self._total += 1
        if healthy:
            return
        self._failed += 1
        total, failed = self._total + self._before[0], self._failed + self._before[1]
        if total >= FEWEST_OUTCOMES and 2 * failed > total:
            self.open()

    def _forget(self) -> None:
        self._half_began = self._clock()
        self._total = self._failed = 0
        self._before = (0, 0)
