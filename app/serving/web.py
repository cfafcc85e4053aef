"""The web application: /v1 goes the raw way, everything else by Starlette's router; one gate before both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import orjson
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from app.errors import ApiError
from app.observability import trace
from app.pipeline import Pipeline
from app.pipeline.record import Record
from app.services import Services
from app.serving import health
from app.serving.exchange import AsgiExchange, Exchange
from app.serving.gate import Gate
from app.serving.hits import PATHS, Hits
from app.serving.protocol import AtOnce, Whole
from app.serving.v1 import PREFIX, V1, new_request_id, send_error
from app.upstream.pool import Upstream

if TYPE_CHECKING:
    from app.settings import Settings

log = logging.getLogger(__name__)

HEALTH_PREFIX = "/health/"


def create_app(settings: Settings) -> WebApp:
    """The ASGI application of one web replica; it connects to nothing before its lifespan starts."""
    return WebApp(settings)


class WebApp:
    """ASGI application. `services` and `pipeline` may be called between the lifespan's start and end.

    The product's routes come from `app.product.routes.routes(pipeline_of, services_of)`: two callables without
    arguments, for a handler to call, never before the start. A handler finds its request's id at
    `request.state.request_id` and refuses by raising ApiError, which is answered in OpenAI's shape. It sets
    `request.state.identity` so that the request's log line names tenant and key.
    """

    def __init__(self, settings: Settings) -> None:
        # Here and not above: the module is imported by the worker's health server and by tests of the hot path alone.
        from app.cache.routes import routes as cache_routes
        from app.product.routes import routes

        self._settings = settings
        self._services: Services | None = None
        self._pipeline: Pipeline | None = None
        self._gate: Gate | None = None
        self._v1 = V1(self.services, self.pipeline)
        self._hits: Hits | None = None
        self.at_once = AtOnce(PATHS, self._answer_at_once, self._serve_v1)
        """For the server: what needs no waiting, and what it has read whole."""
        router = Router(
            [
                Route("/health/live", _live, methods=["GET"]),
                Route("/health/ready", self._ready, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                *cache_routes(self.services),
                *routes(self.pipeline, self.services),
            ],
            lifespan=self._lifespan,
        )
        # Not a whole Starlette: its outermost layer answers an unexpected error in plain text before we can.
        self._site = ExceptionMiddleware(router, handlers={ApiError: _refused, HTTPException: _not_served})

    def services(self) -> Services:
        """The services of this process; RuntimeError before the start."""
        if self._services is None:
            raise RuntimeError("the application has not started")
        return self._services

    def pipeline(self) -> Pipeline:
        """The pipeline of this process; RuntimeError before the start."""
        if self._pipeline is None:
            raise RuntimeError("the application has not started")
        return self._pipeline

    def _answer_at_once(
        self, path: bytes, raw: list[tuple[bytes, bytes]], headers: Mapping[str, str], body: bytes, held: float
    ) -> Whole | None:
        return None if self._hits is None else self._hits.answer(path, raw, headers, body, held)

    def drain(self) -> None:
        """From now on /health/ready fails; requests are served as before."""
        if self._services is not None:
            self._services.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry. Probes pass the gate: a full replica is alive."""
        scope["app"] = self  # lets the router raise what it does not find, instead of answering in plain text
        if scope["type"] != "http" or scope["path"].startswith(HEALTH_PREFIX):
            await self._site(scope, receive, send)
            return
        path: str = scope["path"]
        exchange = AsgiExchange(scope, receive, send)
        if path == PREFIX or path.startswith(PREFIX + "/"):
            await self._serve(exchange, self._v1)
        else:
            await self._serve(exchange, partial(self._product, scope, receive, send))

    def _serve_v1(self, exchange: Exchange) -> Awaitable[None]:
        return self._serve(exchange, self._v1)

    async def _serve(self, exchange: Exchange, work: Callable[[Exchange, Record], Awaitable[None]]) -> None:
        """Answer a request by `work`, inside the gate; one log line for each."""
        record = self._record(exchange)
        try:
            assert self._gate is not None, "requests come after the lifespan's start"
            with self._gate.enter(exchange.headers):
                await work(exchange, record)
        except ApiError as error:
            record.refused(error)
            await send_error(exchange, error, record)
        except asyncio.CancelledError:
            record.left(draining=self.services().draining)
            raise
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": record.request_id}})
            broken = ApiError("internal_error", f"Something went wrong here; report it with {record.request_id}.")
            begun = record.status is not None
            record.refused(broken)
            if begun:
                raise  # the server closes the connection: an answer that breaks off must not look whole
            await send_error(exchange, broken, record)
        finally:
            self.pipeline().write_later(record)

    def _record(self, exchange: Exchange) -> Record:
        record = Record(new_request_id(), exchange.path, method=exchange.method)
        held = exchange.held
        if held is not None:
            record.phases.started -= held
            record.phases.receive_seconds = held
        record.sampled = self._services is not None and self._services.metrics.telemetry is not None
        if trace.HEADER in exchange.headers:
            record.trace = trace.begin(exchange.raw, record.request_id, sampled=record.sampled)
        return record

    async def _product(self, scope: Scope, receive: Receive, send: Send, _: Exchange, record: Record) -> None:
        state = scope.setdefault("state", {})
        state["request_id"] = record.request_id
        state["record"] = record

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                ours = [(name.encode(), value.encode()) for name, value in record.id_headers()]
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        try:
            await self._site(scope, receive, named)
        finally:
            record.identity = state.get("identity")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: object) -> AsyncIterator[None]:
        settings = self._settings
        services = await Services.start(settings)
        try:
            async with open_upstream(services) as upstream:
                self._pipeline = Pipeline(services, upstream)
                size = services.container
                self._gate = Gate(size.max_concurrent_requests, services.metrics, size.body_bytes)
                self._services = services
                self._hits = Hits(services, self._gate, self._pipeline)
                yield
                await self._pipeline.close()
        finally:
            await services.stop()

    async def _openapi(self, _request: Request) -> Response:
        from app.serving import openapi  # only for whoever asks

        made = openapi.document(self.services().models.current)
        return Response(orjson.dumps(made), media_type="application/json")

    async def _ready(self, _request: Request) -> Response:
        ready, report = await health.ready(self.services())
        return Response(orjson.dumps(report), 200 if ready else 503, media_type="application/json")


def open_upstream(services: Services) -> Upstream:
    """The pool to OpenAI for a process's services; use it with `async with`."""
    return Upstream(
        services.settings.openai_base_url,
        connections=services.container.upstream_connections,
        tcp_keep_alive_seconds=services.settings.tcp_keep_alive_seconds,
    )


async def _live(_request: Request) -> Response:
    return Response(orjson.dumps(health.live()), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    record = getattr(request.state, "record", None)
    if isinstance(record, Record):
        record.refused(error)
    return Response(error.body(), error.status, headers=dict(error.headers), media_type="application/json")


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        message = f"{request.method} is not allowed on {path}."
        return await _refused(request, ApiError("method_not_allowed", message, headers=error.headers))
    code = "not_found" if error.status_code == 404 else "invalid_request_error"
    return await _refused(request, ApiError(code, f"{request.method} {path}: {error.detail}."))
