"""Deferred requests: what is known of one, where it is kept, and the only ways in which its status may change."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import orjson

from app.deferred.store import Item, Store, Value
from app.errors import ApiError
from app.ledger import Payer, Place
from app.prices import PICO_PER_USD

if TYPE_CHECKING:
    from app.ledger import Entry, Ledger

QUEUED, IN_PROGRESS = "queued", "in_progress"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
STATUSES = (QUEUED, IN_PROGRESS, COMPLETED, FAILED, EXPIRED, CANCELLED)
OPEN = frozenset({QUEUED, IN_PROGRESS})
ID = re.compile(r"def_[0-9a-f]{32}\Z")
RETENTION_DAYS = 30
"""After it was accepted a request is gone, answer and all. The bucket's own rule is a day longer."""
DAY_SECONDS = 86_400
GRACE_SECONDS = 900
"""After its deadline an open request is given up by whoever looks: OpenAI takes up to 10 min to end a batch."""
MOST_OVERDUE = 200
"""Looked at in one go."""
DUE_PK = "DEFERDUE"
"""Partition of what is not charged yet, for whoever looks for what nobody else ends."""
NO_ROOM = "insufficient_quota"
"""Code of the refusal of a budget."""
_COST = ("cost_pico", "input_tokens", "output_tokens")
PREFIX = "deferred"
"""Of every object; a lifecycle rule of the bucket deletes what is under it."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """One deferred request. Times in Unix seconds, but for `created_ms`."""

    id: str
    tenant: str
    key_id: str
    request_id: str
    endpoint: str
    model: str
    requested_model: str
    feature: str
    """What it is for, as the ledger knows it."""
    group: str
    """Requests of a group may share a batch."""
    digest: str
    """Of what was asked, to know a repeated request from another one under the same idempotency key."""
    size: int
    """Bytes of the request."""
    created_ms: int
    due_at: int
    status: str = QUEUED
    attempts: int = 0
    """Batches that it was in and that ended without it."""
    job: str = ""
    status_code: int = 0
    """Of OpenAI's answer; 0 while there is none."""
    finished_at: int = 0
    cost_pico: int = -1
    """-1 while it is not known."""
    charged: int = 0
    """1 once its tenant's account has the cost, or has back what was set aside for it."""
    input_tokens: int = 0
    output_tokens: int = 0
    error_code: str = ""
    error_message: str = ""
    worst_pico: int = 0
    """Set aside for it in the ledger, until it is `charged`."""
    most_output: int = 0
    """Tokens that it may be billed for at most."""
    places: str = ""
    """The budget items where it is set aside and charged: those of the windows that accepted it."""
    hidden: int = 0
    """1 once its caller deleted it; it is kept for its cost."""
    aside_day: str = ""
    """On which it was set aside, as the ledger names it; nothing when a version before this one did."""
    copy: str = ""
    """Of the payload: which one is its own, of those that calls under the same idempotency key brought."""

    @property
    def is_open(self) -> bool:
        """Whether it may still be answered."""
        return self.status in OPEN

    @property
    def overdue(self) -> bool:
        """Whether it is open although its time is long over."""
        return self.is_open and time.time() > self.due_at + GRACE_SECONDS

    @property
    def expires_at(self) -> int:
        """When it is forgotten."""
        return self.created_ms // 1000 + RETENTION_DAYS * DAY_SECONDS

    @property
    def place(self) -> str:
        """Its sort key among the waiting ones of its group: the order of arrival."""
        return f"{self.created_ms:013d}#{self.tenant}#{self.id}"

    @property
    def due_place(self) -> str:
        """Its sort key among those that are not charged yet: the order of their deadlines."""
        return f"{self.due_at:013d}#{self.tenant}#{self.id}"


def pk_of(tenant: str) -> str:
    """Partition of a tenant's requests."""
    return f"TENANT#{tenant}"


def sk_of(name: str) -> str:
    """Sort key of a request."""
    return f"DEFER#{name}"


def waiting_pk(group: str) -> str:
    """Partition of the requests of a group that are in no job yet."""
    return f"DEFER#{group}"


def payer_of(request: Deferred) -> Payer:
    """Whom it is charged to."""
    return Payer(request.tenant, request.key_id, request.model)


def places_text(places: Sequence[Place]) -> str:
    """Budget items as a request's record names them."""
    return " ".join(f"{window}/{scope}" for scope, window in places)


def answer_key(request: Deferred) -> str:
    """Key of the object that holds the answer."""
    return f"{PREFIX}/{request.tenant}/{request.id}/answer.json"


def _payload_key(request: Deferred) -> str:
    # A call that is refused drops its own, and no other that came at the same moment under the same idempotency key.
    copy = f"-{request.copy}" if request.copy else ""
    return f"{PREFIX}/{request.tenant}/{request.id}/{request.digest[:32]}{copy}.json"


class DeferredRequests:
    """Reads and writes requests. Every method raises ApiError 503 `service_unavailable` when AWS does not answer."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def create(self, request: Deferred, payload: bytes) -> bool:
        """Keep a request and set its worst case aside, before it is to `wait`; False when its id is taken.

        Raises ApiError also as `Ledger.set_aside` does.
        """
        # Both before: whoever looks for what is overdue finds everything that has money set aside for it.
        due: Item = {"pk": DUE_PK, "sk": request.due_place, "expires_at": request.expires_at}
        await asyncio.gather(self._store.write(_payload_key(request), payload), self._store.put(due))
        record = self._store.putting(_item(request), new=True)
        try:
            made = await self._ledger.set_aside(_places(request), request.worst_pico, [record], request.aside_day)
        except ApiError as error:
            if error.code == NO_ROOM:  # of any other error it is not known what came of it
                await self._drop_payload(request)
            raise
        if not made:
            there = await self.get(request.tenant, request.id)
            if there is None or there.copy != request.copy:
                await self._drop_payload(request)
        return made

    async def _drop_payload(self, request: Deferred) -> None:
        """Forget what a call brought that was not accepted; what stays goes by the bucket's lifecycle rule."""
        with contextlib.suppress(ApiError):
            await self._store.erase(_payload_key(request))

    async def wait(self, request: Deferred) -> None:
        """Put a queued request among the waiting ones. Doing it again is no error."""
        await self._store.put(_pointer(request))

    async def get(self, tenant: str, name: str) -> Deferred | None:
        """One request of a tenant as it is now."""
        item = await self._store.get(pk_of(tenant), sk_of(name))
        return None if item is None else _request(item)

    async def payload(self, request: Deferred) -> bytes | None:
        """What to ask OpenAI; None once it is deleted."""
        return await self._store.read(_payload_key(request))

    async def answer(self, request: Deferred) -> bytes | None:
        """OpenAI's answer, None when there is none."""
        return await self._store.read(answer_key(request))

    async def claim(self, tenant: str, name: str, job: str) -> bool:
        """Take a request into a job; False when it was cancelled or is another job's. Doing it again is no error."""
        return await self._store.update(
            pk_of(tenant),
            sk_of(name),
            "#status = :queued OR (#status = :working AND #job = :job)",
            {"queued": QUEUED, "working": IN_PROGRESS, "job": job},
            {"status": IN_PROGRESS, "job": job},
        )

    async def finish(self, seen: Deferred, told: Deferred, entry: Entry, answer: bytes) -> bool:
        """Book an answer of OpenAI, and keep it when its caller still waits; False when the request changed meanwhile.

        `seen` is the request as it was read, `told` as it is to be.
        """
        if seen.status != IN_PROGRESS:
            # Cancelled or given up while OpenAI worked on it: paid for all the same, and nobody's to read.
            await self._store.erase(answer_key(seen))
            return await self._settle(seen, {name: getattr(told, name) for name in _COST}, entry)
        await self._store.write(answer_key(seen), answer)
        names = ("status", "status_code", "finished_at", *_COST)
        if not await self._settle(seen, {name: getattr(told, name) for name in names}, entry):
            return False
        await self._store.erase(_payload_key(seen))
        return True

    async def give_up(self, seen: Deferred, told: Deferred, entry: Entry | None) -> bool:
        """End a request without an answer, booking what it may have cost; False when it changed meanwhile."""
        names: tuple[str, ...] = ("cost_pico", "error_code", "error_message")
        if seen.is_open:
            names = (*names, "status", "finished_at")
        return await self._settle(seen, {name: getattr(told, name) for name in names}, entry)

    async def _settle(self, seen: Deferred, change: Mapping[str, Value], entry: Entry | None) -> bool:
        """Change a request, and with it use or give back what is set aside for it: both happen, once, or neither."""
        unchanged = "#status = :seen AND #job = :job AND #charged = :zero"
        given: dict[str, Value] = {"seen": seen.status, "job": seen.job, "zero": 0}
        pk, sk = pk_of(seen.tenant), sk_of(seen.id)
        record = self._store.changing(pk, sk, unchanged, given, {**change, "charged": 1})
        # Nothing was set aside by the version before: then what it cost is charged to the windows of today.
        places = _places(seen) or await self._ledger.places(payer_of(seen))
        if not await self._ledger.use(places, seen.worst_pico, entry, [record], seen.aside_day):
            return False
        # What is left of them when nobody comes to this leads to nothing.
        pointers = [(waiting_pk(seen.group), seen.place)] if seen.status == QUEUED else []
        with contextlib.suppress(ApiError):
            for pointer in (*pointers, (DUE_PK, seen.due_place)):
                await self._store.delete(*pointer)
        return True

    async def requeue(self, request: Deferred) -> bool:
        """Let a request in progress wait for another batch; False when it is over already."""
        again = await self._store.update(
            pk_of(request.tenant),
            sk_of(request.id),
            "#status = :working AND #job = :job",
            {"working": IN_PROGRESS, "job": request.job},
            {"status": QUEUED, "job": ""},
            add={"attempts": 1},
        )
        if again:
            await self.wait(request)
        return again

    async def cancel(self, request: Deferred) -> bool:
        """End an open request at its caller's wish; False when it changed meanwhile."""
        done = await self._close(request, CANCELLED)
        if done:
            await self._store.erase(_payload_key(request))
        return done

    async def expire(self, request: Deferred) -> bool:
        """End an open request whose time is over; False when it changed meanwhile."""
        return await self._close(request, EXPIRED)

    async def forget(self, request: Deferred) -> None:
        """Delete a request that is over; what it cost is waited for."""
        await self._store.erase(_payload_key(request), answer_key(request))
        pk, sk = pk_of(request.tenant), sk_of(request.id)
        # Its record alone, which has no word of what was asked, until its cost is known or it is forgotten.
        if request.charged or not await self._store.update(pk, sk, "#charged = :zero", {"zero": 0}, {"hidden": 1}):
            await self._store.delete(pk, sk)

    async def uncharged(self, before: float) -> list[Deferred]:
        """Requests that were due before a Unix time, and of which nobody said yet what they cost."""
        found: list[Deferred] = []
        seen: list[Item] = [{}]
        while seen and not found:  # of those that were refused, or ended, there may be many
            seen = await self._store.between(DUE_PK, "0", f"{int(before):013d}", MOST_OVERDUE)
            for pointer in seen:
                place = str(pointer["sk"])
                _, tenant, name = place.split("#")
                request = await self.get(tenant, name)
                # Another call under the same idempotency key, which was not accepted, may have had another deadline.
                if request is None or request.charged or request.due_place != place:
                    await self._store.delete(DUE_PK, place)
                else:
                    found.append(request)
        return found

    async def _close(self, request: Deferred, status: str) -> bool:
        """End an open request. One that no batch has was never asked: what was set aside for it comes back at once."""
        change: dict[str, Value] = {"status": status, "finished_at": int(time.time())}
        if request.status == QUEUED:
            return await self._settle(request, change, None)
        pk, sk = pk_of(request.tenant), sk_of(request.id)
        return await self._store.update(pk, sk, "#status = :status", {"status": request.status}, change)


def to_json(request: Deferred, answer: bytes | None) -> dict[str, Any]:
    """The request as its caller sees it; `response` is what a direct call would have been answered."""
    error = {"code": request.error_code, "message": request.error_message} if request.error_code else None
    response = None
    if answer is not None:
        response = {"status_code": request.status_code, "body": orjson.Fragment(answer)}
    return {
        "id": request.id,
        "object": "deferred",
        "status": request.status,
        "endpoint": request.endpoint,
        "model": request.model,
        "created_at": request.created_ms // 1000,
        "due_at": request.due_at,
        "finished_at": request.finished_at or None,
        "expires_at": request.expires_at,
        "request_id": request.request_id,
        "response": response,
        "error": error,
        "cost_usd": request.cost_pico / PICO_PER_USD if request.cost_pico >= 0 else None,
    }


def _item(request: Deferred) -> Item:
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    keys = {"pk": pk_of(request.tenant), "sk": sk_of(request.id), "expires_at": request.expires_at}
    return values | keys


def _request(item: Item) -> Deferred:
    values: dict[str, Any] = {field.name: item[field.name] for field in fields(Deferred) if field.name in item}
    return Deferred(**values)


def _places(request: Deferred) -> tuple[Place, ...]:
    found = (place.partition("/") for place in request.places.split())
    return tuple((scope, window) for window, _, scope in found)


def _pointer(request: Deferred) -> Item:
    return {
        "pk": waiting_pk(request.group),
        "sk": request.place,
        "size": request.size,
        "expires_at": request.expires_at,
    }
