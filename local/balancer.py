"""A reverse proxy that plays an Application Load Balancer with the recorded attributes.

Streams both ways and holds no body: a slow side slows the other. Like the real one it sends a request to the healthy
target with the fewest requests in progress, cuts a connection on which no byte moves for the idle timeout (504 when the
answer had not begun), lets a target that leaves finish what it has, and answers 503 when there is no target to send to.
Unlike the real one it opens a connection for each request, so that none is lost to a connection that just closed, and a
request that a dying target did not read goes to the next target.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from local.targets import Target, Targets
from local.twin import Balancing

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

REPLAY_BYTES = 65_536
"""A body up to this size is read before it is sent on."""
CONNECT_SECONDS = 10.0
"""ALB gives up on a target that does not accept a connection in this time."""
MAX_HEADER_LINE = 16_384
"""ALB's limit for the request line and for one header."""
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
}


@dataclass
class _Upload:
    """A request's body on its way to a target."""

    request: web.BaseRequest
    idle_seconds: float
    stalled: bool = False
    """Whether the client stopped sending for the idle timeout."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self.idle_seconds):
                    chunk = await self.request.content.readany()
            except TimeoutError:
                self.stalled = True
                raise
            if not chunk:
                return
            yield chunk

    async def body(self) -> "_Body":
        """What to send: a small body whole, so that it can go twice; else a stream. TimeoutError when it stalls."""
        if not self.request.body_exists:
            return None
        length = self.request.content_length
        if length is None or length > REPLAY_BYTES:
            return self
        return b"".join([chunk async for chunk in self])


_Body = bytes | _Upload | None


class _Server(web.Server):
    """Knows the age of each connection."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._born: dict[web.RequestHandler, float] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._born[handler] = time.monotonic()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._born.pop(handler, None)
        super().connection_lost(handler, exc)

    def age_seconds(self, handler: web.RequestHandler) -> float:
        """Seconds since the client connected."""
        return time.monotonic() - self._born[handler]


class Balancer:
    """The proxy and its targets. Use it as an async context manager on a listening socket."""

    def __init__(self, balancing: Balancing, listener: socket.socket) -> None:
        """`listener` is bound and listening already, so that nobody else can take the port meanwhile."""
        self.targets = Targets(balancing)
        self._idle_seconds = balancing.idle_timeout_seconds
        self._keep_alive_seconds = balancing.client_keep_alive_seconds
        self._listener = listener
        self._port = str(listener.getsockname()[1])
        self._server: _Server | None = None
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Balancer":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._idle_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
        )
        self._server = _Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves takes its upstream request with it
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._idle_seconds,
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self.targets.close()
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # it is not part of the answer
        upload = _Upload(request, self._idle_seconds)
        try:
            body = await upload.body()
        except TimeoutError as error:
            return _failed(upload, error)
        tried: set[Target] = set()
        while (target := self.targets.choose(tried)) is not None:
            tried.add(target)
            with target.request(lambda: _cut(request)):
                try:
                    upstream = await self._send(request, body, target)
                except (aiohttp.ClientError, TimeoutError) as error:
                    if _unread(error, body):
                        continue
                    return _failed(upload, error)
                async with upstream:
                    return await self._relay(request, upstream)
        if tried:
            return _own(502, "no target accepted a connection")
        return _own(503, "no target is registered and healthy")

    async def _send(self, request: web.BaseRequest, body: "_Body", target: Target) -> aiohttp.ClientResponse:
        """The target's response once its headers are there."""
        assert self._session is not None
        return await self._session.request(
            request.method,
            URL(f"http://{target.host}:{target.port}{request.raw_path}", encoded=True),
            headers=self._forwarded(request),
            data=body,
            allow_redirects=False,
        )

    def _forwarded(self, request: web.BaseRequest) -> "CIMultiDict[str]":
        """The request's headers without those of one hop, with what ALB adds."""
        headers = _end_to_end(request.headers)
        came_through = headers.getall("X-Forwarded-For", [])
        headers["X-Forwarded-For"] = ", ".join([*came_through, request.remote or "unknown"])
        headers["X-Forwarded-Proto"] = "http"
        headers["X-Forwarded-Port"] = self._port
        return headers

    async def _relay(self, request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass an answer on as it comes; cut the client's connection when the answer is cut or stalls."""
        response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers)
        )
        if self._too_old(request):
            response.force_close()
        try:
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                async with asyncio.timeout(self._idle_seconds):  # a client that does not read
                    await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, TimeoutError):
            _cut(request)
        return response

    def _too_old(self, request: web.BaseRequest) -> bool:
        """Whether the client's connection has lived longer than the balancer keeps one."""
        assert self._server is not None
        return self._server.age_seconds(request.protocol) > self._keep_alive_seconds


def _cut(request: web.BaseRequest) -> None:
    """Break the client's connection: an orderly end would make a cut answer look whole."""
    if request.transport is not None:
        request.transport.abort()


def _end_to_end(headers: Mapping[str, str]) -> "CIMultiDict[str]":
    kept: CIMultiDict[str] = CIMultiDict(headers)
    named = {name.strip().lower() for value in kept.getall("Connection", []) for name in value.split(",")}
    for name in _HOP_BY_HOP | named:
        kept.popall(name, None)
    return kept


def _unread(error: Exception, body: _Body) -> bool:
    """Whether the target cannot have read the whole request, which may then go to another one.

    A refused connection carried nothing. The kernel resets a connection whose process ended before it read all that had
    arrived; one that had read everything is closed in order, and its request may have been answered in part.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        return True
    return isinstance(error, aiohttp.ClientOSError) and not isinstance(body, _Upload)


def _failed(upload: _Upload, error: Exception) -> web.Response:
    """The answer when a target took the request and sent no headers."""
    if upload.stalled:
        return _own(408, "the request did not arrive within the idle timeout")
    if isinstance(error, TimeoutError):
        return _own(504, "the target did not begin its answer within the idle timeout")
    return _own(502, "the target closed the connection or answered in bad HTTP")


def _own(status: int, text: str) -> web.Response:
    """An answer of the balancer itself."""
    return web.Response(status=status, text=f"{status}: {text}\n", headers={"Server": "prodkit-local-balancer"})
