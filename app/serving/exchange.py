"""One request and its answer as the application sees them: read whole by the server already, or by ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.errors import ApiError
from app.pipeline.bound import check_size
from app.pipeline.messages import Write
from app.time_limit import within

HELD_KEY = "prodkit.held_seconds"
"""In the scope of a request whose head was here before its body: how long it was held before the application saw it."""
BODY_SECONDS = 60.0
"""For a whole request body to arrive: a caller who sends nothing holds no slot for longer."""
WATCH_AFTER_SECONDS = 0.1
"""Work that takes longer is watched for a caller who goes away; what is over sooner pays for no watcher."""

Raw = list[tuple[bytes, bytes]]
"""Headers of a request as they came, names in lower case."""
Lines = list[tuple[str, str]]
"""Headers of an answer."""


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers by their names in lower case. Of a repeated one the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


class Watch(Protocol):
    """A block that ends early and in silence when the caller goes away: nobody waits any more."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool: ...


class Exchange(Protocol):
    """A request, and the ways to answer it: `send`, or `begin`, `put` and `end`. To a caller who has gone they do
    nothing."""

    method: str
    path: str
    raw: Raw
    headers: Mapping[str, str]
    """The same, to look into."""
    held: float | None
    """Seconds for which the head was held for its body, before the application saw it."""
    body: bytes | None
    """All of it, of a small request; None = it has to be `read`."""

    async def read(self, content_length: str | None) -> bytes:
        """The whole body; raises ApiError 413 as soon as it is too long, 408 when it does not arrive."""

    def until_left(self, on_left: Callable[[], bool]) -> Watch:
        """A block for work that the caller waits for; the body was read. `on_left` is asked when the caller has gone:
        False = the work goes on, as somebody else waits for it."""

    async def send(self, status: int, headers: Lines, body: bytes) -> None:
        """The whole answer; its `content-length` is added."""

    async def begin(self, status: int, headers: Lines) -> None:
        """The head of an answer that comes in pieces."""

    async def put(self, piece: bytes) -> None:
        """A piece of it; waits for a caller who reads slowly."""

    def writer(self) -> Write | None:
        """What writes the next piece as `put` would, but without waiting: it returns False when the reader is behind or
        gone, and then `put` is to be awaited. With a piece is given the same as a chunk of HTTP/1.1, or b"" to have it
        made. None where there is no such thing; asked for after `begin`. The first piece is to be `put`."""

    async def end(self) -> None:
        """Its end, without which the caller knows that something is missing."""


class AsgiExchange:
    """Of any ASGI server."""

    body: bytes | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application is called."""
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw: Raw = scope["headers"]
        self.headers: Mapping[str, str] = headers_of(self.raw)
        self.held: float | None = scope.get(HELD_KEY)
        self._receive = receive
        self._send = send

    async def read(self, content_length: str | None) -> bytes:
        """See `Exchange`."""
        return await read_body(self._receive, content_length)

    def until_left(self, on_left: Callable[[], bool]) -> UntilDisconnect:
        """See `Exchange`."""
        return UntilDisconnect(self._receive, on_left)

    async def send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """See `Exchange`."""
        await self.begin(status, [*headers, ("content-length", str(len(body)))])
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """See `Exchange`."""
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def put(self, piece: bytes) -> None:
        """See `Exchange`."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    def writer(self) -> Write | None:
        """See `Exchange`."""
        return chunk_writer(self._send)

    async def end(self) -> None:
        """See `Exchange`."""
        await self._send({"type": "http.response.body", "body": b""})


async def read_body(receive: Receive, content_length: str | None) -> bytes:
    """A request's whole body; raises ApiError 413 as soon as it is too long, 408 when it does not arrive."""
    if content_length is not None and content_length.isdigit():
        check_size(int(content_length))
    pieces: list[bytes] = []
    size = 0
    try:
        with within(BODY_SECONDS):
            while True:
                message: Any = await receive()
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
    """A block for work that the client of a request waits for; ends early and in silence when the client goes away."""

    def __init__(self, receive: Receive, on_gone: Callable[[], bool] = lambda: True) -> None:
        """`receive` is the request's own, its body already read. `on_gone` is asked when the client has gone: False =
        the work goes on, as somebody else waits for it."""
        self._receive = receive
        self._on_gone = on_gone
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        self._later = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._begin)

    def __exit__(
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


def chunk_writer(send: Send) -> Write | None:
    """What writes the next piece of a streamed answer that was begun by `send`, as `send` would but without waiting:
    it returns False when the reader is behind or gone, and then `send` is to be awaited.

    None where `send` is not the server's own, or the answer not one in chunks.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding:
        return None
    flow, write = cycle.flow, cycle.transport.write

    def write_chunk(piece: bytes, chunk: bytes) -> bool:
        if cycle.disconnected:
            return False
        write(chunk or b"%x\r\n%b\r\n" % (len(piece), piece))
        return not flow.write_paused

    return write_chunk
