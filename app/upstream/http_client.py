"""One HTTP/1.1 connection, to OpenAI or AWS: a request goes out as prepared bytes, its answer comes in as it arrives.

The parser is httptools (llhttp), in its strict mode; what is ambiguous about a message's length is refused by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

MAX_HEAD_BYTES = 64 * 1024
"""Bytes in a row that are no body: headers, those of interim answers before them, trailers."""
_FRAMES = frozenset({b"content-length", b"transfer-encoding"})
"""An answer with one of these says where it ends."""
HELD_BYTES = 128 * 1024
"""Unread bytes of an answer after which the connection is not read from: OpenAI waits with the reader."""
WRITE_BYTES = 256 * 1024
"""A longer body is written in pieces of this, so that the event loop is not held by one write."""


class UpstreamError(Exception):
    """The call came to no whole answer."""


class UnreachableError(UpstreamError):
    """No connection, or one that was closed before its answer began; `errno` is the system's, when it said why."""

    def __init__(self, message: str, errno: int | None = None, *, sent: bool = False) -> None:
        """`sent`: OpenAI may have read the request, and may have worked on it."""
        super().__init__(message)
        self.errno = errno
        self.sent = sent


class BadAnswerError(UpstreamError):
    """What arrived is not an HTTP answer that was asked for."""


class CutError(UpstreamError):
    """The connection ended inside the answer."""


class Response:
    """One answer from its headers on. Whoever holds it calls `release` or `close`, also after an error."""

    __slots__ = (
        "_by",
        "_connection",
        "_error",
        "_listener",
        "_loop",
        "_pieces",
        "_silent",
        "_size",
        "_timer",
        "_timer_at",
        "_waiter",
        "complete",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self._connection: Connection | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self.complete = False
        """All of it has arrived, or its connection is lost."""
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._by = 0.0
        self._silent = False

    def header(self, name: bytes) -> str | None:
        """The first header of a name in lower case."""
        for other, value in self.headers:
            if other == name:
                return value.decode("latin-1")
        return None

    @property
    def media_type(self) -> str:
        """The content type without its parameters; empty when there is none."""
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """What has arrived since, at least a byte; b"" at the end. Raises CutError."""
        while (found := self.take()) is None:
            await self._expect()
        return found

    def take(self) -> bytes | None:
        """As `read`, without waiting: None when nothing is here yet."""
        pieces = self._pieces
        if not pieces:
            if self._error is not None:
                raise self._error
            return b"" if self.complete else None
        self._pieces = []
        if self._size > HELD_BYTES and self._connection is not None:
            self._connection.resume()
        self._size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def arrival(self, at: float) -> asyncio.Future[None]:
        """Done when `take` has something, or at a time of the loop's clock: `silent` tells which. Await it at once."""
        self.wake_at(at)
        return self._expect()

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call `listener`, until there is another or none, whenever `take` has something and at the time of `wake_at`:
        inside the call that reads it from the connection, so it must not raise."""
        self._listener = listener

    def wake_at(self, at: float) -> None:
        """Wake whoever waits, or listens, at a time of the loop's clock, if nothing comes before."""
        # One timer for the whole answer; later than the running one is soon enough, as it looks at `_by` itself.
        self._by = at
        if self._timer is None or at < self._timer_at:
            self._set_timer(at)

    def silent(self) -> bool:
        """Whether the time of the last `arrival` has passed; True once."""
        silent, self._silent = self._silent, False
        return silent

    def release(self) -> None:
        """Done with it: the connection serves the next call when its answer is complete, else it is closed."""
        self._leave(keep=self.complete and self._error is None)

    def close(self) -> None:
        """Close the connection at once, so that OpenAI stops."""
        self._leave(keep=False)

    def whole(self) -> bytes | None:
        """All of the body when it is here, and nothing was taken of it; else None."""
        return self.take() if self.complete and self._error is None else None

    def begun(self) -> asyncio.Future[None] | None:
        """Done when this is to be asked again; None when the headers are here. Raises as `read`."""
        if self.status:
            return None
        if self._error is not None:
            raise self._error
        return self._expect()

    def feed(self, data: bytes) -> bool:
        """For the connection: bytes of the body; True when it may not read on for now. `wake` follows."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size > HELD_BYTES

    def finish(self, error: UpstreamError | None = None) -> None:
        """For the connection: the end of the answer, or what became of it. `wake` follows."""
        self.complete = True
        self._error = error

    def idle(self) -> bool:
        """Whether `take` has nothing, not even the end."""
        return not self._pieces and not self.complete

    def wake(self) -> None:
        """For the connection: whoever waits looks again."""
        if self._listener is not None:
            self._listener()
        elif (waiter := self._waiter) is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _expect(self) -> asyncio.Future[None]:
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._listener is None and (self._waiter is None or self._waiter.done()):
            return  # the next wait sets it again
        if self._loop.time() < self._by:
            self._set_timer(self._by)
        else:
            self._silent = True
            self.wake()

    def _leave(self, *, keep: bool) -> None:
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if connection is not None:
            connection.left(keep=keep)


class Connection(asyncio.Protocol):
    """Carries one call at a time. `on_free` is told when it can carry another, `on_lost` once when it is gone."""

    def __init__(self, on_free: Callable[[Connection], object], on_lost: Callable[[Connection], object]) -> None:
        self._on_free = on_free
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._head_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._framed = False
        """The answer says where it ends; else the end of the connection is its end."""
        self._packed = False
        self._keep_alive = False
        self._paused = False
        self._writable: asyncio.Future[None] | None = None
        self.free_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether a call can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> Response:
        """The answer to a request once its headers are here; raises UnreachableError and BadAnswerError."""
        transport = self._transport
        assert transport is not None
        assert self._response is None, "one call at a time"
        response = self._response = Response(self, self._loop)
        self._head_bytes = 0
        self._keep_alive = False
        try:
            if len(body) <= WRITE_BYTES:
                transport.write(head + body)
            else:
                transport.write(head)
                await self._write_pieces(memoryview(body), response)
            while (beginning := response.begun()) is not None:
                await beginning
        except BaseException:
            response.close()
            raise
        return response

    async def _write_pieces(self, body: memoryview, response: Response) -> None:
        for at in range(0, len(body), WRITE_BYTES):
            # An answer that comes before the request is whole is a refusal: the rest need not be sent.
            if self._transport is None or response.status:
                return
            self._transport.write(body[at : at + WRITE_BYTES])
            if self._writable is not None:
                await self._writable

    def resume(self) -> None:
        """For the response: there is room again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def left(self, *, keep: bool) -> None:
        """For the response: nobody reads it any more."""
        self._response = None
        transport = self._transport
        if transport is None:
            return
        # Bytes of the request that are still unsent belong to a call that is over.
        if keep and self._keep_alive and not transport.is_closing() and not transport.get_write_buffer_size():
            self.resume()
            self._on_free(self)
        else:
            transport.abort()

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not derive from it

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        self._parser = None  # it refers to this object
        self.resume_writing()
        response = self._response
        if response is not None and not response.complete:
            if not response.status:
                response.finish(UnreachableError("the connection was closed without an answer", sent=True))
            elif self._framed or exc is not None:
                response.finish(CutError("the connection was cut inside the answer"))
            else:
                response.finish()
            response.wake()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        response = self._response
        if response is None or response.complete:
            self._keep_alive = False
            self.close()  # nobody asked
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(response)
        else:
            if self._head_bytes > MAX_HEAD_BYTES and not response.complete:
                self._refuse(response)
        # Once for all that one read brought, and not inside the parser: whoever is woken may give the connection back.
        response.wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Called by the parser."""
        response = self._response
        if response is not None and response.complete:
            self._keep_alive = False  # a second answer to one request
        self._headers = []
        self._framed = self._packed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too."""
        name = name.lower()
        if name in _FRAMES:
            self._framed = True
        elif name == b"content-encoding" and value.lower() != b"identity":
            self._packed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        response, status = self._response, self._parser.get_status_code()
        if response is None or response.status or 100 <= status < 200:
            return
        if self._packed:
            self._refuse(response)  # nobody asked for a packed one, and it would be metered as what it is not
            return
        response.headers = self._headers
        self._headers = []
        self._framed = self._framed or status in (204, 304)
        response.status = status

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        response = self._response
        if response is None or response.complete:
            return
        if response.feed(data) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        response = self._response
        if response is None or not response.status:
            return  # an interim answer
        if not response.complete:
            self._keep_alive = self._parser.should_keep_alive()
            response.finish()

    def _refuse(self, response: Response) -> None:
        self._keep_alive = False
        if not response.complete:
            error: UpstreamError = CutError("what follows is no body of an answer")
            response.finish(error if response.status else BadAnswerError("what arrived is no HTTP answer"))
        self.close()
