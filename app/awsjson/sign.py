"""Signed requests: botocore's signature, by credentials that botocore finds and renews, never on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

    from app.awsjson.wire import Service

log = logging.getLogger(__name__)

T = TypeVar("T")

RENEW_SECONDS = 15 * 60 + 1
"""Credentials that end within this are renewed. botocore asks for new ones itself from 15 minutes before their end on,
whoever looks at them: so nobody looks at them here, a second before that."""
WAIT_SECONDS = 10 * 60
"""Those that end within this are not used before they were renewed, as botocore does not."""
PAUSE_SECONDS = 10.0
"""Between two attempts to renew credentials that still hold."""


class Run(Protocol):
    """Gives the result of a blocking function, from a thread."""

    def __call__(self, function: Callable[[], T]) -> Awaitable[T]: ...


class Signer:
    """Makes the heads of requests to one service of one region. Credentials are in no repr, log line or error of it."""

    def __init__(
        self,
        service: Service,
        region: str,
        url: str,
        find: Callable[[], Credentials | None],
        run: Run,
    ) -> None:
        """`find` looks for credentials; it may block, and is asked until there are some."""
        self._service = service
        self._region = region
        self._url = url
        self._host = urlsplit(url).netloc
        self._find = find
        self._credentials: Credentials | None = None
        self._run = run
        self._held: ReadOnlyCredentials | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renewed_at = float("-inf")

    async def head(self, operation: str, body: bytes) -> bytes:
        """The head of a request with this body; raises botocore's errors when there are no credentials to sign it."""
        from botocore.auth import SigV4Auth

        request = _Request(
            self._url,
            {
                "Host": self._host,
                "Content-Type": self._service.content_type,
                "X-Amz-Target": f"{self._service.target}.{operation}",
            },
            body,
        )
        held = self._in_force() or await self._renewed()
        sign: Any = SigV4Auth(held, self._service.name, self._region).add_auth
        sign(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        head = (
            f"POST {urlsplit(self._url).path or '/'} HTTP/1.1\r\n{lines}"
            f"Accept-Encoding: identity\r\nUser-Agent: prodkit\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1")

    def _in_force(self) -> ReadOnlyCredentials | None:
        """Credentials that may be used; None when they have to be read first."""
        if self._held is None or self._credentials is None:
            return None
        due: Callable[[int], bool] | None = getattr(self._credentials, "refresh_needed", None)
        if due is None or not due(RENEW_SECONDS):
            self._held = self._credentials.get_frozen_credentials()
        elif due(WAIT_SECONDS):
            return None
        elif self._renewing is None and asyncio.get_running_loop().time() - self._renewed_at > PAUSE_SECONDS:
            self._begin()
        return self._held

    async def _renewed(self) -> ReadOnlyCredentials:
        # Shielded: the call that began it may be given up while others wait for it.
        await asyncio.shield(self._renewing or self._begin())
        assert self._held is not None
        return self._held

    def _begin(self) -> asyncio.Task[None]:
        self._renewing = asyncio.get_running_loop().create_task(self._renew(), name="credentials")
        self._renewing.add_done_callback(self._ended)
        return self._renewing

    async def _renew(self) -> None:
        self._held = await self._run(self._read)

    def _read(self) -> ReadOnlyCredentials:
        if self._credentials is None:
            self._credentials = self._find()
        if self._credentials is None:
            from botocore.exceptions import NoCredentialsError

            raise NoCredentialsError
        return self._credentials.get_frozen_credentials()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._renewing = None
        self._renewed_at = task.get_loop().time()
        if not task.cancelled():
            task.exception()  # retrieved here as well, for when nobody waits


class _Request:
    """As much of botocore's AWSRequest as a signature needs; its own takes three times as long to make and read."""

    __slots__ = ("body", "context", "headers", "method", "params", "url")

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.method = "POST"
        self.url = url
        self.params = None
        self.headers = headers
        self.body = body
        self.context: dict[str, Any] = {}
