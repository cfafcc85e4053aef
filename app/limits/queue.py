"""Who goes next when not all can: a fair queue by virtual time, weighted by tenant and priority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from heapq import heappop, heappush

PRIORITY_WEIGHTS = {"interactive": 20.0, "background": 1.0}
"""Shares of a limit while both kinds wait. Not all or nothing: background work that never ran would only time out."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One call that waits for its turn; `turn` is resolved when it has taken what it needs."""

    requests: float
    tokens: float
    streams: float
    flow: str
    """Who shares fairly: flows with something waiting get what is there in proportion to their weights."""
    weight: float
    latest: float
    """The time at which it gives up, by the monotonic clock."""
    turn: asyncio.Future[None]
    wait: float = field(default=0.0, init=False)
    """Seconds until its turn, as predicted when it joined."""
    refused: bool = field(default=False, init=False)
    """Its turn would come too late."""
    finish: float = field(default=0.0, init=False)
    gone: bool = field(default=False, init=False)

    @property
    def served(self) -> bool:
        """Whether it has had its turn."""
        return self.turn.done() and not self.turn.cancelled() and not self.refused


class FairQueue:
    """Self-clocked fair queueing: each flow's calls in their order, flows by what they used for their weight."""

    __slots__ = ("_finish", "_heap", "_new", "_order", "_virtual", "requests", "streams", "tokens")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiter]] = []
        self._order = 0
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._new: list[Waiter] = []
        self.requests = self.tokens = self.streams = 0.0
        """What all that wait need together."""

    def __len__(self) -> int:
        return int(self.requests)

    def __bool__(self) -> bool:
        return self.requests > 0

    def push(self, waiter: Waiter, cost: float) -> None:
        """Add a call; `cost` is the share of the limit that it takes."""
        begin = max(self._virtual, self._finish.get(waiter.flow, 0.0))
        waiter.finish = self._finish[waiter.flow] = begin + cost / waiter.weight
        self._order += 1
        heappush(self._heap, (waiter.finish, self._order, waiter))
        self._new.append(waiter)
        self.requests += waiter.requests
        self.tokens += waiter.tokens
        self.streams += waiter.streams

    def head(self) -> Waiter | None:
        """Whose turn it is."""
        while self._heap and self._heap[0][2].gone:
            heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> None:
        """The head has its turn."""
        _, _, waiter = heappop(self._heap)
        self._virtual = waiter.finish
        self._forget(waiter)

    def leave(self, waiter: Waiter) -> None:
        """A call gives up, wherever it stands; safe when it is not in the queue any more."""
        if not waiter.gone:
            self._forget(waiter)

    def ahead_of(self, waiter: Waiter) -> tuple[float, float, float]:
        """Requests, tokens and streams of everything that goes before a call in the queue."""
        place = waiter.finish
        before = [
            other for finish, _, other in self._heap if finish <= place and not other.gone and other is not waiter
        ]
        return (
            sum(other.requests for other in before),
            sum(other.tokens for other in before),
            sum(other.streams for other in before),
        )

    def newcomers(self) -> list[Waiter]:
        """Those who joined since this was last asked, and still wait."""
        new, self._new = self._new, []
        return [waiter for waiter in new if not waiter.gone]

    def _forget(self, waiter: Waiter) -> None:
        waiter.gone = True
        self.requests -= waiter.requests
        self.tokens -= waiter.tokens
        self.streams -= waiter.streams
        if self.requests <= 0:
            # Nobody waits: whoever comes next owes nothing to those before.
            self._heap.clear()
            self._finish.clear()
            self._new.clear()
            self._virtual = self.requests = self.tokens = self.streams = 0.0
