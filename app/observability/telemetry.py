"""Sends what happened to an OpenTelemetry collector, beside the requests: nothing waits for it, nothing fails by it.

OTLP over HTTP in its JSON form, written here: the SDK 1.45 with its exporter takes 20 MiB, a thread and 50 microseconds
a span, of which a request has two. Here a finished request is put into a bounded queue; all else happens in one task,
at about 40 microseconds of processor time a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    from app.observability.otlp import Finished
    from app.pipeline.record import Record

log = logging.getLogger(__name__)

QUEUE_REQUESTS = 4_096
"""Finished requests that wait; about 1 KB each. More are dropped and counted."""
BATCH_REQUESTS = 512
"""In one message."""
SLICE_REQUESTS = 16
"""Made into spans at once: so long (about half a millisecond) the event loop is held."""
SPANS_SECONDS = 5.0
METRICS_SECONDS = 30.0
POST_SECONDS = 5.0
"""For one message, connection and answer included."""
STOP_SECONDS = 2.0
"""For what is left when the process stops; then it is dropped."""
LEAST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 60.0
"""Between attempts while the collector is away, doubled each time."""
MAX_ANSWER_BYTES = 64 * 1024
RETRIED_STATUSES = frozenset({429, 502, 503, 504})  # as OTLP says; anything else but 2xx is final


class CollectorError(Exception):
    """The collector did not take a message; `again` says whether it may be sent once more."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Telemetry:
    """The queue and the task behind it. `start` and `stop` it inside one event loop."""

    def __init__(self, endpoint: str, stack: str, service: str, *, dropped: Callable[[int], object]) -> None:
        """`endpoint` is a base address; `dropped` is told how many requests the collector will never hear of."""
        from app.observability import otlp

        self._otlp = otlp
        self._endpoint = endpoint.rstrip("/")
        self._resource = otlp.resource(stack, service)
        self._histograms = otlp.Histograms()
        self._queue: deque[Finished] = deque()
        self._dropped = dropped
        self._task: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._away = False
        self._next_pause = LEAST_PAUSE_SECONDS
        self._context: ssl.SSLContext | None = None
        if urlsplit(endpoint).scheme == "https":
            self._context = ssl.create_default_context()

    def add(self, record: Record, ended: float) -> None:
        """A request has ended; nothing changes its record any more."""
        if len(self._queue) < QUEUE_REQUESTS:
            self._queue.append(self._otlp.Finished(record, ended))
        else:
            self._dropped(1)

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="telemetry")

    async def stop(self) -> None:
        """Send what is left within STOP_SECONDS, drop the rest."""
        if self._task is None:
            return
        task, self._task = self._task, None
        with contextlib.suppress(CollectorError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                # A message under way is not cut: the collector may have it already, and would get it twice.
                async with self._sending:
                    task.cancel()
                while self._queue:
                    await self._send_batch()
                await self._post("/v1/metrics", orjson.dumps(self._histograms.document(self._resource)))
        task.cancel()
        await asyncio.wait([task])
        if self._queue:
            self._dropped(len(self._queue))
            self._queue.clear()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        metrics_at = clock() + METRICS_SECONDS
        pause = SPANS_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = SPANS_SECONDS
            try:
                while self._queue:
                    async with self._sending:
                        await self._send_batch()
                if clock() >= metrics_at:
                    metrics_at = clock() + METRICS_SECONDS
                    await self._post("/v1/metrics", orjson.dumps(self._histograms.document(self._resource)))
                self._away = False
            except CollectorError as error:
                pause = self._pause(error)
            except Exception:
                log.exception("telemetry could not be written")

    def _pause(self, error: CollectorError) -> float:
        """Seconds until the next attempt; an outage is told once."""
        if not self._away:
            log.warning("the collector does not take telemetry", extra={"fields": {"reason": str(error)}})
            self._next_pause = LEAST_PAUSE_SECONDS
        self._away = True
        pause = self._next_pause
        self._next_pause = min(MOST_PAUSE_SECONDS, 2 * pause)
        return pause

    async def _send_batch(self) -> None:
        """Send the oldest requests; they stay in the queue when they may be sent again."""
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(BATCH_REQUESTS, len(queue)))]
        try:
            spans: list[bytes] = []
            for at in range(0, len(batch), SLICE_REQUESTS):
                some = batch[at : at + SLICE_REQUESTS]
                spans += map(orjson.dumps, self._otlp.spans(some))
                for finished in some:
                    self._histograms.add(finished)
                await asyncio.sleep(0)
            await self._post("/v1/traces", self._otlp.traces(self._resource, spans))
        except BaseException as error:
            if isinstance(error, CollectorError) and not error.again:
                self._dropped(len(batch))
            else:
                queue.extendleft(reversed(batch))
                raise

    async def _post(self, path: str, message: bytes) -> None:
        """Post one message; raises CollectorError."""
        try:
            async with asyncio.timeout(POST_SECONDS):
                status = await self._exchange(self._endpoint + path, message)
        except TimeoutError:
            raise CollectorError(f"no answer within {POST_SECONDS:g} s", again=True) from None
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise CollectorError(type(error).__name__, again=True) from None
        if not 200 <= status < 300:
            raise CollectorError(f"status {status}", again=status in RETRIED_STATUSES)

    async def _exchange(self, url: str, body: bytes) -> int:
        """The status of one POST on a connection of its own: there is one each few seconds."""
        parts = urlsplit(url)
        port = parts.port or (443 if self._context else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._context, limit=MAX_ANSWER_BYTES)
        try:
            head = (
                f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"User-Agent: prodkit\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            return int(answer.split(None, 2)[1])
        finally:
            # Not waited for: a peer that never says goodbye would hold this.
            writer.transport.abort()
