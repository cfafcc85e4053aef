"""The Valkey client: every operation bounded, and a pause while the server is away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from app.settings import Settings
from app.valkey.cache_token import token_provider
from app.valkey.lane import Command, Lane, LaneFullError, Part, ReplyError, open_lane

if TYPE_CHECKING:
    from app.aws import Aws

T = TypeVar("T")
log = logging.getLogger(__name__)

OPERATION_SECONDS = 0.2
CONNECT_SECONDS = 2.0  # TLS, authentication and the cluster's map, off the request's way
FIRST_PROBE_SECONDS = 0.05  # after a failure; doubles up to the next
SLOWEST_PROBE_SECONDS = 1.0
_SINGLE = ""  # the name of the one node


class ValkeyAwayError(Exception):
    """Valkey did not answer in time, or is known not to; the caller does without it."""


class ValkeyRefusedError(ValkeyAwayError):
    """A healthy server said no to one command; `code` is the first word of its error."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Valkey refused a command: {code}")
        self.code = code


Asked = tuple[Command, asyncio.Future[Any] | None]
"""A command, and the answer to come when it was sent."""

_sources: dict[str, str] = {}
"""Of every script, by its hash."""


class Script:
    """A Lua script that is sent once and then called by its hash."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._hash = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        _sources[self._hash] = source

    async def run(self, client: Any, key: str, *arguments: str | int | float) -> Any:
        """The script's answer for one key; one key, so it works in a cluster."""
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._hash, 1, key, *arguments)
        except NoScriptError:  # a server that took over, or was flushed, since the scripts were sent
            return await client.eval(self.source, 1, key, *arguments)

    def command(self, keys: Sequence[str], *arguments: Part) -> Command:
        """What runs it for keys of one hash slot."""
        return ("EVALSHA", self._hash, len(keys), *keys, *arguments)

    def call(self, valkey: Valkey, keys: Sequence[str], *arguments: Part) -> Coroutine[Any, Any, Any]:
        """The script's answer for keys of one hash slot, on the connection that all share; raises ValkeyAwayError."""
        return valkey.call("EVALSHA", self._hash, len(keys), *keys, *arguments)

    def post(self, valkey: Valkey, keys: Sequence[str], *arguments: Part) -> None:
        """Run it when nobody needs its answer, as `Valkey.post`."""
        valkey.post("EVALSHA", self._hash, len(keys), *keys, *arguments)


class Valkey:
    """One process's connections to Valkey, as a cluster or a single node.

    An operation that fails or takes longer than OPERATION_SECONDS starts a pause: until a probe in the background is
    answered, every operation fails at once instead of paying the time-out again.
    """

    def __init__(self, settings: Settings, aws: Aws, *, max_connections: int, scripts: Sequence[Script] = ()) -> None:
        """`scripts` are sent with each new connection to a server, so that an operation is one round trip."""
        self._settings = settings
        self._clustered = settings.cache_mode == "cluster"
        self._scripts = scripts
        self._aws = aws
        self._max_connections = max_connections
        self._slots = asyncio.Semaphore(max_connections)  # the pool refuses a caller it has no connection for
        self._client: Any = None
        self._lanes: dict[str, Lane] = {}  # by the node's name
        self._opening: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # lanes being opened, and posts on the slow way
        self._tls: ssl.SSLContext | None = None
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

    async def call(self, *command: Part) -> Any:
        """The answer to one command as the server gives it; raises ValkeyAwayError.

        The first argument is the key (of EVAL and EVALSHA the third). All callers share one connection to each node,
        and what is called in one turn of the event loop leaves in one write. While a slot moves to another node the
        answer comes by way of redis-py and, but for SET, in its form (True for OK).
        """
        return await self.answer(self.ask(command))

    def ask(self, command: Command, *, ahead: bool = False) -> Asked:
        """The first half of `call`; `ahead` for who has other work to do before it waits. Raises ValkeyAwayError."""
        lane = self._lane(command)
        try:
            return command, None if lane is None else lane.send(command, ahead=ahead)
        except (LaneFullError, OSError) as error:
            raise ValkeyAwayError("Valkey is away") from error

    async def answer(self, asked: Asked) -> Any:
        """The second half of `call`."""
        command, sent = asked
        if sent is None:
            return await self._by_client(command)
        try:
            return await sent
        except ReplyError as error:
            if error.moved:
                return await self._by_client(command)
            if error.asks is not None:
                return await self._ask(*error.asks, command)
            if error.code == "NOSCRIPT":  # a server that took over, or was flushed, since the scripts were sent
                return await self.call("EVAL", _sources[str(command[1])], *command[2:])
            if error.away:
                self._pause(error)
            raise ValkeyRefusedError(error.code) from error
        except OSError as error:  # a lane that was lost has begun the pause already
            raise ValkeyAwayError("Valkey is away") from error

    def post(self, *command: Part) -> None:
        """Send a command whose answer nobody needs; nothing happens when Valkey is away or refuses it.

        It costs no task, and `stop` waits for it.
        """
        try:
            lane = self._lane(command)
            if lane is None:
                self._post_slowly(command)
            else:
                lane.post(command, self._refused)
        except (ValkeyAwayError, LaneFullError, OSError):
            return

    async def stop(self) -> None:
        """Close every connection; operations fail from now on. Safe to call twice."""
        self._closing.set()
        self._reachable = False
        if self._prober is not None:
            await self._prober  # not cancelled: a connection half made would be left open
        unanswered = [*self._tasks, *filter(None, [lane.drained() for lane in self._lanes.values()])]
        if unanswered:
            await asyncio.wait(unanswered, timeout=OPERATION_SECONDS)
        await self._disconnect()

    def _lane(self, command: Command) -> Lane | None:
        """The lane to the node that holds the command's key; None when there is none yet."""
        if not self._reachable:
            raise ValkeyAwayError("Valkey is away")
        if not self._clustered:
            return self._lanes.get(_SINGLE)
        client = self._client
        try:
            node = client.get_node_from_key(command[3 if command[0] in ("EVALSHA", "EVAL") else 1])
        except Exception as error:  # no node holds that slot by redis-py's map: a pause brings another map
            self._pause(error)
            raise ValkeyAwayError("Valkey is away") from error
        lane = self._lanes.get(node.name)
        if lane is None and node.name not in self._opening:
            self._keep(self._open_one(node))
        return lane

    async def _by_client(self, command: Command) -> Any:
        """By way of redis-py, which follows a slot to its new node and remembers it."""
        raw = {"get": True} if command[0] == "SET" else {}  # else redis-py says whether it was done, not what was there
        return await self.run(lambda client: client.execute_command(*command, **raw))

    async def _ask(self, host: str, port: int, command: Command) -> Any:
        """By way of the node that a slot is moving to. redis-py cannot: it knows no node that holds no slot yet."""
        name = f"{host}:{port}"
        try:
            if name not in self._lanes:
                async with asyncio.timeout(OPERATION_SECONDS):
                    await self._open(name, host, port)
            lane = self._lanes[name]
            lane.send(("ASKING",))
            return await lane.send(command)
        except Exception as error:
            raise ValkeyAwayError("Valkey is away") from error

    def _refused(self, command: Command, error: ReplyError) -> None:
        if error.away:
            self._pause(error)
        elif error.moved or error.asks or error.code == "NOSCRIPT":
            self._post_slowly(command)

    def _post_slowly(self, command: Command) -> None:
        """Post what has no lane, or the wrong one: a few at a time, as that is over when the cluster's map is right."""

        async def posted() -> None:
            with contextlib.suppress(ValkeyAwayError):
                await self.call(*command)

        if len(self._tasks) < self._max_connections and not self._closing.is_set():
            self._keep(posted())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="valkey")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_one(self, node: Any) -> None:
        self._opening.add(node.name)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._open(node.name, node.host, node.port)
        except Exception as error:
            self._pause(error)
        finally:
            self._opening.discard(node.name)

    async def _open_all(self) -> None:
        settings = self._settings
        if self._clustered:
            nodes = [(node.name, node.host, node.port) for node in self._client.get_primaries()]
        else:
            nodes = [(_SINGLE, settings.cache_host, settings.cache_port)]
        for name, host, port in nodes:
            if name not in self._lanes:
                await self._open(name, host, port)

    async def _open(self, name: str, host: str, port: int) -> None:
        """Connect as redis-py does: the same address, certificate checks, user and password."""
        if self._settings.cache_auth == "iam" and self._tls is None:
            self._tls = ssl.create_default_context()
        options = self._client.get_connection_kwargs()
        provider = options.get("credential_provider")
        login: tuple[str, str] | None = None
        if provider is not None:
            login = await provider.get_credentials_async()
        elif options.get("password"):
            login = (options.get("username") or "default", options["password"])
        lane = await open_lane(host, port, seconds=OPERATION_SECONDS, on_lost=self._lost, tls=self._tls, login=login)
        known = self._lanes.setdefault(name, lane)
        if known is not lane or self._closing.is_set():
            lane.close()

    def _lost(self, lane: Lane, error: Exception) -> None:
        self._lanes = {name: other for name, other in self._lanes.items() if other is not lane}
        self._pause(error)

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
                await self._open_all()
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
                "credential_provider": token_provider(settings, self._aws),
            }
        if self._clustered:
            return await RedisCluster(**options).initialize()
        return Redis(**options)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.close()
        if client is not None:
            # Closing a connection to a server that is gone may fail; it is gone either way.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.aclose()


def _answered(error: Exception) -> bool:
    """Whether a healthy server said no to one operation; a replica's or a cluster's refusal is not that."""
    from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError

    return type(error) in (ResponseError, NoPermissionError, OutOfMemoryError)
