"""The official client on the pipeline: same calls, same errors, real streaming, and an end that reaches upstream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import openai
import orjson
import pytest
from openai.types.responses import ResponseStreamEvent

from app.errors import ApiError
from app.keys import Identity
from app.pipeline import Call, Reply
from app.sdk import api_error, client
from app.upstream import sse

IDENTITY = Identity("acme", "0123456789ab", "test", "user", None, None)
JSON = [("content-type", "application/json"), ("x-request-id", "req_1")]


class Scripted:
    """A pipeline that answers with what it was given and remembers the calls."""

    def __init__(self, answer: Reply | ApiError) -> None:
        self.answer = answer
        self.calls: list[Call] = []

    async def run(self, call: Call) -> Reply:
        self.calls.append(call)
        if isinstance(self.answer, ApiError):
            raise self.answer
        return self.answer


class Stream:
    """A stream whose events come when the test lets them."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    def send(self, **event: object) -> None:
        self.queue.put_nowait(sse.write(orjson.dumps(event), str(event["type"])))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def flow(self, write: Callable[[bytes, bytes], bool]) -> None:
        raise AssertionError("the SDK reads by steps")

    async def aclose(self) -> None:
        self.closed.set()


@contextlib.asynccontextmanager
async def responding(stream: Stream) -> AsyncIterator[openai.AsyncStream[ResponseStreamEvent]]:
    """The SDK's stream over ours."""
    reply = Reply(200, [("content-type", sse.MEDIA_TYPE)], stream)
    async with (
        client(Scripted(reply), IDENTITY, "req_1") as made,
        await made.responses.create(model="m", input="hi", stream=True) as events,
    ):
        yield events


async def test_a_call_reaches_the_pipeline_as_a_caller_of_v1_would_send_it() -> None:
    answer = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]}
    pipeline = Scripted(Reply(200, JSON, orjson.dumps(answer)))
    async with client(pipeline, IDENTITY, "req_1") as openai_client:
        found = await openai_client.embeddings.create(model="embed", input="text", encoding_format="float")
    assert found.data[0].embedding == [1.0]
    [call] = pipeline.calls
    assert (call.endpoint, call.identity, call.request_id) == ("/v1/embeddings", IDENTITY, "req_1")
    assert orjson.loads(call.body) == {"model": "embed", "input": "text", "encoding_format": "float"}
    assert call.headers == {"content-type": "application/json"}


async def test_an_event_arrives_while_the_stream_is_still_open() -> None:
    stream = Stream()
    async with responding(stream) as events:
        stream.send(type="response.output_text.delta", delta="Hel", sequence_number=1)
        event = await anext(events)
        assert event.type == "response.output_text.delta"
        assert not stream.closed.is_set()
    assert stream.closed.is_set()


async def test_heartbeats_of_the_pipeline_are_no_events() -> None:
    stream = Stream()
    stream.queue.put_nowait(sse.HEARTBEAT)
    stream.send(type="response.output_text.delta", delta="x", sequence_number=1)
    async with responding(stream) as events:
        assert (await anext(events)).type == "response.output_text.delta"


async def test_cancelling_the_reader_closes_the_stream() -> None:
    stream = Stream()
    waiting = asyncio.Event()

    async def read() -> None:
        async with responding(stream) as events:
            waiting.set()
            await anext(events)

    task = asyncio.create_task(read())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed.is_set()


async def test_a_refusal_is_the_exception_of_its_status_and_comes_back_as_it_was() -> None:
    refusal = ApiError("rate_limit_exceeded", "Slow down.", headers={"retry-after": "7"})
    pipeline = Scripted(refusal)
    async with client(pipeline, IDENTITY, "req_1") as openai_client:
        with pytest.raises(openai.RateLimitError) as caught:
            await openai_client.embeddings.create(model="embed", input="text")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.request_id == "req_1"
    assert caught.value.response.headers["retry-after"] == "7"
    assert api_error(caught.value) is refusal
    assert len(pipeline.calls) == 1, "the pipeline owns retries"


@pytest.mark.parametrize(
    ("status", "upstream_code", "code"),
    [
        (429, "rate_limit_exceeded", "rate_limit_exceeded"),
        (429, "insufficient_quota", "upstream_invalid_response"),
        (400, "invalid_prompt", "upstream_invalid_response"),
        (500, None, "upstream_unreachable"),
        (503, None, "overloaded"),
    ],
)
async def test_an_error_of_openai_becomes_ours_with_its_reason(
    status: int, upstream_code: str | None, code: str
) -> None:
    body = orjson.dumps({"error": {"message": "because", "type": "t", "param": None, "code": upstream_code}})
    headers = [*JSON, ("retry-after", "3")]
    async with client(Scripted(Reply(status, headers, body)), IDENTITY, "req_1") as openai_client:
        with pytest.raises(openai.APIStatusError) as caught:
            await openai_client.embeddings.create(model="embed", input="text")
    error = api_error(caught.value)
    assert error.code == code
    assert "because" in error.message
    assert error.headers == {"retry-after": "3"}


async def test_no_proxy_of_the_environment_gets_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    refusal = ApiError("overloaded", "full")
    async with client(Scripted(refusal), IDENTITY, "req_1") as openai_client:
        with pytest.raises(openai.InternalServerError):
            await openai_client.embeddings.create(model="embed", input="text")


async def test_a_stream_that_breaks_off_is_told_as_one() -> None:
    stream = Stream()
    stream.queue.put_nowait(sse.write(b'{"error": {"message": "gone", "code": "server_error"}}'))
    async with responding(stream) as events:
        with pytest.raises(openai.APIError) as caught:
            await anext(events)
    assert api_error(caught.value).code == "upstream_incomplete"
    assert stream.closed.is_set()
