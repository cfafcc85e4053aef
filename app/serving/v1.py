"""The OpenAI-compatible paths as one callable: the hot path pays for no framework."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import getrandbits
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson

from app.deferred.deadline import PATH as DEFERRED_PATH
from app.errors import ApiError
from app.model_document import KINDS
from app.pipeline.authenticate import authenticate, known_identity
from app.pipeline.endpoints import ENDPOINTS, SERVED
from app.pipeline.messages import ByteStream, Call, Reply
from app.time_limit import within

if TYPE_CHECKING:
    from app.models import Models
    from app.pipeline import Pipeline
    from app.pipeline.record import Record
    from app.services import Services
    from app.serving.exchange import Exchange, Lines

log = logging.getLogger(__name__)

PREFIX = "/v1"
_MODELS = "/v1/models"
WRITE_SLACK_SECONDS = 10.0
"""Beyond the longest stream, for a caller who reads its end slowly."""
_JSON = ("content-type", "application/json")


class V1:
    """Serves everything under /v1."""

    def __init__(self, services_of: Callable[[], Services], pipeline_of: Callable[[], Pipeline]) -> None:
        """Both are called for each request, as they exist only once the app has started."""
        self._services_of = services_of
        self._pipeline_of = pipeline_of

    async def __call__(self, exchange: Exchange, record: Record) -> None:
        """Answer one HTTP request; raises ApiError for a refusal, before anything is sent.

        `record.status` is set once the answer has begun.
        """
        services = self._services_of()
        path = exchange.path
        check_route(path, exchange.method)
        headers = exchange.headers
        authorization = headers.get("authorization")
        record.identity = known_identity(authorization, services.keys) or await authenticate(
            authorization, services.keys
        )
        if path.startswith(DEFERRED_PATH):
            await self._deferred(exchange, path.removeprefix(DEFERRED_PATH), record)
            return
        if path not in ENDPOINTS:
            body = models_body(services.models.current, path)
            record.status = 200
            await exchange.send(200, [_JSON, *record.id_headers()], body)
            return
        known = exchange.body
        body = await self._read(exchange, headers, record) if known is None else known
        reply: Reply | None = None
        call = Call(path, body, record.identity, record.request_id, headers, record)
        with exchange.until_left(call.left):
            reply = await self._pipeline_of().run(call)
            record.status = reply.status
            if not isinstance(reply.body, bytes):
                await self._send_stream(exchange, reply.status, reply.headers, reply.body)
                return
        if reply is not None and isinstance(reply.body, bytes):
            await exchange.send(reply.status, reply.headers, reply.body)

    async def _read(self, exchange: Exchange, headers: Mapping[str, str], record: Record) -> bytes:
        waited = time.perf_counter()
        body = await exchange.read(headers.get("content-length"))
        record.phases.receive_seconds = time.perf_counter() - waited + (record.phases.receive_seconds or 0.0)
        return body

    async def _deferred(self, exchange: Exchange, name: str, record: Record) -> None:
        """Say how a request that may wait stands, or end it."""
        assert record.identity is not None
        desk, tenant = self._pipeline_of().desk, record.identity.tenant
        headers = [_JSON, *record.id_headers()]
        if exchange.method == "DELETE":
            body = await desk.cancel(tenant, name)
        else:
            body, again = await desk.look(tenant, name)
            if again is not None:
                headers.append(("retry-after", str(max(1, round(again)))))
        record.status = 200
        await exchange.send(200, headers, body)

    async def _send_stream(self, exchange: Exchange, status: int, headers: Lines, body: ByteStream) -> None:
        seconds = self._services_of().settings.max_stream_seconds + WRITE_SLACK_SECONDS
        try:
            await exchange.begin(status, [*headers, ("cache-control", "no-cache")])
            write = exchange.writer()
            with within(seconds):
                async for piece in body:
                    await exchange.put(piece)
                    if write is not None:
                        await body.flow(write)
        except TimeoutError:
            # The caller stopped reading. Ending without the last message closes the connection, which tells the truth.
            log.warning("stream ended: its reader is too slow")
            return
        finally:
            await body.aclose()
        await exchange.end()


def new_request_id() -> str:
    """An id for one request, as OpenAI's look."""
    return "req_" + getrandbits(128).to_bytes(16).hex()  # a name, not a secret; seeded by the system for each process


def check_route(path: str, method: str) -> None:
    """Raises ApiError: 404 `unsupported_endpoint` for a path that is not served, 405 for a wrong method on one."""
    if path in ENDPOINTS:
        allowed: tuple[str, ...] = ("POST",)
    elif path.startswith(DEFERRED_PATH):
        allowed = ("GET", "DELETE")
    elif path == _MODELS or path.startswith(_MODELS + "/"):
        allowed = ("GET",)
    else:
        message = f"{method} {path[:200]} is not served here; served are {', '.join(SERVED)}."
        raise ApiError("unsupported_endpoint", message)
    if method not in allowed:
        message = f"{method} is not allowed on {path[:200]}; use {' or '.join(allowed)}."
        raise ApiError("method_not_allowed", message, headers={"allow": ", ".join(allowed)})


def models_body(models: Models, path: str) -> bytes:
    """The answer of /v1/models or /v1/models/{id} in OpenAI's shape; raises ApiError 404 `model_not_found`.

    Aliases are listed like models, because they may be asked for like models.
    """
    names = [name for kind in KINDS for name in models.names(kind)]
    created = int(datetime.fromisoformat(models.updated).replace(tzinfo=UTC).timestamp())
    if path == _MODELS:
        return orjson.dumps({"object": "list", "data": [_model_object(name, created) for name in names]})
    asked = unquote(path.removeprefix(_MODELS + "/"))
    if asked not in names:
        message = f"The model '{asked[:200]}' does not exist here; choose one of {', '.join(names)}."
        raise ApiError("model_not_found", message, param="model")
    return orjson.dumps(_model_object(asked, created))


async def send_error(exchange: Exchange, error: ApiError, record: Record) -> None:
    """Answer with an error in OpenAI's shape."""
    headers = [*error.headers.items(), _JSON, *record.id_headers()]
    await exchange.send(error.status, headers, error.body())


def _model_object(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "prodkit"}
