"""Take messages from the queue, a bounded number at a time; none is lost and none is held after a stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from app.aws import error_code

POLL_SECONDS = 3
"""How long a receive waits for a message. SQS allows 20, but a stop waits for the receive to return. An idle worker
asks 900,000 times a month, for less than half a dollar."""
VISIBILITY_SECONDS = 60
"""How long a message stays hidden without a sign of life: after a crash its document is read again this much later."""
EXTEND_SECONDS = VISIBILITY_SECONDS / 3
MOST_AT_ONCE = 10  # SQS's own bound on one receive
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5, 600
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A message in our hands. `receives` counts deliveries from 1; after the `last` one it goes to the dead letters."""

    body: str
    receipt: str
    receives: int
    last: bool


Handle = Callable[[Message], Awaitable["float | None"]]
"""Works on a message: None = done, delete it; else the seconds after which it shall be delivered again."""


class Calls(Protocol):
    """What a consumer needs of AWS."""

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        """The answer of one operation."""


class Consumer:
    """Polls until `stop`. What `handle` raises is logged and the message comes again later, rarer each time."""

    def __init__(self, aws: Calls, queue_url: str, handle: Handle, *, concurrency: int) -> None:
        self._aws = aws
        self._queue_url = queue_url
        self._handle = handle
        self._concurrency = concurrency
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._most_receives: int | None = None

    async def run(self) -> None:
        """Take messages until `stop`; returns once none is being received any more. Outages of SQS are waited out."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            await self._room()
            try:
                if self._most_receives is None:
                    self._most_receives = await self._read_most_receives()
                for message in await self._receive():
                    await self._begin(message)
                pause = _FIRST_PAUSE_SECONDS
            except Exception as error:  # whatever SQS or the network answers, the next poll may work
                log.error("the queue does not answer", extra={"fields": {"reason": error_code(error)}})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Take no further message; the ones being worked on go on (see `finish`)."""
        self._stopping.set()

    async def finish(self, seconds: float) -> None:
        """Give the work in hand this long, then break it off; its messages are visible to other workers at once."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, seconds))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _room(self) -> None:
        """Wait until one more message may be taken, or until the stop."""
        if len(self._tasks) < self._concurrency:
            return
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*self._tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _receive(self) -> list[Message]:
        free = self._concurrency - len(self._tasks)
        if free < 1:
            return []
        answer = await self._call(
            "receive_message",
            MaxNumberOfMessages=min(free, MOST_AT_ONCE),
            WaitTimeSeconds=POLL_SECONDS,
            VisibilityTimeout=VISIBILITY_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [self._message(found) for found in answer.get("Messages", ())]

    async def _begin(self, message: Message) -> None:
        if self._stopping.is_set():
            await self._show(message, 0)
            return
        task = asyncio.create_task(self._work(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, message: Message) -> None:
        try:
            async with self._hidden(message):
                again = await self._handle(message)
        except asyncio.CancelledError:
            await self._show(message, 0)
            raise
        except Exception:
            log.exception("work on a message failed", extra={"fields": {"receives": message.receives}})
            again = retry_seconds(message.receives)
        if again is None:
            await self._delete(message)
        else:
            await self._show(message, again)

    @contextlib.asynccontextmanager
    async def _hidden(self, message: Message) -> AsyncIterator[None]:
        """Keep a message from being delivered again while the block runs."""

        async def extend() -> None:
            while True:
                await asyncio.sleep(EXTEND_SECONDS)
                await self._show(message, VISIBILITY_SECONDS)

        extending = asyncio.create_task(extend())
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    async def _show(self, message: Message, seconds: float) -> None:
        """Deliver a message again in so many seconds, if nothing else happens to it."""
        await self._tell("change_message_visibility", message, VisibilityTimeout=round(seconds))

    async def _delete(self, message: Message) -> None:
        await self._tell("delete_message", message)

    async def _tell(self, operation: str, message: Message, **parameters: Any) -> None:
        try:
            await self._call(operation, ReceiptHandle=message.receipt, **parameters)
        except Exception as error:  # it is delivered again, and reading a document twice is harmless
            log.warning("a message could not be changed", extra={"fields": {"reason": error_code(error)}})

    async def _read_most_receives(self) -> int:
        answer = await self._call("get_queue_attributes", AttributeNames=["RedrivePolicy"])
        policy = orjson.loads(answer.get("Attributes", {}).get("RedrivePolicy", "{}"))
        # Without a redrive policy a message comes again until it expires: no delivery is the last.
        return int(policy.get("maxReceiveCount", 0))

    def _message(self, found: dict[str, Any]) -> Message:
        receives = int(found["Attributes"]["ApproximateReceiveCount"])
        last = bool(self._most_receives) and receives >= (self._most_receives or 0)
        return Message(found["Body"], found["ReceiptHandle"], receives, last)

    async def _call(self, operation: str, **parameters: Any) -> Any:
        return await self._aws.call("sqs", operation, QueueUrl=self._queue_url, **parameters)


def retry_seconds(receives: int) -> int:
    """Seconds until a message that failed for the `receives`-th time is delivered again: doubling, bounded."""
    return int(min(FIRST_RETRY_SECONDS * 2 ** min(receives - 1, 10), LONGEST_RETRY_SECONDS))
