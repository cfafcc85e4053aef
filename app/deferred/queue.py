"""What the queue's messages say: gather the requests of a group, or go on with a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from app.deferred.requests import Deferred
    from app.deferred.store import Value

VERSION = 1
GATHER, JOB = "defer", "batch"
KINDS = frozenset({GATHER, JOB})


@dataclass(frozen=True, slots=True)
class GatherOrder:
    """Make a job of a group's waiting requests, if one of them has waited as long as the one that this is for."""

    group: str
    created_ms: int
    again: tuple[str, str] | None = None
    """Tenant and id of a request that is to be put among the waiting ones first."""


@dataclass(frozen=True, slots=True)
class JobOrder:
    """Bring a job a step further."""

    job: str


def gather_message(request: Deferred) -> dict[str, Value]:
    """The message that goes with each request."""
    return {"version": VERSION, "kind": GATHER, "group": request.group, "created_ms": request.created_ms}


def again_message(request: Deferred) -> dict[str, Value]:
    """The same for one that was left out of its job, and waits for the next one from then on."""
    return {**gather_message(request), "tenant": request.tenant, "id": request.id}


def job_message(job: str) -> dict[str, Value]:
    """The message that a job lives by."""
    return {"version": VERSION, "kind": JOB, "job": job}


def read_message(body: str) -> GatherOrder | JobOrder | None:
    """The order in a message; None for one of another kind. Raises ValueError for one that makes no sense."""
    found = orjson.loads(body)
    if not isinstance(found, dict) or found.get("kind") not in KINDS:
        return None
    if found.get("version") != VERSION:
        raise ValueError("a message about deferred requests of an unknown version")
    if found["kind"] == JOB:
        if not isinstance(found.get("job"), str):
            raise ValueError("the message names no job")
        return JobOrder(found["job"])
    group, created_ms = found.get("group"), found.get("created_ms")
    if not isinstance(group, str) or type(created_ms) is not int:
        raise ValueError("the message names no group and time")
    again = found.get("tenant"), found.get("id")
    return GatherOrder(group, created_ms, (str(again[0]), str(again[1])) if all(again) else None)
