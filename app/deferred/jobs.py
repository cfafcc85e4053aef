"""Jobs: requests of one group on their way through one batch. What is written down, so that any worker can go on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import orjson

from app.deferred.queue import GatherOrder, job_message
from app.deferred.requests import DAY_SECONDS, PREFIX, waiting_pk
from app.deferred.store import Item, Store, Value

T = TypeVar("T")

MOST_REQUESTS = 2_000
MOST_BYTES = 32 * 1024 * 1024
"""Of all requests of a job, as the worker holds them in memory. OpenAI takes 50,000 requests and 200 MB."""
LEASE_SECONDS = 300
"""Longer than the calls between two renewals can take; after a crash another worker goes on this much later."""
LOCK_SECONDS = 120
KEPT_DAYS = 3
"""A job's own records outlive its batch for looking into what happened."""
AT_ONCE = 32

CLAIMING, UPLOADED, CREATING, RUNNING, DONE = "claiming", "uploaded", "creating", "running", "done"
_LOCK, _JOB = "LOCK", "JOB"


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times in Unix seconds."""

    id: str
    endpoint: str
    model: str
    group: str
    created_at: int
    due_at: int
    state: str = CLAIMING
    requests: int = 0
    """In the file that was uploaded."""
    cancelled: int = 0
    """Of those, cancelled by their callers since."""
    file_id: str = ""
    batch_id: str = ""
    creating_at: int = 0
    """When a batch was asked for, which may or may not exist."""


class Jobs:
    """Reads and writes jobs. Every method raises ApiError 503 `service_unavailable` when AWS does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def gather(self, order: GatherOrder) -> int:
        """Make jobs of a group's waiting requests; returns how many. One worker at a time does so for a group.

        Requests that came after the one the order is for go along; without that one nothing is done, as the others
        have orders of their own.
        """
        made, up_to = 0, order.created_ms
        # Most orders find that an earlier one took theirs along: a look costs a tenth of a lock.
        first = await self._store.between(waiting_pk(order.group), "0", ":", 1)
        if not first or _since(first[0]) > up_to:
            return 0
        if not await self._lock(order.group, up_to):
            return 0
        while True:
            while await self._make(order.group, up_to):
                made += 1
            if await self._unlock(order.group):
                return made
            lock = await self._store.get(waiting_pk(order.group), _LOCK)
            seen = int(lock.get("again", 0)) if lock else 0
            up_to = max(up_to, seen)
            await self._store.update(waiting_pk(order.group), _LOCK, "#again = :seen", {"seen": seen}, {"again": None})

    async def get(self, name: str) -> Job | None:
        """A job as it is now."""
        item = await self._store.get(job_pk(name), _JOB)
        if item is None:
            return None
        values: dict[str, Any] = {field.name: item[field.name] for field in fields(Job)}
        return Job(**values)

    async def change(self, job: Job, **values: Value) -> None:
        """Write down how far a job is."""
        await self._store.update(job_pk(job.id), _JOB, "attribute_exists(pk)", {}, values)

    async def lease(self, job: Job, owner: str) -> bool:
        """Hold a job alone for LEASE_SECONDS, or go on holding it; False when another worker does."""
        now = int(time.time())
        return await self._store.update(
            job_pk(job.id),
            _JOB,
            "#lease_until < :now OR #owner = :owner",
            {"now": now, "owner": owner},
            {"lease_until": now + LEASE_SECONDS, "owner": owner},
        )

    async def release(self, job: Job, owner: str) -> None:
        """Let others hold a job."""
        values: dict[str, Value | None] = {"lease_until": 0, "owner": None}
        await self._store.update(job_pk(job.id), _JOB, "#owner = :owner", {"owner": owner}, values)

    async def lost_one(self, name: str) -> None:
        """One more request of a job was cancelled by its caller: once all are, its batch is ended."""
        await self._store.update(job_pk(name), _JOB, "attribute_exists(pk)", {}, {}, add={"cancelled": 1})

    async def members(self, job: Job) -> dict[str, str]:
        """The requests that may be in a job, in order: id to tenant."""
        found = await self._store.read(_members_key(job.id))
        members: dict[str, str] = orjson.loads(found) if found is not None else {}
        return members

    async def close(self, job: Job) -> None:
        """A job is over."""
        await self.change(job, state=DONE)
        await self._store.erase(_members_key(job.id))

    async def _make(self, group: str, up_to: int) -> bool:
        """Make a job of the requests that wait, the oldest first; False when none has waited long enough.

        They wait until the job has its message: of a request in two jobs, one claims it.
        """
        waiting = await self._store.between(waiting_pk(group), "0", ":", MOST_REQUESTS)
        if not waiting or _since(waiting[0]) > up_to:
            return False
        size = 0
        chosen: list[str] = []
        for pointer in waiting:
            size += int(pointer["size"])
            if chosen and size > MOST_BYTES:
                break
            chosen.append(str(pointer["sk"]))
        endpoint, model, seconds = group.split("|")
        places = [place.split("#") for place in chosen]
        now = int(time.time())
        due_at = int(places[-1][0]) // 1000 + int(seconds)
        job = Job("job_" + os.urandom(16).hex(), endpoint, model, group, now, due_at)
        await self._store.write(_members_key(job.id), orjson.dumps({name: tenant for _, tenant, name in places}))
        await self._store.put(_item(job))
        await self._store.send(job_message(job.id), 0)
        await together(self._store.delete(waiting_pk(group), place) for place in chosen)
        return True

    async def _lock(self, group: str, up_to: int) -> bool:
        """Be the one who gathers a group; else leave word that there is more to gather."""
        now = int(time.time())
        pk = waiting_pk(group)
        lock: Item = {"until": now + LOCK_SECONDS, "expires_at": now + KEPT_DAYS * DAY_SECONDS}
        free = "attribute_not_exists(pk) OR #until < :now"
        if await self._store.update(pk, _LOCK, free, {"now": now}, dict(lock)):
            return True
        earlier = "attribute_not_exists(#again) OR #again < :up_to"
        await self._store.update(pk, _LOCK, earlier, {"up_to": up_to}, {"again": up_to})
        return False

    async def _unlock(self, group: str) -> bool:
        """Stop gathering; False when somebody left word of more."""
        return await self._store.update(
            waiting_pk(group), _LOCK, "attribute_not_exists(#again) AND #until > :zero", {"zero": 0}, {"until": 0}
        )


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of many small operations, AT_ONCE at a time."""
    results: list[T] = []
    part: list[Awaitable[T]] = []
    for one in work:
        part.append(one)
        if len(part) == AT_ONCE:
            results += await asyncio.gather(*part)
            part = []
    return results + await asyncio.gather(*part)


def job_pk(name: str) -> str:
    """Partition of a job."""
    return f"DEFERJOB#{name}"


def _since(pointer: Item) -> int:
    """Since when a request waits, in milliseconds."""
    return int(str(pointer["sk"]).partition("#")[0])


def _members_key(name: str) -> str:
    return f"{PREFIX}/jobs/{name}/members.json"


def _item(job: Job) -> Item:
    values = {field.name: getattr(job, field.name) for field in fields(job)}
    expires_at = job.created_at + KEPT_DAYS * DAY_SECONDS
    return values | {"pk": job_pk(job.id), "sk": _JOB, "lease_until": 0, "expires_at": expires_at}
