"""The tier in the process: entries by key, and the short way from a request's very bytes to its key."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.entry import Entry

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.models import Models
    from app.pipeline.choose import Plan

OVERHEAD_BYTES = 1_024
"""Of an entry's objects besides its body."""
ROAD_SHARE = 4
"""Remembered requests take at most one part in 4 of the memory."""

Request = tuple[str, str, bytes, str | None]
"""Tenant, path, body and tags, as they came."""


@dataclass(slots=True)
class Held:
    """An entry, and until when it serves. Times are of the caller's monotonic clock."""

    entry: Entry
    made_at: float
    fresh_until: float
    stale_until: float
    """Until when it is given once more while a new one is made."""
    gone_at: float
    size: int


@dataclass(slots=True)
class Road:
    """Where a request led the last time: good for as long as the same models document is in force."""

    models: Models
    place: Place
    plan: Plan


class Memory:
    """Bounded in bytes; the least recently used goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._roads_max = max_bytes // ROAD_SHARE
        self._max = max_bytes - self._roads_max
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._roads: OrderedDict[Request, Road] = OrderedDict()
        self._roads_of: Counter[bytes] = Counter()
        self._bytes = self._road_bytes = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._bytes + self._road_bytes

    def find(self, key: str, now: float) -> Held | None:
        """The entry under a key, however old; one that is gone is dropped."""
        held = self._held.get(key)
        if held is None:
            return None
        if now >= held.gone_at:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return held

    def put(self, key: str, entry: Entry, age: float, now: float) -> Held:
        """Hold an entry that was made `age` seconds ago; what is larger than the whole tier is only given back."""
        held = timed(entry, age, now)
        size = held.size
        self._drop(key)
        if size <= self._max:
            self._held[key] = held
            self._bytes += size
            while self._bytes > self._max:
                self._drop(next(iter(self._held)))
        return held

    def asked(self, body: bytes) -> bool:
        """Whether a request with such a body is remembered, of whomever."""
        return body in self._roads_of

    def road(self, request: Request, models: Models) -> Road | None:
        """Where the very same request led under the same models document."""
        road = self._roads.get(request)
        if road is None:
            return None
        if road.models is not models:
            self._forget(request)
            return None
        self._roads.move_to_end(request)
        return road

    def remember(self, request: Request, road: Road) -> None:
        """Keep where a request leads."""
        self._forget(request)
        self._roads[request] = road
        self._roads_of[request[2]] += 1
        self._road_bytes += _road_size(request)
        while self._road_bytes > self._roads_max:
            self._forget(next(iter(self._roads)))

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.size

    def _forget(self, request: Request) -> None:
        if self._roads.pop(request, None) is not None:
            self._road_bytes -= _road_size(request)
            self._roads_of[request[2]] -= 1
            if not self._roads_of[request[2]]:
                del self._roads_of[request[2]]


def timed(entry: Entry, age: float, now: float) -> Held:
    """An entry that was made `age` seconds ago, with the moments at which it ages."""
    made_at = now - age
    fresh_until = made_at + entry.fresh_seconds
    stale_until = fresh_until + entry.stale_seconds
    size = len(entry.body) + OVERHEAD_BYTES
    return Held(entry, made_at, fresh_until, stale_until, stale_until + entry.spare_seconds, size)


def _road_size(request: Request) -> int:
    return 6 * len(request[2]) + OVERHEAD_BYTES  # the body, its question, and a plan with what is sent and parsed
