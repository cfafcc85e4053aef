"""The worker: reads documents and works off deferred requests from the queue, and answers health checks meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.deferred.queue import read_message
from app.deferred.runner import Runner
from app.errors import ApiError
from app.keys import Identity
from app.observability.metrics import DOCUMENTS_FAILED, DOCUMENTS_INGESTED
from app.pipeline import Pipeline
from app.product.consumer import Consumer, Message, retry_seconds
from app.product.documents import Documents, Job
from app.product.gateway import Gateway
from app.product.ingest import BadDocumentError, Ingest
from app.protection import TaskProtection
from app.services import Services
from app.serving import health
from app.serving.server import serve
from app.serving.v1 import new_request_id
from app.upstream.pool import Upstream

if TYPE_CHECKING:
    from app.sdk import Runs
    from app.settings import Settings

RELEASE_SECONDS = 5.0
"""Kept of the drain for giving messages back and writing what was spent."""

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Work until SIGTERM, then finish or give back what is in hand; returns the exit code."""
    return serve(WorkerApp(settings), settings)


class WorkerApp:
    """The worker as an application: health checks by HTTP, the work in its lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._services: Services | None = None
        self._consumer: Consumer | None = None
        self._polling: asyncio.Task[None] | None = None
        self._drained_at: float | None = None
        self._site = Starlette(
            routes=[Route("/health/live", self._live), Route("/health/ready", self._ready)], lifespan=self._lifespan
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        await self._site(scope, receive, send)

    def drain(self) -> None:
        """Take no further message, from this moment on; /health/ready fails."""
        self._drained_at = asyncio.get_running_loop().time()
        if self._services is not None:
            self._services.draining = True
        if self._consumer is not None:
            self._consumer.stop()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _site: Starlette) -> AsyncIterator[None]:
        services = await Services.start(self._settings)
        try:
            async with _upstream(services) as upstream:
                pipeline = Pipeline(services, upstream)
                reader = DocumentReader(services, pipeline)
                runner = Runner(services)
                protection = TaskProtection(self._settings.agent_uri)

                async def work(message: Message) -> float | None:
                    async with protection.job():
                        return await _work(message, reader, runner)

                at_once = services.container.documents_at_once
                consumer = Consumer(services.aws, self._settings.queue_url, work, concurrency=at_once)
                self._services, self._consumer = services, consumer
                self._polling = asyncio.create_task(consumer.run(), name="polling")
                sweeping = asyncio.create_task(runner.sweep_forever(), name="overdue")
                try:
                    yield
                finally:
                    sweeping.cancel()
                    await self._finish(consumer, self._polling)
                    await protection.close()
                    await runner.close()
                    await pipeline.close()
        finally:
            await services.stop()

    async def _finish(self, consumer: Consumer, polling: asyncio.Task[None]) -> None:
        """Stop polling and end the work within what is left of the drain."""
        clock = asyncio.get_running_loop().time
        deadline = (self._drained_at or clock()) + self._settings.drain_seconds - RELEASE_SECONDS
        consumer.stop()
        await asyncio.wait([polling])
        await consumer.finish(deadline - clock())

    async def _live(self, _request: Request) -> Response:
        # A worker that no longer polls does nothing at all: a restart is what helps.
        if self._polling is None or (self._polling.done() and self._drained_at is None):
            return _json(503, {"status": "not polling"})
        return _json(200, health.live())

    async def _ready(self, _request: Request) -> Response:
        if self._services is None:
            return _json(503, {"status": "starting"})
        good, report = await health.ready(self._services)
        return _json(200 if good else 503, report)


async def _work(message: Message, reader: DocumentReader, runner: Runner) -> float | None:
    """Do what a message asks for. None = done; else seconds until another attempt."""
    try:
        order = read_message(message.body)
    except ValueError as error:
        about = {"reason": str(error), "receives": message.receives}
        log.error("a message makes no sense", extra={"fields": about})
        return 0.0
    if order is None:
        return await reader.read(message)
    try:
        await runner.run(order)
    except ApiError as error:
        about = {"reason": error.code, "receives": message.receives}
        log.warning("deferred requests are put off", extra={"fields": about})
        return retry_seconds(message.receives)
    return None


class DocumentReader:
    """What the worker does with one message."""

    def __init__(self, services: Services, pipeline: Runs) -> None:
        settings = services.settings
        self._aws = services.aws
        self._table = settings.state_table
        self._metrics = services.metrics
        self._documents = Documents(
            services.aws,
            table=settings.state_table,
            bucket=settings.documents_bucket,
            queue_url=settings.queue_url,
            invalidate=services.cache.watch.invalidate,
        )
        self._ingest = Ingest(self._documents, Gateway(pipeline), lambda: services.models.current.product)

    async def read(self, message: Message) -> float | None:
        """Read the document a message names. None = done; else seconds until another attempt.

        A bad document is marked `failed` with the reason, and its message goes the way of the redrive at once. What
        another attempt may heal is tried again later; after the last one the document is `failed` as well.
        """
        try:
            job = Job.from_message(message.body)
        except ValueError as error:
            about = {"reason": str(error), "receives": message.receives}
            log.error("a message makes no sense", extra={"fields": about})
            return 0.0
        request_id = new_request_id()
        fields = {"tenant": job.tenant, "document_id": job.document_id, "request_id": request_id}
        try:
            if await self._ingest.run(job, await self._identity(job), request_id):
                self._metrics.count(DOCUMENTS_INGESTED)
                log.info("document ready", extra={"fields": fields})
            return None
        except BadDocumentError as error:
            log.warning("document failed", extra={"fields": {**fields, "reason": str(error)}})
            await self._fail(job, str(error))
            return 0.0
        except ApiError as error:
            log.warning("document put off", extra={"fields": {**fields, "reason": error.code}})
            if message.last:
                await self._fail(job, f"Given up after {message.receives} attempts: {error.message}")
            return retry_seconds(message.receives)

    async def _fail(self, job: Job, reason: str) -> None:
        if await self._documents.fail(job.tenant, job.document_id, reason):
            self._metrics.count(DOCUMENTS_FAILED)

    async def _identity(self, job: Job) -> Identity:
        """The key that posted the document, with its limits. One revoked since still pays for what it asked for."""
        key = {"pk": {"S": f"TENANT#{job.tenant}"}, "sk": {"S": f"KEY#{job.key_id}"}}
        answer = await self._aws.call("dynamodb", "get_item", TableName=self._table, Key=key)
        item = answer.get("Item", {})
        rpm, tpm = (item.get(field, {}).get("N") for field in ("requests_per_minute", "tokens_per_minute"))
        return Identity(
            tenant=job.tenant,
            key_id=job.key_id,
            key_name=item.get("name", {}).get("S", ""),
            role=item.get("role", {}).get("S", "user"),
            requests_per_minute=int(rpm) if rpm else None,
            tokens_per_minute=int(tpm) if tpm else None,
        )


def _upstream(services: Services) -> Upstream:
    settings = services.settings
    return Upstream(
        settings.openai_base_url,
        connections=services.container.documents_at_once,
        tcp_keep_alive_seconds=settings.tcp_keep_alive_seconds,
    )


def _json(status: int, content: object) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
