"""Keep a replica's epochs current, and change them for everybody: the only traffic that is not a request's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from app.cache.epochs import LEASE_SECONDS, Epochs, Event, Peers, field_of
from app.cache.scripts import BUMP, EVENTS, FORGET, JOIN, LOAD, REPLICAS, SHARED_KEYS, SYNC, TELL, inbox
from app.errors import ApiError
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.valkey.client import Valkey

BLOCK_MILLISECONDS = 250
"""How long a read waits for an event; a lease is renewed after each."""
AWAY_SECONDS = 0.05
RENEW_SECONDS = 0.02
"""How long a request waits for another one's renewal."""
SINCE = ""
"""The field of REPLICAS that says since when it is kept."""
STOP_SECONDS = 1.0
FIRST_LOOK_SECONDS, SLOWEST_LOOK_SECONDS = 0.001, 0.01
"""Between two looks at who has acknowledged."""

log = logging.getLogger(__name__)


class Watch:
    """One replica's view of the epochs, kept current in the background."""

    def __init__(
        self,
        valkey: Valkey,
        *,
        on_change: Callable[[str], None] = lambda _field: None,
        on_waiting: Callable[[str, str], None] = lambda _key, _token: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`on_waiting` is told key and token of what this replica asks while another one waits for it."""
        self.replica = secrets.token_hex(6)
        self.epochs = Epochs(on_change)
        self.peers = Peers()
        self._valkey = valkey
        self._on_waiting = on_waiting
        self._inbox_seen = "0-0"
        self._joined = False
        self._lost = False
        """This replica has seen events that the server has not, and the server has not been told yet."""
        self._renewing = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        # Not the loop's clock, which stands still while one callback runs long: a lease would outlive its time.
        self._clock = clock
        self._sleep = sleep

    async def start(self) -> None:
        """Begin; returns after the first attempt, whatever comes of it."""
        with contextlib.suppress(ValkeyAwayError):
            await self._join()
        self._task = asyncio.create_task(self._run(), name="epochs")

    async def stop(self) -> None:
        """Stop, and let no invalidation wait for this replica. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        # Not by cancelling a read that blocks: redis-py would leave its connection half used.
        self._stopping = True
        with contextlib.suppress(ValkeyAwayError):
            await TELL.call(self._valkey, (inbox(self.replica),), "", "")
        await asyncio.wait([task], timeout=STOP_SECONDS)
        task.cancel()
        self.epochs.start("0-0")
        with contextlib.suppress(ValkeyAwayError):
            await self._valkey.call("HDEL", REPLICAS, self.replica)
            await self._valkey.call("DEL", inbox(self.replica))

    def alive(self, replica: str) -> bool:
        """Whether another replica still works, as far as can be known."""
        return self.peers.alive(replica, self._clock())

    def known_stamp(self, fields: tuple[str, ...]) -> str | None:
        """The epochs of the fields as one text, when they are known here."""
        return self.epochs.stamp(fields, self._clock())

    async def stamp(self, fields: tuple[str, ...]) -> str | None:
        """The same, asked for when they are not known here; None = not to be had."""
        found = self.epochs.stamp(fields, self._clock())
        if found is not None:
            return found
        if not self.epochs.live(self._clock()) and not await self._renewed():
            return None
        missing = self.epochs.missing(fields)
        asked_in = self.epochs.round
        try:
            values = await LOAD.call(self._valkey, SHARED_KEYS, *missing)
        except ValkeyAwayError:
            return None
        for field, value in zip(missing, values, strict=True):
            self.epochs.learn(field, value.decode(), asked_in)
        return self.epochs.stamp(fields, self._clock())

    async def invalidate(self, tenant: str, tag: str = "") -> None:
        """Make every answer of the tenant that has the tag (all of them for "") unreachable on every replica.

        Returns once each replica has said so or its lease has run out. Raises ApiError 503 `service_unavailable` when
        that cannot be known, and then it has to be done again.
        """
        field = field_of(tenant, tag)
        try:
            event_id, replicas, more = await BUMP.call(self._valkey, SHARED_KEYS, field)
        except ValkeyAwayError:
            raise ApiError(
                "service_unavailable",
                "Kept answers cannot be invalidated just now; send the request again.",
                headers={"retry-after": "1"},
            ) from None
        deadline = self._clock() + LEASE_SECONDS
        if more:  # Valkey has just begun, or lost who reads it: every lease of before is waited out
            await self._sleep(LEASE_SECONDS)
        else:
            await self._acknowledged(event_id.decode(), _pairs(replicas), deadline)

    async def _acknowledged(self, event_id: str, waiting: dict[str, str], deadline: float) -> None:
        """Return when all of `waiting` have seen the event, or at the deadline; who is dead then is waited for no more.

        Without Valkey nobody renews a lease, so the deadline holds all the same.
        """
        pause = FIRST_LOOK_SECONDS
        since = waiting.pop(SINCE)
        while True:
            waiting = {name: said for name, said in waiting.items() if not _has_seen(said, event_id)}
            left = deadline - self._clock()
            if not waiting or left <= 0:
                break
            await self._sleep(min(pause, left))
            pause = min(2 * pause, SLOWEST_LOOK_SECONDS)
            with contextlib.suppress(ValkeyAwayError):
                said = _pairs(await self._valkey.call("HGETALL", REPLICAS))
                if said.get(SINCE) == since:  # else who is missing may only have been lost
                    waiting = {name: said[name] for name in waiting if name in said}
        for name, said_last in waiting.items():
            with contextlib.suppress(ValkeyAwayError):
                await FORGET.call(self._valkey, (REPLICAS,), name, said_last)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                if not self._joined:
                    await self._join()
                await self._read()
                await self._sync()
            except ValkeyAwayError:
                await self._sleep(AWAY_SECONDS)
            except Exception as error:  # whatever the server answers, the lease runs out, and the next round may work
                log.warning("epochs cannot be read", extra={"fields": {"reason": type(error).__name__}})
                await self._sleep(AWAY_SECONDS)

    async def _join(self) -> None:
        # Before the answer is here the server already takes it that this replica has seen everything.
        self.epochs.doubt()
        self._joined = False
        asked_at, asked_in = self._clock(), self.epochs.round
        self._renewing = True
        try:
            seen, _ = await JOIN.call(self._valkey, SHARED_KEYS, self.replica, int(self._lost))
        finally:
            self._renewing = False
        if self.epochs.round != asked_in:
            return  # another one is under way, and the server may have noted more for it than this one was told
        self.epochs.start(seen.decode())
        self.epochs.renew(asked_at)
        self._joined, self._lost = True, False

    async def _read(self) -> None:
        """Wait for an event, or for the time to renew; on a connection of its own, as it blocks.

        Events are taken by `_sync` alone: a read does not show whether some that came before have been forgotten.
        """
        streams = {EVENTS: self.epochs.seen, inbox(self.replica): self._inbox_seen}
        try:
            found = await self._valkey.client.xread(streams, count=500, block=BLOCK_MILLISECONDS)
        except ValkeyAwayError:
            raise
        except Exception as error:
            raise ValkeyAwayError("Valkey is away") from error
        for name, events in found.items() if isinstance(found, dict) else found:
            if name.decode() == EVENTS:
                continue
            for event_id, values in _flat(events):
                self._inbox_seen = event_id.decode()
                self._on_waiting(values[b"key"].decode(), values[b"token"].decode())

    async def _renewed(self) -> bool:
        """Renew at once, for requests that come when this process was too busy to do so in time."""
        try:
            if self._renewing:
                await self._sleep(RENEW_SECONDS)
            elif self._joined:
                self._renewing = True
                try:
                    await self._sync()
                finally:
                    self._renewing = False
        except ValkeyAwayError:
            return False
        return self.epochs.live(self._clock())

    async def _sync(self) -> None:
        """Say what was seen, and take what came since. May run twice at once: what is answered twice counts once."""
        while True:
            asked_at, asked_in, seen = self._clock(), self.epochs.round, self.epochs.seen
            answer = await SYNC.call(self._valkey, SHARED_KEYS, self.replica, seen)
            if (self.epochs.round, self.epochs.seen) != (asked_in, seen):
                continue
            if answer[0] != b"ok":
                self._lost = self._lost or answer[0] == b"lost"
                await self._join()
                return
            said = _pairs(answer[2])
            said.pop(SINCE, None)
            self.peers.heard(said, self._clock())
            if not answer[1]:
                self.epochs.renew(asked_at)
                return
            self.epochs.apply([_event((event[0], _mapping(event[1]))) for event in answer[1]])


def fields_of(tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    """The epochs that an answer depends on: always the one of all the tenant's answers."""
    if not tags:
        return (f"{tenant}\0",)
    return (field_of(tenant, ""), *[field_of(tenant, tag) for tag in tags])


def _has_seen(said: str, event_id: str) -> bool:
    seen = said.partition(" ")[0]
    return [int(part) for part in seen.split("-")] >= [int(part) for part in event_id.split("-")]


def _event(event: tuple[bytes, dict[bytes, bytes]]) -> Event:
    event_id, values = event
    field = values.get(b"field")
    return event_id.decode(), None if field is None else field.decode()


def _flat(events: Any) -> Any:
    """redis-py wraps a stream's entries in one more list when it speaks RESP 3."""
    return events[0] if events and isinstance(events[0], list) else events


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {name.decode(): value.decode() for name, value in flat.items()}
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def _mapping(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
