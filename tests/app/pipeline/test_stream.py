"""A stream on its way: every byte of it, heartbeats in its silences, and always an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

import orjson
import pytest

from app.pipeline.attempt import OpenStream
from app.pipeline.endpoints import CHAT, RESPONSES, Endpoint
from app.pipeline.meter import StreamMeter, stream_meter
from app.pipeline.stream import MeteredStream, StreamEnd
from app.upstream import sse
from app.upstream.pool import Upstream
from tests.app.raw_upstream import OK_STREAM, Connection, RawUpstream, raw_upstream
from tests.app.replica import made_up_openai_key

pytestmark = pytest.mark.process

DELTA = sse.write(
    b'{"type":"response.output_text.delta","sequence_number":1,"delta":"hello"}', "response.output_text.delta"
)
DONE = sse.write(b'{"type":"response.completed","sequence_number":2,"response":{"usage":null}}', "response.completed")
CHUNK = sse.write(b'{"choices":[{"delta":{"content":"hello"}}],"usage":null}')
USAGE = sse.write(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}')
CHAT_DONE = sse.write(b"[DONE]")
SECONDS = 30.0


@dataclass
class Under:
    """A stream under test, with its server and how it ended."""

    stream: MeteredStream
    meter: StreamMeter
    server: RawUpstream
    ends: list[StreamEnd]
    flows: ClassVar[bool] = False

    async def read(self) -> bytes:
        pieces = []

        def write(piece: bytes, _chunk: bytes) -> bool:
            pieces.append(piece)
            return True

        async for piece in self.stream:
            pieces.append(piece)
            if self.flows:
                await self.stream.flow(write)
        return b"".join(pieces)


@pytest.fixture(params=[False, True], ids=["by steps", "flowing"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every promise is held on both ways to read a stream."""
    monkeypatch.setattr(Under, "flows", request.param)


@contextlib.asynccontextmanager
async def streaming(
    answer: Callable[[Connection], Awaitable[None]],
    endpoint: Endpoint = RESPONSES,
    *,
    hides_usage: bool = False,
    seconds: float = SECONDS,
    heartbeat_seconds: float = SECONDS,
    head: bytes = OK_STREAM,
) -> AsyncIterator[Under]:
    async def serve(connection: Connection) -> None:
        await connection.say(head)
        await answer(connection)

    ends: list[StreamEnd] = []
    async with (
        raw_upstream(serve) as server,
        Upstream(server.base_url, connections=1, tcp_keep_alive_seconds=45) as upstream,
    ):
        key = made_up_openai_key()
        response = await upstream.post("/responses", b"{}", key)
        meter = stream_meter(endpoint, hides_usage=hides_usage)
        stream = MeteredStream(
            OpenStream(response, key, meter),
            deadline=asyncio.get_running_loop().time() + seconds,
            heartbeat_seconds=heartbeat_seconds,
            on_end=ends.append,
        )
        yield Under(stream, meter, server, ends)
        await stream.aclose()


def saying(*pieces: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def answer(connection: Connection) -> None:
        for piece in pieces:
            await connection.say(piece)
            await asyncio.sleep(0)

    return answer


def last_event(data: bytes) -> dict[str, object]:
    raw = sse.Splitter().feed(data)[-1]
    document: dict[str, object] = orjson.loads(sse.read(raw).data)
    return document


async def test_bytes_pass_as_they_came_however_they_were_cut() -> None:
    whole = b": hi\r\n\r\n" + DELTA + DONE
    async with streaming(saying(*(whole[at : at + 7] for at in range(0, len(whole), 7)))) as under:
        assert await under.read() == whole
    [end] = under.ends
    assert (end.error_code, end.left_early) == (None, False)
    assert end.first_token_at is not None


async def test_only_the_usage_chunk_is_taken_out_of_a_chat_stream() -> None:
    async with streaming(saying(CHUNK + USAGE + CHAT_DONE), CHAT, hides_usage=True) as under:
        assert await under.read() == CHUNK + CHAT_DONE
    assert under.meter.usage is not None
    async with streaming(saying(CHUNK + USAGE + CHAT_DONE), CHAT) as under:
        assert await under.read() == CHUNK + USAGE + CHAT_DONE


@pytest.mark.parametrize("tail", [b"", b"data: {half an ev"])
async def test_a_responses_stream_cut_short_ends_with_an_error_event(tail: bytes) -> None:
    async with streaming(saying(DELTA + tail)) as under:
        got = await under.read()
    assert got.startswith(DELTA)
    assert b"half" not in got
    assert last_event(got)["type"] == "error"
    assert last_event(got)["code"] == "upstream_incomplete"
    assert last_event(got)["sequence_number"] == 2
    assert [end.error_code for end in under.ends] == ["upstream_incomplete"]


async def test_a_chat_stream_cut_short_ends_with_an_error_object() -> None:
    async with streaming(saying(CHUNK), CHAT) as under:
        got = await under.read()
    error = last_event(got)["error"]
    assert isinstance(error, dict)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "upstream_incomplete"


async def test_a_connection_that_breaks_is_a_stream_cut_short() -> None:
    async def reset(connection: Connection) -> None:
        await connection.say(DELTA)
        connection.writer.transport.abort()

    async with streaming(reset) as under:
        assert last_event(await under.read())["code"] == "upstream_incomplete"


async def test_a_malformed_event_ends_the_stream_after_the_good_ones() -> None:
    async with streaming(saying(DELTA + b"data: {oops\n\n" + DONE)) as under:
        got = await under.read()
    assert got.startswith(DELTA)
    assert b"oops" not in got
    assert last_event(got)["code"] == "upstream_invalid_response"
    assert [end.error_code for end in under.ends] == ["upstream_invalid_response"]


@pytest.mark.parametrize("data", [b'{"choices":[7]}', b'{"choices":{"a":1}}', b'{"choices":[{"delta":"x"}]}'])
async def test_an_event_of_another_shape_ends_the_stream(data: bytes) -> None:
    async with streaming(saying(sse.write(data)), CHAT) as under:
        assert b"upstream_invalid_response" in await under.read()


async def test_an_error_that_openai_streams_passes_and_counts() -> None:
    error = sse.write(b'{"type":"error","code":"server_error","message":"x"}', "error")
    async with streaming(saying(DELTA + error)) as under:
        assert await under.read() == DELTA + error
    assert [end.error_code for end in under.ends] == ["server_error"]


async def test_a_silence_is_filled_with_comments_that_are_no_events() -> None:
    goes_on = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await connection.say(DELTA)
        await goes_on.wait()
        await connection.say(DONE)

    async with streaming(silent, heartbeat_seconds=0.02) as under:
        pieces = [await anext(under.stream) for _ in range(3)]
        assert pieces == [DELTA, sse.HEARTBEAT, sse.HEARTBEAT]
        goes_on.set()
        rest = await under.read()
    assert rest.replace(sse.HEARTBEAT, b"") == DONE


async def test_what_flows_waits_where_its_reader_is_behind_and_goes_on_with_the_next() -> None:
    async def drip(connection: Connection) -> None:
        for piece in (DELTA, DELTA, DELTA, DONE):
            await connection.say(piece)
            await asyncio.sleep(0.01)

    async with streaming(drip) as under:
        taken: list[bytes] = []
        written: list[bytes] = []

        def write(piece: bytes, _chunk: bytes) -> bool:
            written.append(piece)
            return False

        async for piece in under.stream:
            taken.append(piece)
            before = len(written)
            await under.stream.flow(write)
            assert len(written) - before <= 1
            taken += written[before:]
        assert b"".join(taken) == DELTA * 3 + DONE
        assert written


def in_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@pytest.mark.parametrize("together", [1, 3])
async def test_text_that_comes_in_chunks_goes_on_in_the_same_chunks_and_is_counted(together: int) -> None:
    words = ["one", " two", " three", " four", " \n", ' "é"', " ", " six", "x" * 5_000, " last"]
    events = [sse.write(orjson.dumps({"choices": [{"delta": {"content": word}}], "usage": None})) for word in words]
    events[4] = sse.write(orjson.dumps({"choices": [{"delta": {"refusal": words[4]}}]}))  # not like the others

    async def drip(connection: Connection) -> None:
        for at in range(0, len(events), together):
            await connection.say(b"".join(map(in_chunk, events[at : at + together])))
            await asyncio.sleep(0.01)
        await connection.say(in_chunk(CHAT_DONE) + b"0\r\n\r\n")

    head = OK_STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    flowed: list[tuple[bytes, bytes]] = []

    def write(piece: bytes, chunk: bytes) -> bool:
        flowed.append((piece, chunk))
        return True

    async with streaming(drip, CHAT, head=head) as under:
        first = await anext(under.stream)
        await under.stream.flow(write)
        assert under.meter.ended
    assert first + b"".join(piece for piece, _ in flowed) == b"".join(events) + CHAT_DONE
    assert all(chunk in (b"", in_chunk(piece)) for piece, chunk in flowed)
    assert any(chunk for _, chunk in flowed)
    assert under.meter.output_bytes == sum(len(word.encode()) for word in words)


async def test_what_cannot_be_written_ends_the_stream_and_nothing_else() -> None:
    goes_on = asyncio.Event()

    async def answer(connection: Connection) -> None:
        await connection.say(DELTA)
        await goes_on.wait()
        await connection.say(DELTA)
        await connection.gone.wait()

    def broken(_piece: bytes, _chunk: bytes) -> bool:
        raise ZeroDivisionError

    async with streaming(answer) as under:
        await anext(under.stream)
        goes_on.set()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(under.stream.flow(broken), SECONDS)
    assert [end.left_early for end in under.ends] == [True]


async def test_comments_from_upstream_do_not_stretch_the_deadline() -> None:
    async def drip(connection: Connection) -> None:
        with contextlib.suppress(ConnectionError):
            while not connection.gone.is_set():
                await connection.say(sse.HEARTBEAT)
                await asyncio.sleep(0.01)

    async with streaming(drip, seconds=0.2) as under:
        assert last_event(await under.read())["code"] == "upstream_timeout"
    assert [end.error_code for end in under.ends] == ["upstream_timeout"]


async def test_leaving_closes_the_connection_to_openai_and_tells_how_far_it_came() -> None:
    async def endless(connection: Connection) -> None:
        await connection.say(DELTA)
        await connection.gone.wait()

    async with streaming(endless) as under:
        assert await anext(under.stream) == DELTA
        await under.stream.aclose()
        await asyncio.wait_for(under.server.seen[0].gone.wait(), SECONDS)
        await under.stream.aclose()
    [end] = under.ends
    assert (end.error_code, end.left_early) == (None, True)
    assert under.meter.output_bytes == 5


async def test_a_stream_that_nobody_read_is_closed_and_accounted() -> None:
    async def endless(connection: Connection) -> None:
        await connection.gone.wait()

    async with streaming(endless) as under:
        await under.stream.aclose()
        await asyncio.wait_for(under.server.seen[0].gone.wait(), SECONDS)
    assert [end.left_early for end in under.ends] == [True]


async def test_a_reader_cancelled_in_a_silence_closes_the_connection_to_openai() -> None:
    async def endless(connection: Connection) -> None:
        await connection.gone.wait()

    async with streaming(endless) as under:
        reader = asyncio.create_task(under.read())
        await under.server.asked.wait()
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await under.stream.aclose()
        await asyncio.wait_for(under.server.seen[0].gone.wait(), SECONDS)
    assert [end.left_early for end in under.ends] == [True]


async def test_a_connection_left_open_after_the_last_event_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pipeline.stream.AFTER_END_SECONDS", 0.02)

    async def lingering(connection: Connection) -> None:
        await connection.say(DELTA + DONE)
        await connection.gone.wait()

    async with streaming(lingering) as under:
        assert await under.read() == DELTA + DONE
    assert [(end.error_code, end.left_early) for end in under.ends] == [(None, False)]
