"""The pooled connection to OpenAI: bytes out, bytes in, every wait bounded by whoever calls."""

from __future__ import annotations

import io
import socket
from types import TracebackType

import aiohttp
from aiohappyeyeballs import AddrInfoType

CONNECT_SECONDS = 5.0
"""For TCP and TLS together: beyond it another attempt is worth more than waiting."""
BUFFERED_BODY_BYTES = 1024 * 1024
"""A longer body is written in pieces, so that the event loop is not held by one write."""
IDLE_SECONDS = 60.0
"""An idle pooled connection is closed after this, well before a NAT gateway forgets it (350 s)."""
KEEP_ALIVE_PROBES = 3

_OPTIONS = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")  # Linux's and macOS's name of the same option


class Upstream:
    """One bounded pool of HTTP/1.1 connections to one base address (".../v1"). Open it inside the event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        connections: int,
        tcp_keep_alive_seconds: int,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._connections = connections
        self._tcp_keep_alive_seconds = tcp_keep_alive_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Upstream:
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            keepalive_timeout=IDLE_SECONDS,
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # The caller holds one deadline over all attempts and over the body; a per-read limit would be reset by
            # each keep-alive comment.
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: bytes, key: str) -> aiohttp.ClientResponse:
        """The answer to one POST of JSON once its headers are there; raises aiohttp.ClientError.

        `path` is relative to the base address ("/responses"). Redirects are not followed: they would carry the key.
        """
        if self._session is None:
            raise RuntimeError("Upstream is not open; use `async with`")
        return await self._session.post(
            self._base_url + path,
            data=body if len(body) <= BUFFERED_BODY_BYTES else io.BytesIO(body),
            headers={
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/json",
                # The flow is metered as it passes; unpacking it would cost more than the bytes saved.
                "Accept-Encoding": "identity",
                "User-Agent": "prodkit",
            },
            allow_redirects=False,
        )

    def _socket(self, address: AddrInfoType) -> socket.socket:
        """A socket that probes a silent peer, so that NAT keeps the flow and a dead one is noticed."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        seconds = self._tcp_keep_alive_seconds
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name in _OPTIONS:
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // KEEP_ALIVE_PROBES))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
        return made
