"""Step: a request that may wait is kept and answered with 202; and what its caller may do with it afterwards."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from app.cache.wishes import idempotency_key, key_reused
from app.deferred.deadline import HEADER, LONGEST_PAUSE_SECONDS, PAUSE_SHARE, deadline_seconds
from app.deferred.jobs import Jobs
from app.deferred.queue import gather_message
from app.deferred.requests import EXPIRED, ID, QUEUED, Deferred, DeferredRequests, payer_of, places_text, to_json
from app.deferred.store import store_of
from app.errors import ApiError
from app.ledger.evidence import aside_day
from app.observability.metrics import DEFERRED_ACCEPTED, DEFERRED_OVERDUE
from app.pipeline.endpoints import CHAT, EMBEDDINGS, RESPONSES
from app.pipeline.estimate import BYTES_PER_TOKEN
from app.pipeline.pay import feature_of
from app.prices import BATCH

if TYPE_CHECKING:
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call
    from app.services import Services

ENDPOINTS = (RESPONSES, CHAT, EMBEDDINGS)
_NOT_SENT = frozenset({"stream", "stream_options", "service_tier", "stop"})
"""Of a request's fields, those that mean nothing in a batch. `stop` goes from Responses alone, where it is ours."""


class Desk:
    """Takes in requests that may wait, says how they stand, and cancels them."""

    def __init__(self, services: Services) -> None:
        self._store = store_of(services)
        self._requests = DeferredRequests(self._store, services.ledger)
        self._jobs = Jobs(self._store)
        self._metrics = services.metrics
        self._ledger = services.ledger
        self._collect_seconds = services.settings.defer_collect_seconds

    async def accept(self, call: Call, plan: Plan, deadline: str) -> tuple[str, bytes]:
        """Keep a call for later: its id and its description as JSON; raises ApiError for what cannot wait.

        The same call again under the same `Idempotency-Key` finds the first one.
        """
        request, payload = _deferred(call, plan, deadline_seconds(deadline))
        request = replace(request, places=places_text(await self._ledger.places(payer_of(request))))
        if not await self._requests.create(request, payload):
            return request.id, await self._again(request)
        try:
            await self._requests.wait(request)
            await self._store.send(gather_message(request), self._collect_seconds)
        except ApiError:
            if await self._requests.cancel(request):
                await self._requests.forget(replace(request, charged=1))
            raise
        self._metrics.count(DEFERRED_ACCEPTED)
        return request.id, orjson.dumps(to_json(request, None))

    async def look(self, tenant: str, name: str) -> tuple[bytes, float | None]:
        """A request's description, and the seconds after which looking again is worth it; ApiError 404 for none."""
        request = await self._find(tenant, name)
        if request.overdue and await self._requests.expire(request):
            self._metrics.count(DEFERRED_OVERDUE)
            request = replace(request, status=EXPIRED, finished_at=int(time.time()))
        answer = await self._requests.answer(request) if request.status_code else None
        again = _patience(request, self._collect_seconds) if request.is_open else None
        return orjson.dumps(to_json(request, answer)), again

    async def cancel(self, tenant: str, name: str) -> bytes:
        """End a request that is open, delete one that is over; its description. ApiError 404 for none."""
        request = await self._find(tenant, name)
        while request.is_open:
            if await self._requests.cancel(request):
                request = await self._find(tenant, name)
                if request.job:
                    await self._jobs.lost_one(request.job)
                return orjson.dumps(to_json(request, None))
            request = await self._find(tenant, name)
        await self._requests.forget(request)
        return orjson.dumps({"id": name, "object": "deferred.deleted", "deleted": True})

    async def _find(self, tenant: str, name: str) -> Deferred:
        request = await self._requests.get(tenant, name) if ID.match(name) else None
        if request is None or request.hidden:
            raise ApiError("not_found", f"There is no deferred request '{name[:80]}' here; it may have been forgotten.")
        return request

    async def _again(self, request: Deferred) -> bytes:
        """The description of the request that has the id already."""
        first = await self._find(request.tenant, request.id)
        if first.digest != request.digest:
            raise key_reused()
        if first.status == QUEUED:  # perhaps because the first call broke off before anybody was told
            await self._requests.wait(first)
            await self._store.send(gather_message(first), self._collect_seconds)
        return orjson.dumps(to_json(first, None))


def _deferred(call: Call, plan: Plan, seconds: int) -> tuple[Deferred, bytes]:
    """The request as it is kept, and what OpenAI will be asked."""
    endpoint = plan.endpoint
    if endpoint not in ENDPOINTS:
        served = ", ".join(one.path for one in ENDPOINTS)
        raise ApiError("invalid_value", f"'{HEADER}' is not for {endpoint.path}; it is for {served}.", param=HEADER)
    if plan.stream:
        message = f"'stream' and '{HEADER}' exclude each other: an answer that comes hours later cannot be streamed."
        raise ApiError("invalid_value", message, param="stream")
    if plan.stop:
        message = f"'stop' on {endpoint.path} is cut from a stream, which a request with '{HEADER}' does not have."
        raise ApiError("invalid_value", message, param="stop")
    payload = orjson.dumps(_body(plan))
    now = time.time()
    tenant = call.identity.tenant
    worst = plan.model.tariff.price(BATCH).worst_pico(plan.input_tokens * BYTES_PER_TOKEN, plan.output_tokens)
    request = Deferred(
        id=_id(tenant, call.headers),
        tenant=tenant,
        key_id=call.identity.key_id,
        request_id=call.request_id,
        endpoint=endpoint.path,
        model=plan.model.name,
        requested_model=plan.requested_model,
        feature=feature_of(call),
        # Of one deadline, so that a batch can be ended when its requests are due.
        group=f"{endpoint.path}|{plan.model.name}|{seconds}",
        digest=hashlib.sha256(endpoint.path.encode() + payload).hexdigest(),
        size=len(payload),
        created_ms=int(now * 1000),
        due_at=int(now) + seconds,
        status=QUEUED,
        worst_pico=worst,
        most_output=plan.output_tokens,
        aside_day=aside_day(now),
        copy=os.urandom(4).hex(),
    )
    return request, payload


def _body(plan: Plan) -> dict[str, Any]:
    kept = _NOT_SENT - {"stop"} if plan.endpoint is CHAT else _NOT_SENT
    return {name: value for name, value in plan.document.items() if name not in kept}


def _id(tenant: str, headers: Mapping[str, str]) -> str:
    key = idempotency_key(headers)
    if key is None:
        return "def_" + os.urandom(16).hex()
    return "def_" + hashlib.blake2b(f"{tenant}\n{key}".encode(), digest_size=16).hexdigest()


def _patience(request: Deferred, least: float) -> float:
    """Seconds until it is worth looking again: as long as the worker waits before it looks again itself."""
    age = time.time() - request.created_ms / 1000
    return min(max(least, age / PAUSE_SHARE), LONGEST_PAUSE_SECONDS)
