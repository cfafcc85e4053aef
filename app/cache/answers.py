"""The cache of one replica: what it holds itself, what it knows of the epochs, and the store it shares."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.entry import Entry
from app.cache.memory import Held, Memory, Road, timed
from app.cache.store import Store
from app.cache.watch import Watch
from app.upstream import sse
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.cache.wishes import Wishes
    from app.models import Models
    from app.pipeline.messages import Call
    from app.valkey.client import Valkey

JITTER_SHARE = 0.1
"""Of a time to live, taken off by chance: answers of one moment do not all end in one moment."""


@dataclass(slots=True)
class Found:
    """An entry that may be given, and how it is."""

    entry: Entry
    state: str
    """`hit` or `stale`."""
    age: float
    """Seconds since it was made."""


class Answers:
    """Finds and keeps answers. Nothing here ever fails a request: without Valkey there is nothing to find."""

    def __init__(
        self,
        valkey: Valkey,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`max_bytes` bounds what the process holds; `chance` gives a number from 0 up to 1."""
        self.valkey = valkey
        self.memory = Memory(max_bytes)
        self._listeners: list[Callable[[str, str], None]] = []
        self.watch = Watch(valkey, on_change=self._changed, on_waiting=self._waited_for, clock=clock, sleep=sleep)
        self.store = Store(valkey, self.watch.replica)
        self.on_waiting: Callable[[str, str], None] = lambda _key, _token: None
        self._claims = itertools.count()
        self._clock = clock
        self._wall_clock = wall_clock
        self._chance = chance

    def token(self) -> str:
        """A new name for a claim: no other of any replica has it."""
        return f"{self.watch.replica}.{next(self._claims)}"

    def listen(self, listener: Callable[[str, str], None]) -> None:
        """Call `listener` with tenant and tag of each invalidation, before it is acknowledged."""
        self._listeners.append(listener)

    def short_way(self, call: Call, tags: str | None, models: Models) -> tuple[Road, Found] | None:
        """The answer to a request that was asked before in the very same bytes; only a fresh one, and at once."""
        road = self.memory.road((call.identity.tenant, call.endpoint, call.body, tags), models)
        if road is None:
            return None
        place = road.place
        now = self._clock()
        stamp = self.watch.epochs.stamp(place.fields, now)
        if stamp is None:
            return None
        held = self.memory.find(place.at(stamp), now)
        if held is None or now >= held.fresh_until:
            return None
        return road, Found(held.entry, "hit", now - held.made_at)

    def held(self, place: Place, spare: float = 0.0) -> Found | None:
        """What this process holds for a place whose key is set; for a caller who has to spare, also so old."""
        now = self._clock()
        held = self.memory.find(place.key, now)
        return None if held is None else self._judge(held, place.wishes, now, spare)

    def accept(self, place: Place, entry: Entry, spare: float = 0.0) -> Found | None:
        """What the store answered, held from now on; None when the caller wishes for something younger."""
        age = max(0.0, self._wall_clock() - entry.made_at)
        now = self._clock()
        held = self.memory.put(place.key, entry, age, now) if place.fields else timed(entry, age, now)
        return self._judge(held, place.wishes, now, spare)

    def made(self, place: Place, body: bytes, model: str, *, status: int = 200) -> Entry:
        """An entry for an answer that was just made, with its times to live."""
        fresh, stale = place.policy.ttl_seconds * (1 - JITTER_SHARE * self._chance()), place.policy.stale_seconds
        content_type = sse.MEDIA_TYPE if place.stream and status == 200 else "application/json"
        spare = max(0.0, place.spare_seconds - fresh - stale)
        return Entry(body, content_type, model, status, self._wall_clock(), fresh, stale, spare, place.fingerprint)

    def hold(self, place: Place, entry: Entry) -> None:
        """Hold an answer in this process."""
        if place.fields:
            self.memory.put(place.key, entry, 0.0, self._clock())

    def keep(self, place: Place, token: str, entry: Entry) -> None:
        """Hold an answer in this process, and store it for every replica. Never waits or raises."""
        self.hold(place, entry)
        self.store.keep(place, token, entry)

    async def release(self, place: Place, token: str, borrowed: Entry | None) -> None:
        """End a claim that led to nothing that is kept. Never raises."""
        try:
            await self.store.release(place, token, borrowed)
        except ValkeyAwayError:
            return

    def _judge(self, held: Held, wishes: Wishes, now: float, spare: float) -> Found | None:
        age = now - held.made_at
        if wishes.max_age is not None and age > wishes.max_age:
            return None
        if now < held.fresh_until or now < held.fresh_until + wishes.max_stale:
            return Found(held.entry, "hit" if now < held.fresh_until else "stale", age)
        return Found(held.entry, "stale", age) if now < held.stale_until or age < spare else None

    def _changed(self, field: str) -> None:
        tenant, _, tag = field.partition("\0")
        for listener in self._listeners:
            listener(tenant, tag)

    def _waited_for(self, key: str, token: str) -> None:
        self.on_waiting(key, token)
