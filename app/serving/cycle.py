"""A request that the server has read whole, on its way to an answer: what uvicorn's cycle does, without dictionaries.

Its caller is not watched by a task that waits for a message: the connection tells it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl

    from app.pipeline.messages import Write
    from app.serving.exchange import Raw
    from app.serving.wire import HeadWaits

log = logging.getLogger(__name__)

_BROKEN = b"Internal Server Error"
_BROKEN_HEADERS = [("content-type", "text/plain; charset=utf-8")]


class _Nobody:
    """Waits for no message."""

    def set(self) -> None:
        """As an event's."""


class Connection(Protocol):
    """What an answer asks of its caller's connection."""

    loop: asyncio.AbstractEventLoop
    wire: HeadWaits
    flow: FlowControl

    def head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        """The bytes of a head; raises RuntimeError for a value that no header may have."""

    def on_response_complete(self) -> None:
        """All of the answer is written."""


class Cycle:
    """An `Exchange` of one connection. It has the attributes by which uvicorn's protocol knows a cycle of its own."""

    __slots__ = (
        "_begun",
        "_connection",
        "_on_left",
        "_task",
        "body",
        "disconnected",
        "headers",
        "held",
        "keep_alive",
        "method",
        "path",
        "raw",
        "response_complete",
    )
    message_event = _Nobody()

    def __init__(
        self,
        connection: Connection,
        path: str,
        raw: Raw,
        headers: Mapping[str, str],
        body: bytes,
        held: float,
    ) -> None:
        """Of a POST request of HTTP/1.1 whose caller did not ask to close the connection."""
        self._connection = connection
        self.method = "POST"
        self.path = path
        self.raw = raw
        self.headers = headers
        self.body: bytes | None = body
        self.held: float | None = held
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self._begun = False
        self._on_left: Callable[[], bool] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, serve: Callable[[Cycle], Awaitable[None]], tasks: set[asyncio.Task[None]]) -> None:
        """Begin to answer, in a task that is one of `tasks` until it ends."""
        connection = self._connection
        # Not by the event loop, which has a name made for each.
        self._task = asyncio.Task(self._run(serve, tasks), loop=connection.loop, name="request")
        tasks.add(self._task)

    async def _run(self, serve: Callable[[Cycle], Awaitable[None]], tasks: set[asyncio.Task[None]]) -> None:
        try:
            await serve(self)
            if not self.response_complete and not self.disconnected:
                log.error("a request was left without the end of its answer")
                await self._break_off()
        except BaseException as error:
            log.error("a request failed", exc_info=error)
            await self._break_off()
        finally:
            # Nothing refers to the task, and nothing to the connection, once it is over: no work for the collector. And
            # a connection that is idle, which refers to its last cycle, keeps no request.
            task, self._task, self._on_left = self._task, None, None
            del self._connection, self.raw, self.headers, self.body
            if task is not None:
                tasks.discard(task)

    async def _break_off(self) -> None:
        if self._begun:
            self._connection.wire.close()
        else:
            self.keep_alive = False
            await self.send(500, _BROKEN_HEADERS, _BROKEN)

    # the request

    async def read(self, _content_length: str | None) -> bytes:
        """All of it is here."""
        assert self.body is not None
        return self.body

    def until_left(self, on_left: Callable[[], bool]) -> UntilLeft:
        """See `Exchange`."""
        return UntilLeft(self, on_left)

    def watch(self, on_left: Callable[[], bool] | None) -> asyncio.Task[None]:
        """From now on the caller's leaving is told to `on_left`, whose True cancels the task, which this returns."""
        task = self._task
        assert task is not None
        self._on_left = on_left
        if on_left is not None and self.disconnected:
            self.leave()
        return task

    def leave(self) -> None:
        """Called by the connection when it is lost."""
        self.disconnected = True
        if self._on_left is not None and self._on_left():
            assert self._task is not None
            self._task.cancel()

    # the answer

    async def send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """See `Exchange`."""
        if self.disconnected:
            return
        head = self._head(status, [*headers, ("content-length", str(len(body)))])
        connection = self._connection
        connection.wire.write_whole(head, body)
        self._complete()

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """See `Exchange`."""
        if not self.disconnected:
            self._connection.wire.write(self._head(status, [*headers, ("transfer-encoding", "chunked")]))

    async def put(self, piece: bytes) -> None:
        """See `Exchange`."""
        flow = self._connection.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if piece and not self.disconnected:  # none would be the end
            self._connection.wire.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def writer(self) -> Write:
        """See `Exchange`."""
        flow, write = self._connection.flow, self._connection.wire.write_on

        def write_on(piece: bytes, chunk: bytes) -> bool:
            if self.disconnected:
                return False
            if piece:
                write(chunk or b"%x\r\n%b\r\n" % (len(piece), piece))
            return not flow.write_paused

        return write_on

    async def end(self) -> None:
        """See `Exchange`."""
        if not self.disconnected:
            self._connection.wire.write(b"0\r\n\r\n")
            self._complete()

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        if self._begun:
            raise RuntimeError("the answer has begun already")
        if not self.keep_alive:
            headers.append(("connection", "close"))
        head = self._connection.head(status, headers)
        self._begun = True
        return head

    def _complete(self) -> None:
        self.response_complete = True
        connection = self._connection
        if not self.keep_alive:
            connection.wire.close()
        connection.on_response_complete()


class UntilLeft:
    """See `Exchange.until_left`."""

    __slots__ = ("_cycle", "_gone", "_on_left", "_task")

    def __init__(self, cycle: Cycle, on_left: Callable[[], bool]) -> None:
        self._cycle = cycle
        self._on_left = on_left
        self._gone = False

    def __enter__(self) -> None:
        self._task = self._cycle.watch(self._left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._cycle.watch(None)
        # Somebody else may have cancelled the task as well; then it stays cancelled.
        return kind is asyncio.CancelledError and self._gone and not self._task.uncancel()

    def _left(self) -> bool:
        self._gone = True
        return self._on_left()
