"""Whatever OpenAI streams, the caller gets whole events with an end, and what is held meanwhile is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.upstream import sse
from tests.app.raw_upstream import OK_STREAM, Connection, raw_upstream
from tests.app.replica import Replica, replica

ENDINGS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.sampled_from(
    [
        b"data: {}",
        b"data:",
        b"data",
        b"data:  x",
        b"data: \x00\xff",
        b"event: a",
        b"event:",
        b": note",
        b"id: 1",
        b"\x00",
    ]
)
FLOWS = st.lists(st.tuples(st.just(b"") | LINES, ENDINGS).map(b"".join), max_size=25).map(b"".join)
BOM = b"\xef\xbb\xbf"


def by_the_standard(flow: bytes) -> list[tuple[str, bytes]]:
    """Name and data of every dispatched event, read as https://html.spec.whatwg.org/#event-stream-interpretation says
    and nothing is cut: the slow way, a line at a time. Only what ends in a blank line counts."""
    events: list[tuple[str, bytes]] = []
    name, data, line = "", list[bytes](), bytearray()
    at = 0
    while at < len(flow):
        if flow[at : at + 1] not in b"\r\n":
            line += flow[at : at + 1]
            at += 1
            continue
        at += 2 if flow[at : at + 2] == b"\r\n" else 1
        if not line:
            if data:
                events.append((name, b"\n".join(data)))
            name, data = "", []
        label, colon, value = bytes(line).partition(b":")
        if colon and label == b"data":
            data.append(value.removeprefix(b" "))
        elif colon and label == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
        line.clear()
    return events


def cut(flow: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = turn = 0
    while at < len(flow):
        size = sizes[turn % len(sizes)]
        yield flow[at : at + size]
        at, turn = at + size, turn + 1


@given(FLOWS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
@example(b"data: {}\r\r\ndata: {}\n\n", [1])
@example(b"data: {}\n\r\n\r", [10])
@settings(max_examples=400)
def test_every_flow_is_read_as_the_standard_says_however_it_is_cut(flow: bytes, sizes: list[int]) -> None:
    splitter = sse.Splitter()
    passed = [raw for piece in cut(flow, sizes) for raw in splitter.feed(piece)]
    assert b"".join(passed) == flow[: len(flow) - len(splitter.unfinished)], "not a byte is changed or lost"
    read = [sse.read(raw) for raw in passed]
    assert [(event.name, event.data) for event in read if event.data] == [e for e in by_the_standard(flow) if e[1]]


@given(st.binary(max_size=400), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_bytes_pass_unchanged(flow: bytes, sizes: list[int]) -> None:
    splitter = sse.Splitter()
    passed = b"".join(raw for piece in cut(flow, sizes) for raw in splitter.feed(piece))
    assert passed == flow[: len(flow) - len(splitter.unfinished)]


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_an_event_without_an_end_is_held_up_to_the_bound_and_no_further(length: int, sizes: list[int]) -> None:
    splitter = sse.Splitter(max_event_bytes=20)
    try:
        for piece in cut(b"x" * length, sizes):
            splitter.feed(piece)
            assert len(splitter.unfinished) <= 20
    except sse.EventTooLargeError:
        assert length > 20


def test_a_byte_order_mark_hides_at_most_the_event_it_stands_in() -> None:
    passed = sse.Splitter().feed(BOM + b"data: {}\n\ndata: {}\n\n")
    assert passed[0].startswith(BOM)
    assert sse.read(passed[1]) == sse.Event("", b"{}")


@dataclass
class Scripted:
    """An upstream that streams `flow` to whoever asks, in pieces of `size` bytes, and then hangs up."""

    base_url: str
    flow: bytes = b""
    size: int = 1
    asked: int = field(default=0)

    async def answer(self, connection: Connection) -> None:
        self.asked += 1
        await connection.say(OK_STREAM)
        for at in range(0, len(self.flow), self.size):
            await connection.say(self.flow[at : at + self.size])
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    made = Scripted("")
    ready, stop = threading.Event(), threading.Event()

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        async with raw_upstream(made.answer) as server:
            made.base_url = server.base_url
            yield

    async def serve() -> None:
        async with serving():
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield made
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def strange(task: dict[str, str], scripted: Scripted) -> Iterator[Replica]:
    """A replica whose OpenAI streams what a test says."""
    with replica(task | {"PRODKIT_OPENAI_BASE_URL": scripted.base_url}) as process:
        yield process


EVENTS = st.sampled_from(
    [
        {"type": "response.created", "sequence_number": 0, "response": {}},
        {"type": "response.output_text.delta", "sequence_number": 1, "delta": "hi", "output_index": 0},
        {"type": "response.output_text.delta", "delta": 7, "sequence_number": "x"},
        {"type": "response.output_text.delta", "delta": {"a": []}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 1, "output_tokens": 2}}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": "x"}}},
        {"type": "response.failed", "response": {"error": None}},
        {"type": "response.failed", "response": []},
        {"type": ["response.completed"]},
        {"type": None},
        {"type": "error"},
        {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]},
        {"choices": [{"delta": {"tool_calls": [{"function": None}, 7]}}]},
        {"choices": {"a": 1}},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        {"error": "no"},
        {"error": {"code": []}},
        [],
        None,
        7,
    ]
).map(lambda event: b"data: " + json.dumps(event).encode())
STRANGE = st.sampled_from([b"data: [DONE]", b"data: {", b"data: \xff\xfe", b": hi", b"event: error", b"\x00", BOM])
LONG = st.integers(1, 40_000).map(lambda size: b'data: {"type":"x","pad":"' + b"x" * size + b'"}')
UPSTREAM = st.lists(
    st.tuples(EVENTS | STRANGE | LONG, st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n"])), max_size=8
)


@pytest.mark.process
@settings(max_examples=150)
@given(
    flow=UPSTREAM | st.binary(max_size=200),
    size=st.sampled_from([1, 7, 65_536]),
    path=st.sampled_from(["/v1/responses", "/v1/chat/completions"]),
    stop=st.booleans(),
)
def test_any_stream_of_openai_reaches_the_caller_as_events_with_an_end(
    strange: Replica, scripted: Scripted, key: str, flow: bytes, size: int, path: str, stop: bool
) -> None:
    scripted.flow, scripted.size = flow, size if len(flow) < 5_000 else 65_536
    content: dict[str, Any] = {"input": "hi"} if path.endswith("responses") else {"messages": []}
    body = {"model": "best", "stream": True, **content, **({"stop": "xyzzy"} if stop else {})}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    status, answered, answer = strange.send("POST", path, json.dumps(body).encode(), headers)
    assert status in (200, 502, 503), answer
    line = strange.line_of(answered["x-request-id"])
    assert line.get("domain") != "us", line
    if status == 200:
        assert answer.endswith((b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"))
        whole = b"[DONE]" in answer or b"response.completed" in answer
        assert whole or "error_code" in line, "an end that is none is an error, not a success"


@pytest.mark.process
def test_after_all_those_streams_the_replica_is_well(strange: Replica) -> None:
    assert strange.status("/health/live") == 200
    assert [line for line in strange.lines if "Traceback" in line] == []
