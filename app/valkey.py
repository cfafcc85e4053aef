"""The Valkey client: every operation bounded, a pause while the server is away, IAM tokens instead of a password."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from app.settings import Settings

if TYPE_CHECKING:
    from app.aws import Aws

T = TypeVar("T")
log = logging.getLogger(__name__)

OPERATION_SECONDS = 0.2
CONNECT_SECONDS = 2.0  # TLS, authentication and the cluster's map, off the request's way
FIRST_PROBE_SECONDS = 0.05  # after a failure; doubles up to the next
SLOWEST_PROBE_SECONDS = 1.0
TOKEN_SECONDS = 900  # the longest that ElastiCache accepts
TOKEN_REFRESH_SECONDS = 600  # a new connection never presents a token in its last five minutes
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class ValkeyAwayError(Exception):
    """Valkey did not answer in time, or is known not to; the caller does without it."""


class Script:
    """A Lua script that is sent once and then called by its hash."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._hash = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Any, key: str, *arguments: str | int | float) -> Any:
        """The script's answer for one key; one key, so it works in a cluster."""
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._hash, 1, key, *arguments)
        except NoScriptError:  # a server that took over, or was flushed, since the scripts were sent
            return await client.eval(self.source, 1, key, *arguments)


class Valkey:
    """One process's connections to Valkey, as a cluster or a single node.

    An operation that fails or takes longer than OPERATION_SECONDS starts a pause: until a probe in the background is
    answered, every operation fails at once instead of paying the time-out again.
    """

    def __init__(self, settings: Settings, aws: Aws, *, max_connections: int, scripts: Sequence[Script] = ()) -> None:
        """`scripts` are sent with each new connection to a server, so that an operation is one round trip."""
        self._settings = settings
        self._scripts = scripts
        self._aws = aws
        self._max_connections = max_connections
        self._slots = asyncio.Semaphore(max_connections)  # the pool refuses a caller it has no connection for
        self._client: Any = None
        self._reachable = False
        self.problem = "not connected yet"
        """Why the last operation or probe failed, the name of an error; empty when it was answered."""
        self._prober: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def reachable(self) -> bool:
        """Whether the last operation or probe was answered."""
        return self._reachable

    @property
    def client(self) -> Any:
        """The `redis.asyncio` client for background work, which bounds itself; raises ValkeyAwayError."""
        if not self._reachable:
            raise ValkeyAwayError("Valkey is away")
        return self._client

    async def start(self) -> None:
        """Connect; when that takes longer than CONNECT_SECONDS go on without, and keep trying in the background."""
        error = await self._probe()
        if error is not None:
            self._pause(error)

    async def run(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        """The result of `operation(client)`, a coroutine over a `redis.asyncio` client; raises ValkeyAwayError.

        An error that the server answers (a damaged value's, say) raises the same, as the caller's way out is the same,
        but starts no pause.
        """
        client = self.client
        sent = False
        try:
            async with asyncio.timeout(OPERATION_SECONDS), self._slots:
                sent = True
                return await operation(client)
        except Exception as error:
            # Any failure of the client or the server means one thing here, and a request never fails because of it.
            # Having waited in this process's own queue says nothing about the server, though.
            if sent and not _answered(error):
                self._pause(error)
            raise ValkeyAwayError("Valkey is away") from error

    async def stop(self) -> None:
        """Close every connection; operations fail from now on. Safe to call twice."""
        self._closing.set()
        self._reachable = False
        if self._prober is not None:
            await self._prober  # not cancelled: a connection half made would be left open
        await self._disconnect()

    def _pause(self, error: Exception) -> None:
        self._reachable = False
        if self._closing.is_set() or (self._prober is not None and not self._prober.done()):
            return
        self._note(error)
        slow = isinstance(error, TimeoutError)
        self._prober = asyncio.create_task(self._probe_until_reachable(reconnect=not slow), name="valkey")

    async def _probe_until_reachable(self, *, reconnect: bool) -> None:
        if reconnect:
            # The server refused or a connection broke: after a failover the client's map of the cluster is wrong.
            await self._disconnect()
        delay = FIRST_PROBE_SECONDS
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):  # the usual end of the wait
                await asyncio.wait_for(self._closing.wait(), delay)
            if self._closing.is_set():
                return
            error = await self._probe()
            if error is None:
                log.info("Valkey is back")
                return
            self._note(error)
            delay = min(2 * delay, SLOWEST_PROBE_SECONDS)

    async def _probe(self) -> Exception | None:
        """Connect when there is no client, and ping; the error when that fails."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self._client is None:
                    self._client = await self._connect()
                    for script in self._scripts:
                        await self._client.script_load(script.source)
                await self._client.ping()
        except Exception as error:
            await self._disconnect()  # a fresh client reads the cluster's map, the name and the token anew
            return error
        self._reachable = not self._closing.is_set()
        self.problem = ""
        return None

    def _note(self, error: Exception) -> None:
        """Log why Valkey is away when it is not what was logged last. An error's text may hold the token: not that."""
        name = type(error).__name__
        if name != self.problem:
            fields = {"reason": name}
            log.warning("Valkey is away: no cache, limits are this replica's share", extra={"fields": fields})
        self.problem = name

    async def _connect(self) -> Any:
        from redis.asyncio import Redis, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings = self._settings
        options: dict[str, Any] = {
            "host": settings.cache_host,
            "port": settings.cache_port,
            "socket_timeout": CONNECT_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            # Explicit: the default retries for seconds (31 s were measured against a frozen server).
            "retry": Retry(NoBackoff(), 0),
            "max_connections": self._max_connections,
        }
        if settings.cache_auth == "iam":
            options |= {
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "credential_provider": await _token_provider(settings, self._aws),
            }
        if settings.cache_mode == "cluster":
            return await RedisCluster(**options).initialize()
        return Redis(**options)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # Closing a connection to a server that is gone may fail; it is gone either way.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.aclose()


def is_serverless(host: str) -> bool:
    """Whether an ElastiCache address is a serverless cache's: `name-abc123.serverless.use1.cache.amazonaws.com`."""
    return ".serverless." in host


def iam_token(
    *,
    cache_name: str,
    user: str,
    region: str,
    serverless: bool,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    now: float,
) -> str:
    """The password that logs `user` into an ElastiCache cache for TOKEN_SECONDS from `now` (seconds since 1970).

    It is a presigned (SigV4) `connect` request without its scheme: ElastiCache checks it against IAM.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{moment[:8]}/{region}/elasticache/aws4_request"
    query = {
        "Action": "connect",
        "User": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(TOKEN_SECONDS),
        "X-Amz-SignedHeaders": "host",
    }
    if serverless:
        query["ResourceType"] = "ServerlessCache"
    if session_token:
        query["X-Amz-Security-Token"] = session_token
    text = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    request = "\n".join(("GET", "/", text, f"host:{cache_name}\n", "host", _EMPTY_SHA256))
    to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{secret_key}".encode()
    for part in (moment[:8], region, "elasticache", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{cache_name}/?{text}&X-Amz-Signature={hmac.digest(key, to_sign.encode(), 'sha256').hex()}"


async def _token_provider(settings: Settings, aws: Aws) -> Any:
    """redis-py's source of user and token for a new connection; the token is signed again by its age."""
    from redis.credentials import CredentialProvider

    class TokenProvider(CredentialProvider):
        def __init__(self) -> None:
            self._token = ""
            self._signed = float("-inf")

        def get_credentials(self) -> tuple[str, str]:
            if time.monotonic() - self._signed > TOKEN_REFRESH_SECONDS:
                access_key, secret_key, session_token = aws.credentials()
                self._token = iam_token(
                    cache_name=settings.cache_name,
                    user=settings.cache_user,
                    region=settings.aws_region,
                    serverless=is_serverless(settings.cache_host),
                    access_key=access_key,
                    secret_key=secret_key,
                    session_token=session_token,
                    now=time.time(),
                )
                self._signed = time.monotonic()
            return settings.cache_user, self._token

        async def get_credentials_async(self) -> tuple[str, str]:
            return await aws.run(self.get_credentials)

    return TokenProvider()


def _answered(error: Exception) -> bool:
    """Whether a healthy server said no to one operation; a replica's or a cluster's refusal is not that."""
    from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError

    return type(error) in (ResponseError, NoPermissionError, OutOfMemoryError)
