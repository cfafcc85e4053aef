"""A server that answers as it is told, in pieces or not at all, and the ways a test asks it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from app.upstream.pool import Upstream
from app.upstream.response import Response
from tests.patience import PATIENCE_SECONDS

KEY = "k" * 30
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Server:
    """Answers request by request with what it is told; an answer in several pieces leaves in as many writes."""

    def __init__(self, *answers: bytes | list[bytes], close: bool = False) -> None:
        self._answers = list(answers)
        self._close = close
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        """Some connection was closed by the client."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                if self._answers:
                    answer = self._answers.pop(0)
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0.001)
                if self._close:
                    break
        self.gone.set()
        writer.close()

    @contextlib.asynccontextmanager
    async def pool(
        self, connections: int = 4, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> AsyncIterator[Upstream]:
        async with (
            self.listening(tls, host) as address,
            Upstream(f"{address}/v1", connections=connections, tcp_keep_alive_seconds=45) as made,
        ):
            yield made

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """Its address; whoever asks it has closed its connections at the end."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            await self(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        try:
            yield f"http{'s' if tls else ''}://{host}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await server.wait_closed()
            if tasks:
                await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)


async def read(response: Response) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    response.release()
    return b"".join(pieces)


async def ask(pool: Upstream, body: bytes = b"{}") -> bytes:
    return await read(await pool.post("/responses", body, KEY))
