"""What a batch gave: each answer to its request, each cost to its tenant, and another try or an end for the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from app.deferred.batch_api import BatchApi
from app.deferred.deadline import LEAST_SECONDS, PATH
from app.deferred.jobs import AT_ONCE, Job, together
from app.deferred.queue import gather_message
from app.deferred.requests import COMPLETED, EXPIRED, FAILED, IN_PROGRESS, Deferred, DeferredRequests
from app.deferred.store import Store
from app.keys import Identity
from app.ledger import Entry, Outcome
from app.observability.metrics import DEFERRED_ANSWERED, DEFERRED_GIVEN_UP, DEFERRED_OVERDUE
from app.pipeline.endpoints import endpoint_of
from app.pipeline.estimate import text_tokens
from app.pipeline.meter import NOTHING, usage_of
from app.pipeline.record import Record
from app.pipeline.request_line import write_line
from app.prices import BATCH, Usage, default_prices, is_regional

if TYPE_CHECKING:
    from openai.types import Batch

    from app.services import Services

MOST_ATTEMPTS = 3
"""Batches that a request may be in before it is given up."""
PASSING_CODES = frozenset({"token_limit_exceeded"})
"""Of a batch that failed as a whole: the queue of the model is full, and the same requests may pass later."""
QUEUE_FULL_SECONDS = 300.0
CHANGES = 4
"""Of a request that its caller may make while its answer is filed: it is cancelled, or overdue."""
TOO_LATE = "The deadline passed before OpenAI gave an answer."

log = logging.getLogger(__name__)


class Results:
    """Files results. Doing it again for the same batch changes nothing and charges nothing."""

    def __init__(self, services: Services, store: Store, api: BatchApi) -> None:
        self._services = services
        self._store = store
        self._requests = DeferredRequests(store, services.ledger)
        self._api = api
        self._prices = default_prices(regional=is_regional(services.settings.openai_base_url))

    async def file(self, job: Job, batch: Batch, members: Mapping[str, str]) -> None:
        """File everything that a batch which is over gave, and decide about what it did not."""
        left = dict(members)
        part: list[dict[str, Any]] = []
        # OpenAI bills what it did to the day on which it did it, however late it is filed.
        at = float(batch.completed_at or batch.expired_at or batch.cancelled_at or time.time())
        for file_id in (batch.output_file_id, batch.error_file_id):
            async for line in self._api.lines(file_id):
                if line.get("custom_id") in left and line.get("response") is not None:
                    part.append(line | {"tenant": left.pop(line["custom_id"]), "at": at})
                if len(part) == AT_ONCE:
                    await together(self._answered(job, one) for one in part)
                    part = []
        await together(self._answered(job, one) for one in part)
        if left:
            await self._unanswered(job, batch, left)

    async def give_up(self, job: Job, members: Mapping[str, str], status: str, code: str, message: str) -> None:
        """End every request of a job that is not over or not charged, when OpenAI has billed none of them."""
        await together(self._end(job, tenant, name, status, code, message) for name, tenant in members.items())

    async def assume(self, job: Job, members: Mapping[str, str], status: str, code: str, message: str) -> None:
        """The same, when nobody will ever say what OpenAI billed: then it counts as the most that it can be."""
        ends = (status, code, message)
        await together(self._end(job, tenant, name, *ends, unknown=True) for name, tenant in members.items())

    async def assume_one(self, request: Deferred) -> None:
        """The same for a request whose job is gone."""
        await self._given_up(request, EXPIRED, "deadline_exceeded", TOO_LATE, unknown=True)

    async def expire(self, job: Job, members: Mapping[str, str]) -> None:
        """Tell whoever waits for a job that it is too late. What it costs is not known yet, and stays set aside."""
        found = await together(self._requests.get(tenant, name) for name, tenant in members.items())
        late = [request for request in found if request and request.status == IN_PROGRESS and request.job == job.id]
        self._services.metrics.count(DEFERRED_OVERDUE, sum(await together(map(self._requests.expire, late))))

    async def _answered(self, job: Job, line: Mapping[str, Any]) -> None:
        """One line of an output or error file."""
        response = line["response"]
        body, code = response.get("body"), int(response.get("status_code") or 0)
        answer = orjson.dumps(body)
        upstream = str(response.get("request_id") or "")
        for _ in range(CHANGES):  # its caller may end it meanwhile
            request = await self._requests.get(line["tenant"], line["custom_id"])
            if request is None or request.charged or request.job != job.id:
                return  # filed before
            usage, estimated = _usage(request, body, len(answer)) if code == 200 else (NOTHING, False)
            done = replace(
                request,
                status=COMPLETED if code == 200 else FAILED,
                status_code=code,
                finished_at=int(time.time()),
                cost_pico=self._cost(request, usage),
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
            )
            entry = self._entry(done, usage, upstream, line["at"], estimated=estimated)
            if await self._requests.finish(request, done, entry, answer):
                self._services.metrics.count(DEFERRED_ANSWERED)
                self._tell(done, identity_of(request), usage, upstream, estimated=estimated)
                return

    async def _unanswered(self, job: Job, batch: Batch, left: Mapping[str, str]) -> None:
        """Requests that a batch ended without."""
        problems = (batch.errors.data or []) if batch.errors is not None else []
        if batch.status != "failed":
            code, message = "batch_expired", "OpenAI did not come to this request in time."
            await together(self._again(job, tenant, name, code, message) for name, tenant in left.items())
            return
        first = problems[0] if problems else None
        code = (first.code if first else None) or "batch_failed"
        message = (first.message if first else None) or "OpenAI refused the batch."
        at_fault = {problem.line for problem in problems if problem.line is not None}
        if code in PASSING_CODES:
            await together(
                self._again(job, tenant, name, code, message, QUEUE_FULL_SECONDS) for name, tenant in left.items()
            )
        elif at_fault:
            number = 0
            named = {problem.line: problem for problem in problems}
            async for line in self._api.lines(job.file_id):
                number += 1
                name = line["custom_id"]
                if number in at_fault:
                    why = named[number]
                    ends = (FAILED, why.code or code, why.message or message)
                    await self._end(job, left[name], name, *ends)
                elif name in left:
                    await self._again(job, left[name], name, code, message)
        else:
            await self.give_up(job, left, FAILED, code, message)

    async def _again(
        self, job: Job, tenant: str, name: str, code: str, message: str, after_seconds: float | None = None
    ) -> None:
        """Let a request wait for another batch, while there is time for one."""
        request = await self._requests.get(tenant, name)
        if request is None or request.charged or request.job != job.id:
            return
        wait = self._services.settings.defer_collect_seconds if after_seconds is None else after_seconds
        last = request.attempts + 1 >= MOST_ATTEMPTS or time.time() + wait + LEAST_SECONDS > request.due_at
        if last or request.status != IN_PROGRESS:
            await self._end(job, tenant, name, EXPIRED, code, message)
        elif await self._requests.requeue(request):
            await self._store.send(gather_message(request), wait)

    async def _end(
        self, job: Job, tenant: str, name: str, status: str, code: str, message: str, *, unknown: bool = False
    ) -> None:
        for _ in range(CHANGES):
            request = await self._requests.get(tenant, name)
            if request is None or request.charged or request.job != job.id:
                return
            if await self._given_up(request, status, code, message, unknown=unknown):
                return

    async def _given_up(self, request: Deferred, status: str, code: str, message: str, *, unknown: bool) -> bool:
        now = int(time.time())
        cost = request.worst_pico if unknown else 0
        told = replace(request, status=status, finished_at=now, cost_pico=cost)
        if request.is_open:
            told = replace(told, error_code=code, error_message=message)
        entry = None
        if unknown:
            # A token is at least a byte.
            most = replace(NOTHING, input_tokens=request.size, output_tokens=request.most_output)
            # It was billed by then, if at all, however late it is given up.
            entry = self._entry(told, most, "", float(min(now, request.due_at)), estimated=True)
        if not await self._requests.give_up(request, told, entry):
            return False
        fields = {"deferred": request.id, "tenant": request.tenant, "job": request.job, "reason": code}
        if request.is_open:
            self._services.metrics.count(DEFERRED_GIVEN_UP)
            log.warning("a deferred request was given up", extra={"fields": {**fields, "status": status}})
        if unknown:
            about = {**fields, "pico": str(cost)}
            log.error("what a deferred request cost is not known: charged as its worst case", extra={"fields": about})
        return True

    def _cost(self, request: Deferred, usage: Usage) -> int:
        tariff = self._prices.tariff(request.model)
        return tariff.served(BATCH, usage.input_tokens)[0].cost_pico(usage) if tariff is not None else 0

    def _entry(self, request: Deferred, usage: Usage, upstream: str, at: float, *, estimated: bool) -> Entry:
        """The ledger's entry of an answer. Its id is the request's own, whoever files it."""
        ok = request.status_code == 200
        outcome = Outcome.ESTIMATED if estimated else Outcome.OK if ok else Outcome.FAILED
        odd = ["estimated"] if estimated else []
        if request.cost_pico > request.worst_pico and request.places:
            odd.append("overrun")
        return Entry(
            id=request.id,
            at=at,
            tenant=request.tenant,
            key=request.key_id,
            feature=request.feature,
            asked=request.requested_model,
            model=request.model,
            tier=BATCH,
            input=usage.input_tokens,
            cached=usage.cached_tokens,
            cache_write=usage.cache_write_tokens,
            output=usage.output_tokens,
            reasoning=usage.reasoning_tokens,
            version=self._prices.version,
            pico=request.cost_pico,
            outcome=outcome.value,
            upstream=upstream,
            flags=" ".join(odd),
        )

    def _tell(self, request: Deferred, identity: Identity, usage: Usage, upstream: str, *, estimated: bool) -> None:
        """The log line of an answered request, as for a direct call."""
        record = Record(request.request_id, request.endpoint, identity)
        record.status, record.model = request.status_code, request.model
        record.requested_model = request.requested_model
        record.usage, record.usage_estimated, record.cost_pico = usage, estimated, request.cost_pico
        record.upstream_request_id, record.deferred, record.parent = upstream or None, request.id, PATH
        write_line(record, self._services.metrics)


def _usage(request: Deferred, body: Any, size: int) -> tuple[Usage, bool]:
    """What a success used, and whether that is an estimate."""
    found = usage_of(endpoint_of(request.endpoint), body) if isinstance(body, dict) else None
    if found is not None:
        return found, False
    return replace(NOTHING, input_tokens=text_tokens(request.size), output_tokens=text_tokens(size)), True


def identity_of(request: Deferred) -> Identity:
    """Whoever asked, as far as an account needs to know; a key revoked since still pays for what it asked for."""
    return Identity(request.tenant, request.key_id, "", "user", None, None)
