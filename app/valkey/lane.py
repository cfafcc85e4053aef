"""One connection to one Valkey node that every request shares: commands of one loop turn leave in one write."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from hiredis import ProtocolError, Reader, pack_command

Part = str | bytes | int | float
"""One part of a command; it goes over the wire as text or as the bytes it is."""
Command = tuple[Part, ...]
Refused = Callable[[Command, "ReplyError"], object]
"""Is told of a command and the server's no to it."""

MAX_WAITING = 8_192
"""Commands without an answer; the next is turned away, not queued."""
MAX_UNSENT_BYTES = 8 << 20
"""Bytes that the server has not taken yet; beyond them a command is turned away."""
STALL_SECONDS = 0.02
"""Before a late answer counts as none, it may still be read: this process may be what was late."""
_AWAY = frozenset({"READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOAUTH", "WRONGPASS", "UNBLOCKED"})


class LaneFullError(Exception):
    """More waits on this connection than it may; says nothing about the server."""


class ReplyError(Exception):
    """The server's no to one command; `code` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]

    @property
    def moved(self) -> bool:
        """The key's slot is another node's, and whoever asked has an old map of the cluster."""
        return self.code == "MOVED"

    @property
    def asks(self) -> tuple[str, int] | None:
        """Host and port of the node to ask just this time, as the key's slot is moving there."""
        words = str(self).split()
        if self.code != "ASK" or len(words) != 3:
            return None
        host, _, port = words[2].rpartition(":")
        return host, int(port)

    @property
    def away(self) -> bool:
        """The node cannot serve at all, whatever the command."""
        return self.code in _AWAY


class Lane(asyncio.Protocol):
    """Answers come in the order of the commands, so the oldest that waits gets the next one.

    A connection on which an answer is late, or makes no sense, is closed: an answer must never reach another command.
    """

    def __init__(self, seconds: float, on_lost: Callable[[Lane, Exception], object]) -> None:
        """An answer may take `seconds`; `on_lost` is called once, with the reason, unless it was closed by `close`."""
        self._seconds = seconds
        self._on_lost: Callable[[Lane, Exception], object] | None = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(protocolError=ProtocolError, replyError=ReplyError)
        self._waiting: deque[tuple[asyncio.Future[Any] | None, float, Refused | None, Command]] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._asked = self._asked_unsent = 0
        """Commands for whose answers somebody waits: all of them, and those that have not left."""
        self._busy = False
        """Several of them left together the last time, so the next may not be alone either."""
        self._watching = False
        self._late: object = None
        self._transport: asyncio.Transport | None = None

    def drained(self) -> asyncio.Future[Any] | None:
        """Done when all that was sent is answered; None when it is."""
        return self.send(("PING",)) if self._waiting and self._transport is not None else None

    def send(self, command: Command, *, ahead: bool = False) -> asyncio.Future[Any]:
        """The answer to come; raises LaneFullError and OSError. An error that the server answers is a ReplyError.

        `ahead`: the caller has work to do meanwhile, so where nobody else waits for an answer this leaves before it.
        """
        answer = self._loop.create_future()
        at_once = ahead and not self._asked and not self._busy
        self._queue(command, answer, None, at_once=at_once)
        self._asked += 1
        self._asked_unsent += 1
        if at_once:
            self._flush()
        return answer

    def post(self, command: Command, refused: Refused) -> None:
        """Send what needs no answer; `refused` is called when that is an error. Raises as `send`."""
        self._queue(command, None, refused)

    def _queue(
        self, command: Command, answer: asyncio.Future[Any] | None, refused: Refused | None, *, at_once: bool = False
    ) -> None:
        transport = self._transport
        if transport is None:
            raise ConnectionError("the connection is closed")
        packed: bytes = pack_command(command)  # type: ignore[arg-type]
        if len(self._waiting) >= MAX_WAITING or (
            len(packed) + self._unsent_bytes + transport.get_write_buffer_size() > MAX_UNSENT_BYTES
        ):
            raise LaneFullError
        if not self._unsent and not at_once:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        self._waiting.append((answer, self._loop.time(), refused, command))
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._seconds, self._watch)

    def close(self) -> None:
        """Close at once; what waits fails, nobody is told."""
        self._on_lost = None
        self._lose(ConnectionError("the connection was closed here"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not derive from it

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                answer, _, refused, command = waiting.popleft()
                failed = isinstance(reply, ReplyError)
                if answer is None:
                    if failed and refused is not None:
                        refused(command, reply)
                    continue
                self._asked -= 1
                if answer.done():  # nobody waits any more
                    continue
                if failed:
                    _fail(answer, reply)
                else:
                    answer.set_result(reply)
        except (ProtocolError, IndexError):
            self._lose(ConnectionError("the server's answers make no sense"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._lose(exc or ConnectionError("the server closed the connection"))

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not unsent:
            return  # it went ahead
        if self._asked_unsent:
            self._busy = self._asked_unsent > 1
            self._asked_unsent = 0
        if self._transport is not None:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def _watch(self) -> None:
        """One timer for all: set for the oldest that waits, not for each."""
        self._watching = False
        waiting = self._waiting
        if not waiting or self._transport is None:
            return
        oldest = waiting[0]
        left = oldest[1] + self._seconds - self._loop.time()
        if left <= 0:
            if oldest is self._late:
                self._lose(TimeoutError())
                return
            self._late = oldest
        self._watching = True
        self._loop.call_later(max(left, STALL_SECONDS), self._watch)

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for answer, *_ in waiting:
            if answer is not None and not answer.done():
                _fail(answer, error)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self, error)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    answer.set_exception(error)
    answer.exception()  # counts as seen: for some answers nobody waits


async def open_lane(
    host: str,
    port: int,
    *,
    seconds: float,
    on_lost: Callable[[Lane, Exception], object],
    tls: ssl.SSLContext | None,
    login: tuple[str, str] | None,
) -> Lane:
    """A connection that is logged in; raises OSError and ReplyError. The caller bounds the time it takes."""
    loop = asyncio.get_running_loop()
    transport, lane = await loop.create_connection(lambda: Lane(seconds, on_lost), host, port, ssl=tls)
    try:
        _keep_alive(transport.get_extra_info("socket"))
        if login is not None:
            await lane.send(("AUTH", *login))
    except BaseException:
        lane.close()
        raise
    return lane


def _keep_alive(made: Any) -> None:
    with contextlib.suppress(OSError):  # a socket of another kind needs neither
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
