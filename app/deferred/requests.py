"""Deferred requests: what is known of one, where it is kept, and the only ways in which its status may change."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, fields
from typing import Any

import orjson

from app.deferred.store import Item, Store
from app.prices import PICO_PER_USD

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
    """1 once its tenant's account has the cost."""
    input_tokens: int = 0
    output_tokens: int = 0
    error_code: str = ""
    error_message: str = ""

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


def pk_of(tenant: str) -> str:
    """Partition of a tenant's requests."""
    return f"TENANT#{tenant}"


def sk_of(name: str) -> str:
    """Sort key of a request."""
    return f"DEFER#{name}"


def waiting_pk(group: str) -> str:
    """Partition of the requests of a group that are in no job yet."""
    return f"DEFER#{group}"


def answer_key(request: Deferred) -> str:
    """Key of the object that holds the answer."""
    return f"{PREFIX}/{request.tenant}/{request.id}/answer.json"


def _payload_key(request: Deferred) -> str:
    # Named by what it holds: another request under the same idempotency key must not take its place.
    return f"{PREFIX}/{request.tenant}/{request.id}/{request.digest[:32]}.json"


class DeferredRequests:
    """Reads and writes requests. Every method raises ApiError 503 `service_unavailable` when AWS does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, request: Deferred, payload: bytes) -> bool:
        """Keep a request and put it among the waiting ones; False when its id is taken."""
        await self._store.write(_payload_key(request), payload)
        if not await self._store.put(_item(request), new=True):
            return False
        await self.wait(request)
        return True

    async def wait(self, request: Deferred) -> None:
        """Put a queued request among the waiting ones. Doing it again is no error."""
        await self._store.put(_pointer(request))

    async def get(self, tenant: str, name: str) -> Deferred | None:
        """One request of a tenant as it is now."""
        item = await self._store.get(pk_of(tenant), sk_of(name))
        return None if item is None else _request(item)

    async def payload(self, tenant: str, name: str) -> bytes | None:
        """What to ask OpenAI; None once it is deleted."""
        request = await self.get(tenant, name)
        return None if request is None else await self._store.read(_payload_key(request))

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

    async def finish(self, request: Deferred, answer: bytes) -> bool:
        """Keep the answer of a request in progress, which `request` describes; False when it is over already."""
        await self._store.write(answer_key(request), answer)
        if not await self._end(request):
            return False
        await self._store.erase(_payload_key(request))
        return True

    async def give_up(self, request: Deferred) -> bool:
        """End a request in progress without an answer, as `request` says; False when it is over already."""
        return await self._end(request)

    async def note_cost(self, request: Deferred) -> bool:
        """Note the cost of an answer that nobody gets any more; False when it is noted already."""
        return await self._store.update(
            pk_of(request.tenant),
            sk_of(request.id),
            "(#status = :cancelled OR #status = :expired) AND #job = :job AND #cost_pico = :none",
            {"cancelled": CANCELLED, "expired": EXPIRED, "job": request.job, "none": -1},
            {name: getattr(request, name) for name in ("cost_pico", "input_tokens", "output_tokens")},
        )

    async def settled(self, request: Deferred) -> None:
        """The cost of a request is in its tenant's account."""
        pk, sk = pk_of(request.tenant), sk_of(request.id)
        await self._store.update(pk, sk, "attribute_exists(pk)", {}, {"charged": 1})

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
        """Delete a request that is over."""
        await self._store.erase(_payload_key(request), answer_key(request))
        await self._store.delete(pk_of(request.tenant), sk_of(request.id))

    async def drop_pointer(self, request: Deferred) -> None:
        """Take a request from the waiting ones."""
        await self._store.delete(waiting_pk(request.group), request.place)

    async def _end(self, request: Deferred) -> bool:
        names = ("status", "status_code", "finished_at", "cost_pico", "charged", "input_tokens", "output_tokens")
        told = {name: getattr(request, name) for name in (*names, "error_code", "error_message")}
        return await self._store.update(
            pk_of(request.tenant),
            sk_of(request.id),
            "#status = :working AND #job = :job",
            {"working": IN_PROGRESS, "job": request.job},
            told,
        )

    async def _close(self, request: Deferred, status: str) -> bool:
        done = await self._store.update(
            pk_of(request.tenant),
            sk_of(request.id),
            "#status = :status",
            {"status": request.status},
            {"status": status, "finished_at": int(time.time())},
        )
        if done and request.status == QUEUED:
            await self.drop_pointer(request)
        return done


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
    values: dict[str, Any] = {field.name: item[field.name] for field in fields(Deferred)}
    return Deferred(**values)


def _pointer(request: Deferred) -> Item:
    return {
        "pk": waiting_pk(request.group),
        "sk": request.place,
        "size": request.size,
        "expires_at": request.expires_at,
    }
