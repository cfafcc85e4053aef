"""One answer of OpenAI as it arrives, and what can become of a call instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from typing import Protocol

HELD_BYTES = 128 * 1024
"""Unread bytes of an answer after which the connection is not read from: OpenAI waits with the reader."""


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


Taker = Callable[[bytes, bytes], bool]
"""Takes a piece of a body, which is given with the whole chunk that it came in; False = it did nothing."""


class Connection(Protocol):
    """What an answer asks of the connection that it comes on."""

    def resume(self) -> None:
        """There is room again."""

    def left(self, *, keep: bool) -> None:
        """Nobody reads it any more; `keep` the connection for another call, if it is fit for one."""


class Response:
    """One answer from its headers on. Whoever holds it calls `release` or `close`, also after an error."""

    __slots__ = (
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
        "by",
        "complete",
        "headers",
        "status",
        "taker",
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
        self.taker: Taker | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.by = 0.0
        """As `wake_at` says; whoever listens may put it off."""
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
                raise copy(self._error)  # one that was raised holds all who did, and this object among them
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

    def listen(self, listener: Callable[[], None] | None, taker: Taker | None = None) -> None:
        """Call `listener`, until there is another or none, whenever `take` has something and at the time of `wake_at`:
        inside the call that reads it from the connection, so it must not raise. Who leaves nothing to be taken may be
        offered, as `taker`, what comes in a read of its own, before all that."""
        self._listener = listener
        self.taker = taker

    def wake_at(self, at: float) -> None:
        """Wake whoever waits, or listens, at a time of the loop's clock, if nothing comes before."""
        # One timer for the whole answer; later than the running one is soon enough, as it looks at `by` itself.
        self.by = at
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
            raise copy(self._error)  # one that was raised holds all who did, and this object among them
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
        if self._loop.time() < self.by:
            self._set_timer(self.by)
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
