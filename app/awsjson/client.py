"""One service of AWS, asked by the event loop over connections of our own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from app.awsjson.retry import Retries
from app.awsjson.sign import Run, Signer
from app.awsjson.wire import Answer, Service, answer, request_body
from app.time_limit import within
from app.upstream.pool import Pool
from app.upstream.response import CutError, UnreachableError, UpstreamError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    from app.upstream.response import Response

CONNECTIONS = 16
"""Further calls wait for one of these."""
TCP_KEEP_ALIVE_SECONDS = 45
MAX_ANSWER_BYTES = (
    32 * 1024 * 1024
)  # DynamoDB answers with 16 MB at most; binary values are a third longer on their way
ANSWER_SECONDS = 30.0
"""For the rest of an answer that has begun, so that one which drips ends."""


class Client:
    """Calls of one event loop: the one it was made in."""

    def __init__(
        self,
        service: Service,
        region: str,
        endpoint_url: str | None,
        session: Callable[[], Session],
        find: Callable[[], Credentials | None],
        run: Run,
        *,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        """`session` and `find`, which looks for credentials, may block: they are asked in a thread, by `run`.

        `read_seconds` is the longest silence of AWS.
        """
        self.loop = asyncio.get_running_loop()
        self._service = service
        self._region = region
        self._endpoint_url = endpoint_url
        self._session = session
        self._find = find
        self._run = run
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._running: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._way = self._task(self._prepare(), "way")

    def call(self, operation: str, parameters: dict[str, Any]) -> asyncio.Future[Answer]:
        """The answer of an operation by its Python name. Raises botocore's ClientError and BotoCoreError.

        A cancelled caller stops nothing: what was asked for is done, and its answer read, while the loop runs.
        """
        return asyncio.shield(self._task(self._attempts(operation, parameters), operation))

    def close(self) -> None:
        """Close the connections, busy ones too; from any thread. A loop that has ended has closed them itself."""
        if self._keeper is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._keeper.cancel)

    def _task(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(work, name=f"{self._service.name} {name}")
        self._running.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved here as well, for when the caller has gone

    async def _prepare(self) -> _Way:
        way = await self._run(self._load)
        way.pool.open()
        self._keeper = self._task(_keep(way.pool), "connections")
        return way

    def _load(self) -> _Way:
        """What takes long to make: botocore's modules, the certificates."""
        import botocore.auth  # noqa: F401 - the signer finds it loaded

        url = self._endpoint_url or _address(self._service.name, self._region, self._session())
        pool = Pool(
            url,
            connections=CONNECTIONS,
            tcp_keep_alive_seconds=TCP_KEEP_ALIVE_SECONDS,
            connect_seconds=self._connect_seconds,
        )
        signer = Signer(self._service, self._region, url, self._find, self._run)
        return _Way(url, pool, signer, Retries(self._service))

    async def _attempts(self, operation: str, parameters: dict[str, Any]) -> Answer:
        way = await self._way
        name = self._service.operations[operation]
        body = request_body(self._service, operation, parameters)
        attempt = 1
        while True:
            try:
                found = answer(name, *await self._ask(way, name, body))
            except Exception as error:
                pause = way.retries.pause(error, attempt)
                if pause is None:
                    raise
            else:
                way.retries.succeeded(attempt)
                return found
            attempt += 1
            await asyncio.sleep(pause)

    async def _ask(self, way: _Way, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one attempt. Raises BotoCoreError."""
        head = await way.signer.head(name, body)
        try:
            connection = await way.pool.connection()
            with within(self._read_seconds):
                response = await connection.ask(head, body)
            try:
                text = response.whole()
                if text is None:
                    text = await self._rest(response)
            finally:
                response.release()
        except (UpstreamError, TimeoutError) as error:
            raise _named(error, way.url) from error
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in response.headers}
        return response.status, headers, text

    async def _rest(self, response: Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        with within(max(ANSWER_SECONDS, self._read_seconds)):
            while size <= MAX_ANSWER_BYTES:
                with within(self._read_seconds):
                    piece = await response.read()
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
                size += len(piece)
        raise CutError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")


class _Way(NamedTuple):
    """How a service is reached."""

    url: str
    pool: Pool
    signer: Signer
    retries: Retries


async def _keep(pool: Pool) -> None:
    """Hold the connections open until this is cancelled: by `close`, or by the loop that ends."""
    async with pool:
        await asyncio.get_running_loop().create_future()


def _address(service: str, region: str, session: Session) -> str:
    """The regional address of a service, by the partitions that botocore knows."""
    partitions: Any = session.get_component("data_loader").load_data("partitions")["partitions"]
    found = [one["outputs"]["dnsSuffix"] for one in partitions if re.match(one["regionRegex"], region)]
    return f"https://{service}.{region}.{(found or ['amazonaws.com'])[0]}"


def _named(error: Exception, url: str) -> BotoCoreError:
    """What botocore calls it."""
    from botocore import exceptions

    if isinstance(error, TimeoutError):
        return exceptions.ReadTimeoutError(endpoint_url=url)
    if isinstance(error, CutError) or (isinstance(error, UnreachableError) and error.sent):
        return exceptions.ConnectionClosedError(endpoint_url=url)
    if not isinstance(error, UnreachableError):
        return exceptions.HTTPClientError(error=error)
    if error.errno is None:
        return exceptions.ConnectTimeoutError(endpoint_url=url)
    return exceptions.EndpointConnectionError(endpoint_url=url)
