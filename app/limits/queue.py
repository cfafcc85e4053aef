"""Who goes next when not all can: a fair queue by virtual time, weighted by tenant and priority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from heapq import heappop, heappush

PRIORITY_HEADER = "x-prodkit-priority"
INTERACTIVE, BACKGROUND = "interactive", "background"


@dataclass(slots=True, eq=False)
class Waiter:
    """One call that waits for its turn; `turn` is resolved when it has taken what it needs."""

    requests: float
    tokens: float
    streams: float
    flow: str
    """Who shares fairly: flows with something waiting get what is there in proportion to their weights."""
    weight: float
    background: bool
    """Goes when nobody else waits, and leaves something for who comes next."""
    latest: float
    """The time at which it gives up, by the monotonic clock."""
    turn: asyncio.Future[None]
    wait: float = field(default=0.0, init=False)
    """Seconds until its turn, as predicted when it joined."""
    refused: bool = field(default=False, init=False)
    """Its turn would come too late."""
    begin: float = field(default=0.0, init=False)
    finish: float = field(default=0.0, init=False)
    gone: bool = field(default=False, init=False)

    @property
    def served(self) -> bool:
        """Whether it has had its turn."""
        return self.turn.done() and not self.turn.cancelled() and not self.refused


class FairQueue:
    """Self-clocked fair queueing: each flow's calls in their order, flows by what they used for their weight.

    Background flows share fairly among themselves what the others leave.
    """

    __slots__ = ("_finish", "_heap", "_new", "_order", "_virtual", "requests", "streams", "tokens", "urgent")

    def __init__(self) -> None:
        self._heap: list[tuple[bool, float, int, Waiter]] = []
        self._order = 0
        self._virtual = [0.0, 0.0]
        self._finish: dict[tuple[str, bool], float] = {}
        self._new: list[Waiter] = []
        self.requests = self.tokens = self.streams = 0.0
        """What all that wait need together."""
        self.urgent = (0.0, 0.0)
        """Requests and tokens of those that are not background."""

    def __len__(self) -> int:
        return int(self.requests)

    def __bool__(self) -> bool:
        return self.requests > 0

    def push(self, waiter: Waiter, cost: float) -> None:
        """Add a call; `cost` is the share of the limit that it takes."""
        flow = (waiter.flow, waiter.background)
        waiter.begin = max(self._virtual[waiter.background], self._finish.get(flow, 0.0))
        waiter.finish = self._finish[flow] = waiter.begin + cost / waiter.weight
        self._order += 1
        heappush(self._heap, (waiter.background, waiter.finish, self._order, waiter))
        self._new.append(waiter)
        self._add(waiter, 1)

    def head(self) -> Waiter | None:
        """Whose turn it is."""
        while self._heap and self._heap[0][3].gone:
            heappop(self._heap)
        return self._heap[0][3] if self._heap else None

    def pop(self) -> None:
        """The head has its turn."""
        waiter = heappop(self._heap)[3]
        self._virtual[waiter.background] = waiter.finish
        self._forget(waiter)

    def leave(self, waiter: Waiter) -> None:
        """A call gives up, wherever it stands; safe when it is not in the queue any more."""
        if waiter.gone:
            return
        flow = (waiter.flow, waiter.background)
        if self._finish.get(flow) == waiter.finish:
            self._finish[flow] = waiter.begin  # the last of its flow: the next stands where it stood
        self._forget(waiter)

    def ahead_of(self, waiter: Waiter) -> tuple[float, float, float]:
        """Requests, tokens and streams of everything that goes before a call in the queue."""
        place = (waiter.background, waiter.finish)
        before = [
            other
            for rank, finish, _, other in self._heap
            if (rank, finish) <= place and not other.gone and other is not waiter
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

    def _add(self, waiter: Waiter, sign: int) -> None:
        self.requests += sign * waiter.requests
        self.tokens += sign * waiter.tokens
        self.streams += sign * waiter.streams
        if not waiter.background:
            self.urgent = (self.urgent[0] + sign * waiter.requests, self.urgent[1] + sign * waiter.tokens)

    def _forget(self, waiter: Waiter) -> None:
        waiter.gone = True
        self._add(waiter, -1)
        if self.requests <= 0:
            # Nobody waits: whoever comes next owes nothing to those before.
            self._heap.clear()
            self._finish.clear()
            self._new.clear()
            self._virtual = [0.0, 0.0]
            self.requests = self.tokens = self.streams = 0.0
            self.urgent = (0.0, 0.0)
