"""No message is lost, none is worked on twice at once, and a stop lets go of all."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.aws import Aws
from app.product import consumer as module
from app.product.consumer import LONGEST_RETRY_SECONDS, Consumer, Handle, Message, retry_seconds
from tests.app.conftest import CloudParts
from tests.patience import PATIENCE_SECONDS

MAX_RECEIVES = 3


class Queue:
    """A queue of its own with dead letters."""

    def __init__(self, cloud: CloudParts) -> None:
        self.sqs = cloud.client("sqs")
        name = secrets.token_hex(6)
        self.dead_url = self.sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=["QueueArn"])
        redrive = {"deadLetterTargetArn": attributes["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
        policy = {"RedrivePolicy": orjson.dumps(redrive).decode()}
        self.url = self.sqs.create_queue(QueueName=name, Attributes=policy)["QueueUrl"]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def counts(self) -> tuple[int, int]:
        """Messages to be had now, and messages hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def dead(self) -> list[str]:
        found = self.sqs.receive_message(QueueUrl=self.dead_url, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        return [message["Body"] for message in found.get("Messages", [])]


@pytest.fixture
def queue(cloud: CloudParts, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setattr(module, "POLL_SECONDS", 1)
    return Queue(cloud)


@contextlib.asynccontextmanager
async def consuming(aws: Aws, queue: Queue, handle: Handle, concurrency: int = 4) -> AsyncIterator[Consumer]:
    """A consumer at work; stopped at the end, its work given five seconds."""
    consumer = Consumer(aws, queue.url, handle, concurrency=concurrency)
    polling = asyncio.create_task(consumer.run())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield consumer
    finally:
        consumer.stop()
        await polling
        await consumer.finish(5)


@pytest.mark.process
async def test_a_message_that_is_done_is_gone(aws: Aws, queue: Queue) -> None:
    seen: asyncio.Queue[Message] = asyncio.Queue()

    async def handle(message: Message) -> None:
        seen.put_nowait(message)

    queue.send("one", "two")
    async with consuming(aws, queue, handle):
        got = {(await seen.get()).body, (await seen.get()).body}
    assert got == {"one", "two"}
    assert queue.counts() == (0, 0)


@pytest.mark.process
async def test_a_message_that_never_works_ends_among_the_dead_and_knows_its_last_chance(aws: Aws, queue: Queue) -> None:
    seen: asyncio.Queue[Message] = asyncio.Queue()

    async def handle(message: Message) -> float:
        seen.put_nowait(message)
        return 0.0

    queue.send("poison")
    async with consuming(aws, queue, handle):
        tries = [await seen.get() for _ in range(MAX_RECEIVES)]
        assert [(message.receives, message.last) for message in tries] == [(1, False), (2, False), (3, True)]
        assert await asyncio.to_thread(queue.dead) == ["poison"]
    assert seen.empty()


@pytest.mark.process
async def test_a_message_whose_work_breaks_comes_again_later(aws: Aws, queue: Queue) -> None:
    worked = asyncio.Event()

    async def handle(_message: Message) -> float | None:
        worked.set()
        raise RuntimeError("broken")

    queue.send("one")
    async with consuming(aws, queue, handle):
        await worked.wait()
    assert queue.counts() == (0, 1)


@pytest.mark.process
async def test_no_more_is_taken_than_can_be_worked_on(aws: Aws, queue: Queue) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()
    go = asyncio.Event()

    async def handle(message: Message) -> None:
        begun.put_nowait(message.body)
        await go.wait()

    queue.send(*map(str, range(5)))
    async with consuming(aws, queue, handle, concurrency=2):
        await begun.get()
        await begun.get()
        assert queue.counts() == (3, 2)
        go.set()
        for _ in range(3):
            await begun.get()
    assert queue.counts() == (0, 0)


@pytest.mark.process
async def test_a_stop_lets_go_of_what_does_not_finish(aws: Aws, queue: Queue) -> None:
    begun = asyncio.Event()

    async def handle(_message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    queue.send("long")
    consumer = Consumer(aws, queue.url, handle, concurrency=1)
    polling = asyncio.create_task(consumer.run())
    await begun.wait()
    consumer.stop()
    await polling
    assert queue.counts() == (0, 1)
    await consumer.finish(0)
    assert queue.counts() == (1, 0)


class Recorded:
    """SQS that gives one message, fails as often as it is told, and remembers what it is asked."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.extended = asyncio.Event()
        self._given = False

    async def call(self, _service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        self.asked.append((operation, parameters))
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        if operation == "change_message_visibility":
            self.extended.set()
        if operation != "receive_message" or self._given:
            await asyncio.sleep(0)
            return {}
        self._given = True
        attributes = {"ApproximateReceiveCount": "1"}
        return {"Messages": [{"Body": "b", "ReceiptHandle": "r", "Attributes": attributes}]}


async def test_a_message_stays_hidden_while_it_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXTEND_SECONDS", 0.0)
    sqs = Recorded()

    async def handle(_message: Message) -> None:
        await sqs.extended.wait()

    consumer = Consumer(sqs, "q", handle, concurrency=1)
    polling = asyncio.create_task(consumer.run())
    await sqs.extended.wait()
    consumer.stop()
    await polling
    await consumer.finish(5)
    operations = [operation for operation, _ in sqs.asked]
    assert operations[-1] == "delete_message"
    extension = next(parameters for operation, parameters in sqs.asked if operation == "change_message_visibility")
    assert extension["VisibilityTimeout"] == module.VISIBILITY_SECONDS


async def test_an_outage_of_the_queue_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.0)
    sqs = Recorded(failures=3)
    done = asyncio.Event()

    async def handle(_message: Message) -> None:
        done.set()

    consumer = Consumer(sqs, "q", handle, concurrency=1)
    polling = asyncio.create_task(consumer.run())
    await done.wait()
    consumer.stop()
    await polling
    await consumer.finish(5)
    assert sqs.failures == 0


@given(st.integers(1, 10_000))
def test_waits_between_deliveries_grow_and_are_bounded(receives: int) -> None:
    assert 0 < retry_seconds(receives) <= retry_seconds(receives + 1) <= LONGEST_RETRY_SECONDS
