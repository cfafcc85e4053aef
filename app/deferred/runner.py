"""The worker's part: gathers deferred requests, and brings jobs a step further each time a message says so.

Nothing is held between two messages but what is written down, so that a worker may stop or die after any line: the
message comes again, and the next one goes on from the last state. A job waits for OpenAI as a delayed message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from random import SystemRandom
from typing import TYPE_CHECKING

import orjson

from app.deferred.batch_api import OVER, BatchApi, BatchAwayError, BatchRefusedError
from app.deferred.deadline import LEAST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_SHARE
from app.deferred.jobs import CLAIMING, CREATING, DONE, RUNNING, UPLOADED, Job, Jobs, together
from app.deferred.queue import GatherOrder, JobOrder, again_message, job_message
from app.deferred.requests import EXPIRED, FAILED, GRACE_SECONDS, QUEUED, DeferredRequests
from app.deferred.results import TOO_LATE, Results, identity_of
from app.deferred.store import store_of
from app.errors import ApiError
from app.observability.metrics import DEFERRED_BATCHES, DEFERRED_OVERDUE

if TYPE_CHECKING:
    from openai.types import Batch

    from app.services import Services

SETTLE_SECONDS = 60
"""A batch that may have been made is looked for this long before another is made."""
UNKNOWN_SECONDS = 36 * 3600
"""After its deadline a batch of which OpenAI says nothing is given up; sooner than its job's record is forgotten."""
HELD_SECONDS = 300.0
"""Until a request whose spending is on hold is looked at again."""
SWEEP_SECONDS = 300.0
_CHANCE = SystemRandom()
AWAY_SECONDS = 30.0
"""Until the next attempt when OpenAI did not do as asked."""
BUSY_SECONDS = 60.0
"""Until a job is looked at again that another worker holds, or held when it died."""

log = logging.getLogger(__name__)


class Runner:
    """Works off messages about deferred requests."""

    def __init__(self, services: Services) -> None:
        self._store = store_of(services)
        self._requests = DeferredRequests(self._store, services.ledger)
        self._jobs = Jobs(self._store)
        self._api = BatchApi(services)
        self._results = Results(services, self._store, self._api)
        self._metrics = services.metrics
        self._budgets = services.budgets
        self._pause_seconds = services.settings.defer_collect_seconds
        self._owner = os.urandom(8).hex()

    async def close(self) -> None:
        """Close connections."""
        await self._api.close()

    async def run(self, order: GatherOrder | JobOrder) -> None:
        """Do what a message asks for; raises ApiError when AWS does not answer, and doing it again is harmless."""
        if isinstance(order, GatherOrder):
            request = await self._requests.get(*order.again) if order.again else None
            if request is not None and request.status == QUEUED:
                await self._requests.wait(request)
            await self._jobs.gather(order)
            return
        job = await self._jobs.get(order.job)
        if job is None or job.state == DONE:
            return
        # A token of its own: two messages of one job in one worker exclude each other as well.
        owner = f"{self._owner}-{os.urandom(4).hex()}"
        wait: float | None = BUSY_SECONDS
        if await self._jobs.lease(job, owner):
            try:
                wait = await self._steps(job, owner)
            finally:
                await self._jobs.release(job, owner)
        if wait is not None:
            await self._store.send(job_message(job.id), wait)

    async def _steps(self, job: Job, owner: str) -> float | None:
        """Bring a job as far as it goes; the seconds until it is looked at again, None when it is over."""
        try:
            wait: float | None = 0.0
            while wait == 0.0:
                found = await self._jobs.get(job.id)
                if found is None or not await self._jobs.lease(found, owner):
                    return BUSY_SECONDS
                job = found
                wait = await self._step(job)
            return wait
        except BatchAwayError as error:
            log.warning(
                "a batch is put off", extra={"fields": {"job": job.id, "state": job.state, "reason": str(error)}}
            )
            if time.time() <= job.due_at + GRACE_SECONDS:
                return AWAY_SECONDS
            return await self._too_late(job)

    async def _step(self, job: Job) -> float | None:
        """One step; 0 when the next one may follow at once."""
        if job.state == CLAIMING:
            return await self._upload(job)
        if job.state == UPLOADED:
            return await self._create(job)
        if job.state == CREATING:
            return await self._find(job)
        if job.state == RUNNING:
            return await self._look(job)
        return None

    async def _upload(self, job: Job) -> float | None:
        """Claim the requests and upload them as one file."""
        members = await self._jobs.members(job)
        lines = await together(self._line(job, tenant, name) for name, tenant in members.items())
        claimed = [line for line in lines if line]
        if not claimed:
            await self._jobs.close(job)
            return None
        file_id = await self._api.upload(job.id, b"".join(claimed))
        await self._jobs.change(job, state=UPLOADED, file_id=file_id, requests=len(claimed))
        return 0.0

    async def _line(self, job: Job, tenant: str, name: str) -> bytes:
        """A request's line in the file; empty when it is not to be asked any more, or not yet."""
        request = await self._requests.get(tenant, name)
        if request is None or not request.is_open:
            return b""
        if request.status == QUEUED and self._budgets.held(identity_of(request), request.model):
            # Among the waiting ones only then: whoever made this job may still be taking it from them.
            await self._store.send(again_message(request), HELD_SECONDS)
            return b""
        if not await self._requests.claim(tenant, name, job.id):
            return b""
        payload = await self._requests.payload(request)
        if payload is None:
            return b""
        line = {"custom_id": name, "method": "POST", "url": job.endpoint, "body": orjson.Fragment(payload)}
        return orjson.dumps(line) + b"\n"

    async def _create(self, job: Job) -> float | None:
        """Make the batch. That it is about to be made is written down first: see `_find`."""
        await self._jobs.change(job, state=CREATING, creating_at=int(time.time()))
        try:
            batch = await self._api.create(job.id, job.file_id, job.endpoint)
        except BatchAwayError as error:
            if not error.perhaps_done:
                await self._jobs.change(job, state=UPLOADED)
            raise
        except BatchRefusedError as error:
            if error.status == 404:  # the file is gone
                await self._jobs.change(job, state=CLAIMING)
                return AWAY_SECONDS
            await self._results.give_up(job, await self._jobs.members(job), FAILED, error.code, str(error))
            await self._api.forget(job.file_id)
            await self._jobs.close(job)
            return None
        return await self._made(job, batch.id)

    async def _find(self, job: Job) -> float | None:
        """A batch was asked for and nobody wrote down what came of it: look for it before paying for another."""
        batch = await self._api.find(job.id, job.creating_at)
        if batch is not None:
            return await self._made(job, batch.id)
        age = time.time() - job.creating_at
        if age < SETTLE_SECONDS:
            return max(LEAST_PAUSE_SECONDS, min(self._pause_seconds, SETTLE_SECONDS - age))
        await self._jobs.change(job, state=UPLOADED)
        return 0.0

    async def _made(self, job: Job, batch_id: str) -> float:
        await self._jobs.change(job, state=RUNNING, batch_id=batch_id)
        self._metrics.count(DEFERRED_BATCHES)
        fields = {"job": job.id, "batch": batch_id, "requests": job.requests, "model": job.model}
        log.info("batch made", extra={"fields": fields})
        return max(self._pause_seconds, LEAST_PAUSE_SECONDS)

    async def _look(self, job: Job) -> float | None:
        """How does the batch stand?"""
        try:
            batch = await self._api.retrieve(job.batch_id)
        except BatchRefusedError as error:
            await self._lost(job, error)
            return None
        now = time.time()
        if batch.status in OVER:
            await self._file(job, batch)
            return None
        if now > job.due_at + GRACE_SECONDS:
            return await self._too_late(job)
        unwanted = job.cancelled >= job.requests and not await self._wanted(job)
        if batch.status in ("validating", "in_progress") and (unwanted or now >= job.due_at):
            await self._api.cancel(batch.id)
            return max(self._pause_seconds, LEAST_PAUSE_SECONDS)
        age = now - batch.created_at
        pause = max(self._pause_seconds, age / PAUSE_SHARE, LEAST_PAUSE_SECONDS)
        return min(pause, LONGEST_PAUSE_SECONDS, max(LEAST_PAUSE_SECONDS, job.due_at - now))

    async def _file(self, job: Job, batch: Batch) -> None:
        """A batch is over."""
        try:
            await self._results.file(job, batch, await self._jobs.members(job))
        except BatchRefusedError as error:
            await self._lost(job, error)
            return
        await self._jobs.close(job)
        # Last: a job that is not closed is filed again, and needs them.
        await self._api.forget(job.file_id, batch.output_file_id, batch.error_file_id)
        log.info("batch filed", extra={"fields": {"job": job.id, "batch": batch.id, "status": batch.status}})

    async def _lost(self, job: Job, error: BatchRefusedError) -> None:
        """Gone at OpenAI: what it cost is not known here, so nothing is asked a second time."""
        await self._results.assume(job, await self._jobs.members(job), FAILED, "batch_lost", str(error))
        await self._jobs.close(job)

    async def _wanted(self, job: Job) -> bool:
        """Whether anybody still waits for a request of a job."""
        members = await self._jobs.members(job)
        found = await together(self._requests.get(tenant, name) for name, tenant in members.items())
        return any(request is not None and request.is_open and request.job == job.id for request in found)

    async def _too_late(self, job: Job) -> float | None:
        """The time of a job is over, and nothing came of it. Its batch is looked at until it is known what it cost."""
        members = await self._jobs.members(job)
        never_sent = job.state in (CLAIMING, UPLOADED)
        if not never_sent and time.time() <= job.due_at + UNKNOWN_SECONDS:
            await self._results.expire(job, members)
            if job.batch_id:
                await self._api.cancel(job.batch_id)
            return LONGEST_PAUSE_SECONDS
        self._metrics.count(DEFERRED_OVERDUE)
        end = self._results.give_up if never_sent else self._results.assume
        await end(job, members, EXPIRED, "deadline_exceeded", TOO_LATE)
        await self._jobs.close(job)
        return None

    async def sweep_forever(self) -> None:
        """End, every SWEEP_SECONDS, what nobody else ends; never raises."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS * _CHANCE.uniform(0.5, 1.0))
            try:
                await self.sweep(time.time() - GRACE_SECONDS)
            except ApiError as error:
                log.warning("overdue requests are looked at later", extra={"fields": {"reason": error.code}})

    async def sweep(self, due_before: float) -> None:
        """End requests whose message or job is lost: what is set aside for them is not held for ever."""
        for request in await self._requests.uncharged(due_before):
            if request.status == QUEUED:
                self._metrics.count(DEFERRED_OVERDUE, await self._requests.expire(request))
                continue
            job = await self._jobs.get(request.job)
            if job is None or job.state == DONE:
                await self._results.assume_one(request)
