"""One HTTP/1.1 connection, to OpenAI or AWS: a request goes out as prepared bytes, its answer comes in as it arrives.

The parser is httptools (llhttp), in its strict mode; what is ambiguous about a message's length is refused by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

from app.upstream.response import BadAnswerError, CutError, Response, UnreachableError, UpstreamError

MAX_HEAD_BYTES = 64 * 1024
"""Bytes in a row that are no body: headers, those of interim answers before them, trailers."""
_FRAMES = frozenset({b"content-length", b"transfer-encoding"})
"""An answer with one of these says where it ends."""
WRITE_BYTES = 256 * 1024
"""A longer body is written in pieces of this, so that the event loop is not held by one write."""

_sizes: dict[bytes, int] = {}
"""Of chunks, by the up to three digits that they begin with: those that came."""
_heads: dict[int, bytes] = {}
"""What these begin with, by the length of a chunk with all that belongs to it."""


def _size(digits: bytes) -> int:
    """A chunk's size from its digits, written as nearly every server does; 0 for anything else."""
    try:
        size = int(digits, 16)
    except ValueError:
        return 0
    if size <= 0 or b"%x" % size != digits:
        return 0
    _sizes[digits] = size
    _heads[len(digits) + 4 + size] = digits + b"\r\n"
    return size


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
        self._between = False
        """The parser stands between two chunks of the answer that is being read."""
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
        self._between = False
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
        if self._between:
            head, taker = _heads.get(len(data)), response.taker
            if head is not None and taker is not None:
                at = len(head)
                if data[:at] == head and data[-2:] == b"\r\n" and taker(data[at:-2], data):
                    return  # as with nearly every read of a stream
            data = self._take_chunks(response, data)
            if not data:
                return
            self._between = False
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(response)
        else:
            if self._head_bytes > MAX_HEAD_BYTES and not response.complete:
                self._refuse(response)
            if data[-2:] != b"\r\n":
                self._between = False  # the next chunk has begun
        # Once for all that one read brought, and not inside the parser: whoever is woken may give the connection back.
        response.wake()

    def _take_chunks(self, response: Response, data: bytes) -> bytes:
        """Take the whole chunks that what was read begins with, as pieces of a stream come, and give what follows.

        The parser would tell the same of them, and stand where it stands.
        """
        at, length, all_taken = 0, len(data), True
        while at < length:
            end = data.find(b"\r\n", at, at + 5)
            if end < 0:
                break
            digits = data[at:end]
            size = _sizes.get(digits) or _size(digits)
            after = end + 4 + size
            if not size or data[after - 2 : after] != b"\r\n":
                break
            piece, taker = data[end + 2 : after - 2], response.taker
            if not all_taken or taker is None or not taker(piece, data[at:after]):
                self._feed(response, piece)
                all_taken = False
            at = after
        if at == length and not all_taken:
            response.wake()
        return data[at:]

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
        if response is not None and not response.complete:
            self._feed(response, data)

    def on_chunk_header(self) -> None:
        """Called by the parser."""
        self._between = False

    def on_chunk_complete(self) -> None:
        """Called by the parser."""
        self._between = True

    def on_message_complete(self) -> None:
        """Called by the parser."""
        response = self._response
        if response is None or not response.status:
            return  # an interim answer
        if not response.complete:
            self._keep_alive = self._parser.should_keep_alive()
            response.finish()

    def _feed(self, response: Response, piece: bytes) -> None:
        if response.feed(piece) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _refuse(self, response: Response) -> None:
        self._keep_alive = False
        if not response.complete:
            error: UpstreamError = CutError("what follows is no body of an answer")
            response.finish(error if response.status else BadAnswerError("what arrived is no HTTP answer"))
        self.close()
