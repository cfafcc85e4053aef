"""The OpenAI-compatible paths as one raw ASGI callable: the hot path pays for no framework."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from random import getrandbits
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson
from starlette.types import Receive, Scope, Send

from app.deferred.deadline import PATH as DEFERRED_PATH
from app.errors import ApiError
from app.model_document import KINDS
from app.pipeline.authenticate import authenticate, known_identity
from app.pipeline.bound import check_size
from app.pipeline.endpoints import ENDPOINTS, SERVED
from app.pipeline.messages import ByteStream, Call, Reply
from app.serving.protocol import chunk_writer
from app.time_limit import within

if TYPE_CHECKING:
    from app.models import Models
    from app.pipeline import Pipeline
    from app.pipeline.record import Record
    from app.services import Services

log = logging.getLogger(__name__)

PREFIX = "/v1"
_MODELS = "/v1/models"
BODY_SECONDS = 60.0
"""For a whole request body to arrive: a caller who sends nothing holds no slot for longer."""
WRITE_SLACK_SECONDS = 10.0
"""Beyond the longest stream, for a caller who reads its end slowly."""
WATCH_AFTER_SECONDS = 0.1
"""Work that takes longer is watched for a caller who goes away; what is over sooner pays for no watcher."""


class V1:
    """Serves everything under /v1."""

    def __init__(self, services_of: Callable[[], Services], pipeline_of: Callable[[], Pipeline]) -> None:
        """Both are called for each request, as they exist only once the app has started."""
        self._services_of = services_of
        self._pipeline_of = pipeline_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        """Answer one HTTP request; raises ApiError for a refusal, before anything is sent.

        `record.status` is set once the answer has begun.
        """
        services = self._services_of()
        path: str = scope["path"]
        check_route(path, scope["method"])
        headers = Headers(scope["headers"])
        authorization = headers.get("authorization")
        record.identity = known_identity(authorization, services.keys) or await authenticate(
            authorization, services.keys
        )
        if path.startswith(DEFERRED_PATH):
            await self._deferred(send, scope["method"], path.removeprefix(DEFERRED_PATH), record)
            return
        if path not in ENDPOINTS:
            body = models_body(services.models.current, path)
            record.status = 200
            await _send_whole(send, 200, [("content-type", "application/json"), *record.id_headers()], body)
            return
        waited = time.perf_counter()
        body = await read_body(receive, headers.get("content-length"))
        record.phases.receive_seconds = time.perf_counter() - waited + (record.phases.receive_seconds or 0.0)
        reply: Reply | None = None
        call = Call(path, body, record.identity, record.request_id, headers, record)
        async with until_disconnect(receive, call.left):
            reply = await self._pipeline_of().run(call)
            record.status = reply.status
            if not isinstance(reply.body, bytes):
                await self._send_stream(send, reply.status, reply.headers, reply.body)
                return
        if reply is not None and isinstance(reply.body, bytes):
            await _send_whole(send, reply.status, reply.headers, reply.body)

    async def _deferred(self, send: Send, method: str, name: str, record: Record) -> None:
        """Say how a request that may wait stands, or end it."""
        assert record.identity is not None
        desk, tenant = self._pipeline_of().desk, record.identity.tenant
        headers = [("content-type", "application/json"), *record.id_headers()]
        if method == "DELETE":
            body = await desk.cancel(tenant, name)
        else:
            body, again = await desk.look(tenant, name)
            if again is not None:
                headers.append(("retry-after", str(max(1, round(again)))))
        record.status = 200
        await _send_whole(send, 200, headers, body)

    async def _send_stream(self, send: Send, status: int, headers: list[tuple[str, str]], body: ByteStream) -> None:
        seconds = self._services_of().settings.max_stream_seconds + WRITE_SLACK_SECONDS
        try:
            await _send_start(send, status, [*headers, ("cache-control", "no-cache")])
            write = chunk_writer(send)
            with within(seconds):
                async for piece in body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if write is not None:
                        await body.flow(write)
        except TimeoutError:
            # The caller stopped reading. Ending without the last message closes the connection, which tells the truth.
            log.warning("stream ended: its reader is too slow")
            return
        finally:
            await body.aclose()
        await send({"type": "http.response.body", "body": b""})


def new_request_id() -> str:
    """An id for one request, as OpenAI's look."""
    return f"req_{getrandbits(128):032x}"  # a name, not a secret; seeded by the system for each process


class _Encoded(dict[str, bytes]):
    """Names of headers as they come, each encoded once. They are asked for by this program alone, so they are few."""

    def __missing__(self, name: str) -> bytes:
        encoded = self[name] = name.encode("latin-1")
        return encoded


_ENCODED = _Encoded()


class Headers(Mapping[str, str]):
    """A request's headers by their names in lower case; only what is asked for is decoded."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        """`raw` as ASGI gives them: names in lower case. Of a repeated one the last counts."""
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[_ENCODED[name]].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        """As a mapping's; its own would raise and catch an error for each that is missing."""
        value = self._raw.get(_ENCODED[name])
        return default if value is None else value.decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.encode("latin-1", "replace") in self._raw

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


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


async def read_body(receive: Receive, content_length: str | None) -> bytes:
    """A request's whole body; raises ApiError 413 as soon as it is too long, 408 when it does not arrive."""
    if content_length is not None and content_length.isdigit():
        check_size(int(content_length))
    pieces = []
    size = 0
    try:
        with within(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError("request_timeout", "The connection was closed inside the request's body.")
                size += len(message.get("body", b""))
                check_size(size)
                pieces.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        message_text = f"The request's body did not arrive within {BODY_SECONDS:.0f} seconds."
        raise ApiError("request_timeout", message_text) from None


class UntilDisconnect:
    """An `async with` block that ends early and in silence when the client goes away: nobody waits any more."""

    def __init__(self, receive: Receive, on_gone: Callable[[], bool]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        self._later = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._begin)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._later.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # its cancellation refers to this object: else only the collector would free them
        # Somebody else may have cancelled the task as well; then it stays cancelled.
        return kind is asyncio.CancelledError and self._gone and not self._task.uncancel()

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._on_gone():
            self._task.cancel()


def until_disconnect(receive: Receive, on_gone: Callable[[], bool] = lambda: True) -> UntilDisconnect:
    """A block for work that the client of a request waits for.

    `receive` is the request's own, its body already read. `on_gone` is asked when the client has gone: False = the work
    goes on, as somebody else waits for it.
    """
    return UntilDisconnect(receive, on_gone)


async def send_error(send: Send, error: ApiError, record: Record) -> None:
    """Answer with an error in OpenAI's shape."""
    headers = [*error.headers.items(), ("content-type", "application/json"), *record.id_headers()]
    await _send_whole(send, error.status, headers, error.body())


async def _send_whole(send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    await _send_start(send, status, [*headers, ("content-length", str(len(body)))])
    await send({"type": "http.response.body", "body": body})


async def _send_start(send: Send, status: int, headers: Iterable[tuple[str, str]]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    start: MutableMapping[str, Any] = {"type": "http.response.start", "status": status, "headers": raw}
    await send(start)


def _model_object(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "prodkit"}
