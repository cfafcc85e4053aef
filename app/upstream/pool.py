"""A pool of connections to one host: bytes out, bytes in, every wait bounded by whoever calls."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from app.time_limit import within
from app.upstream.http_client import Connection
from app.upstream.response import Response, UnreachableError

CONNECT_SECONDS = 5.0
"""For TCP and TLS together: beyond it another attempt is worth more than waiting."""
IDLE_SECONDS = 60.0
"""An idle pooled connection is closed after this, well before a NAT gateway forgets it (350 s)."""
ADDRESS_SECONDS = 10.0
"""The addresses of a name are asked for again after this."""
NEXT_ADDRESS_SECONDS = 0.25
"""An address that does not answer has so long before the next is tried beside it (RFC 8305)."""
KEEP_ALIVE_PROBES = 3
UNSENT = "no byte of the call was sent"
"""A note at the cancellation of a call that had no connection yet."""

_OPTIONS = [getattr(socket, name) for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE") if hasattr(socket, name)]
"""Linux's and macOS's name of the same option."""
_PORTS = {"http": 80, "https": 443}


class Pool:
    """One bounded pool of HTTP/1.1 connections to the host of an address. Open it inside the event loop."""

    def __init__(
        self, base_url: str, *, connections: int, tcp_keep_alive_seconds: int, connect_seconds: float | None = None
    ) -> None:
        """`connect_seconds` is CONNECT_SECONDS where nothing else is said."""
        parts = urlsplit(base_url.rstrip("/"))
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{base_url!r} is no address of an API; give http(s)://HOST/v1")
        self._connect_seconds = connect_seconds or CONNECT_SECONDS
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path
        self._host_header = parts.netloc.rpartition("@")[2]
        self._connections = connections
        self._tcp_keep_alive_seconds = tcp_keep_alive_seconds
        self._is_open = False
        self._made: set[Connection] = set()
        self._connecting = 0
        self._free: deque[Connection] = deque()
        """The one that was used last is used next, so that the others grow old and go."""
        self._turns: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: Sequence[AddrInfoType] = ()
        self._addresses_until = 0.0
        self._looking_up: asyncio.Task[Sequence[AddrInfoType]] | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await asyncio.sleep(0)  # they close in the next turn of the event loop

    def open(self) -> None:
        """Begin to lend connections."""
        self._is_open = True
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Close every connection, busy ones too. Safe to call twice."""
        self._is_open = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._made):
            connection.close()

    def ask(self, head: bytes, body: bytes) -> Coroutine[Any, Any, Response]:
        """The answer to a request once its headers are there; raises UpstreamError. Await it at once."""
        if not self._is_open:
            raise RuntimeError("the pool is not open; use `async with`")
        connection = self._pop()
        return self._ask_new(head, body) if connection is None else connection.ask(head, body)

    async def connection(self) -> Connection:
        """A free connection or a new one, for who times the connecting and the asking apart. Ask it at once."""
        if not self._is_open:
            raise RuntimeError("the pool is not open; use `async with`")
        return self._pop() or await self._connect()

    async def _ask_new(self, head: bytes, body: bytes) -> Response:
        try:
            connection = await self._connect()
        except asyncio.CancelledError as error:
            error.add_note(UNSENT)
            raise
        return await connection.ask(head, body)

    def _pop(self) -> Connection | None:
        """A free connection. One that was closed meanwhile has carried no byte of the call: the next is taken."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        """A new connection, or one that is given back first when there are as many as there may be."""
        while len(self._made) + self._connecting >= self._connections:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next_turn()  # it was ours, and we do not take it
                raise
            found = self._pop()
            if found is not None:
                return found
        self._connecting += 1
        try:
            with within(self._connect_seconds):
                return await self._open()
        except TimeoutError:
            raise UnreachableError(f"{self._host} took no connection within {self._connect_seconds:.0f} s") from None
        except OSError as error:
            self._addresses_until = 0.0
            raise UnreachableError(f"no connection to {self._host}", error.errno) from error
        finally:
            self._connecting -= 1
            if len(self._made) + self._connecting < self._connections:
                self._next_turn()

    async def _open(self) -> Connection:
        addresses = self._addresses if self._loop.time() < self._addresses_until else await self._look_up()
        tls, name = self._tls, self._host if self._tls else None
        if len(addresses) == 1 and addresses[0][0] is socket.AF_INET:
            # Nothing to choose from: the event loop connects by itself, for less than half of the CPU time.
            host, port = addresses[0][4][:2]
            transport, connection = await self._loop.create_connection(
                self._new, host, port, family=socket.AF_INET, ssl=tls, server_hostname=name
            )
        else:
            made = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1)
            try:
                transport, connection = await self._loop.create_connection(
                    self._new, sock=made, ssl=tls, server_hostname=name
                )
            except BaseException:
                made.close()
                raise
        try:
            self._keep_alive(transport)
        except OSError:
            connection.close()
            raise
        self._made.add(connection)
        return connection

    def _new(self) -> Connection:
        return Connection(self._freed, self._lost)

    async def _look_up(self) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        if loop.time() < self._addresses_until:
            return self._addresses
        if self._looking_up is None:
            self._looking_up = loop.create_task(self._ask_for_addresses(), name="addresses")
            self._looking_up.add_done_callback(self._looked_up)
        # Shielded: the caller that began may go away while others wait for it.
        return await asyncio.shield(self._looking_up)

    async def _ask_for_addresses(self) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        self._addresses, self._addresses_until = found, loop.time() + ADDRESS_SECONDS
        return found

    def _looked_up(self, task: asyncio.Task[Sequence[AddrInfoType]]) -> None:
        self._looking_up = None
        if not task.cancelled():
            task.exception()  # retrieved here as well, for when every caller has gone

    def _freed(self, connection: Connection) -> None:
        connection.free_since = self._loop.time()
        self._free.append(connection)
        if self._turns:
            self._next_turn()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_SECONDS, self._sweep)

    def _lost(self, connection: Connection) -> None:
        self._made.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._next_turn()

    def _next_turn(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        """Close what nobody has used for long."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        while self._free and self._free[0].free_since + IDLE_SECONDS <= loop.time():
            self._free.popleft().close()
        if self._free and self._is_open:
            self._sweeper = loop.call_at(self._free[0].free_since + IDLE_SECONDS, self._sweep)

    def _keep_alive(self, transport: asyncio.BaseTransport) -> None:
        """Probe a silent peer, so that NAT keeps the flow and a dead one is noticed. The loop has set TCP_NODELAY."""
        made = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        seconds = self._tcp_keep_alive_seconds
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name in _OPTIONS:
                made.setsockopt(socket.IPPROTO_TCP, name, seconds)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // KEEP_ALIVE_PROBES))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
        finally:
            made.detach()


class Upstream(Pool):
    """The pool to OpenAI, at its base address (".../v1")."""

    def __init__(self, base_url: str, *, connections: int, tcp_keep_alive_seconds: int) -> None:
        super().__init__(base_url, connections=connections, tcp_keep_alive_seconds=tcp_keep_alive_seconds)
        self._heads: dict[str, bytes] = {}  # one for each endpoint

    def post(self, path: str, body: bytes, key: str) -> Coroutine[Any, Any, Response]:
        """The answer to one POST of JSON once its headers are there; raises UpstreamError. Await it at once.

        `path` is relative to the base address ("/responses"). Redirects are not followed: they would carry the key.
        """
        begin = self._heads.get(path) or self._begin(path)
        # The key is kept nowhere here.
        head = b"%b%b\r\nContent-Length: %d\r\n\r\n" % (begin, key.encode("latin-1"), len(body))
        return self.ask(head, body)

    def _begin(self, path: str) -> bytes:
        """A request's head up to the key."""
        begin = self._heads[path] = (
            f"POST {self._path}{path} HTTP/1.1\r\n"
            f"Host: {self._host_header}\r\n"
            "Content-Type: application/json\r\n"
            # The flow is metered as it passes; unpacking it would cost more than the bytes saved.
            "Accept-Encoding: identity\r\n"
            "User-Agent: prodkit\r\n"
            "Authorization: Bearer "
        ).encode("latin-1")
        return begin
