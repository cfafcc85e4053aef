"""An upstream that says exactly the bytes a test gives it, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

OK_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: req_up\r\nConnection: close\r\n\r\n"


@dataclass
class Connection:
    """One request as it was received, and the way to answer it."""

    head: bytes
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has closed the connection."""

    async def say(self, data: bytes) -> None:
        """Send bytes now."""
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class RawUpstream:
    """Where it listens, and what it was asked."""

    base_url: str
    seen: list[Connection] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first request."""


@contextlib.asynccontextmanager
async def raw_upstream(answer: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[RawUpstream]:
    """Serve one request a connection by `answer`; the connection is closed when it returns."""

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")
            )
            connection = Connection(head, await reader.readexactly(length), writer)
            upstream.seen.append(connection)
            upstream.asked.set()
            watcher = asyncio.create_task(_watch(reader, connection.gone))
            try:
                await answer(connection)
            finally:
                watcher.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = RawUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
    gone.set()


def whole(status: int, body: bytes, *headers: str, media_type: str = "application/json") -> bytes:
    """A complete HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body
