"""What a caller's connection sees of an answer: the same bytes, in fewer pieces, whichever way they were made."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.serving import protocol as protocols
from app.serving.cycle import Cycle
from app.serving.exchange import HELD_KEY
from app.serving.protocol import SMALL_BODY_BYTES, AtOnce, Protocol, Whole
from app.serving.wire import JOINED_BYTES, HeadWaits
from tests.patience import PATIENCE_SECONDS


class Wire(asyncio.Transport):
    """Keeps what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.end = asyncio.Event()
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.end.set()

    def abort(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_a_head_leaves_with_the_first_of_its_body() -> None:
    wire = Wire()
    transport = HeadWaits(wire)
    for _ in range(2):  # two answers on one connection
        transport.write(HEAD)
        assert transport.get_write_buffer_size() == len(HEAD)
        transport.write(b"first")
        transport.write(b"second")
    assert wire.writes == [HEAD + b"first", b"second"] * 2
    await asyncio.sleep(0)
    assert len(wire.writes) == 4


async def test_a_head_whose_body_takes_longer_waits_no_longer_than_a_turn() -> None:
    wire = Wire()
    transport = HeadWaits(wire)
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert wire.writes == [HEAD]
    transport.write(b"later")
    assert wire.writes == [HEAD, b"later"]


async def test_an_interim_answer_is_not_held_back() -> None:
    wire = Wire()
    HeadWaits(wire).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(wire.writes) == 1


async def test_a_long_body_is_not_copied() -> None:
    wire = Wire()
    transport = HeadWaits(wire)
    body = bytes(JOINED_BYTES + 1)
    transport.write(HEAD)
    transport.write(body)
    assert wire.writes == [HEAD, body]


async def test_closing_sends_what_was_held_and_aborting_does_not() -> None:
    closed, aborted = Wire(), Wire()
    for wire in (closed, aborted):
        transport = HeadWaits(wire)
        transport.write(HEAD)
        transport.close() if wire is closed else transport.abort()
    await asyncio.sleep(0)
    assert (closed.writes, aborted.writes) == ([HEAD], [])


@given(st.lists(st.sampled_from([HEAD, b"HTTP/1.1 100 Continue\r\n\r\n", b"body", b"", b"HTTP/1.1 like a head"])))
def test_whatever_is_written_arrives_in_its_order(pieces: list[bytes]) -> None:
    async def written() -> bytes:
        wire = Wire()
        transport = HeadWaits(wire)
        for piece in pieces:
            transport.write(piece)
        transport.close()
        await asyncio.sleep(0)
        return b"".join(wire.writes)

    assert asyncio.run(written()) == b"".join(pieces)


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(0.2)
    await send({"type": "http.response.body", "body": b"hi"})


@contextlib.asynccontextmanager
async def connected(
    app: object, keep_alive_seconds: float = 5
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.timeout_keep_alive = keep_alive_seconds  # type: ignore[assignment]
    config.timeout_graceful_shutdown = 1  # what does not end fails a test, and holds up none
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listening]))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await running


@pytest.mark.process
async def test_uvicorn_serves_on_it() -> None:
    async with connected(whole) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(1 << 16), PATIENCE_SECONDS)).endswith(b"\r\n\r\nhi"), (
                "one packet"
            )


@pytest.mark.process
async def test_the_head_of_a_late_answer_does_not_wait_for_it() -> None:
    async with connected(late) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        first = await asyncio.wait_for(reader.read(1 << 16), PATIENCE_SECONDS)
        assert first.startswith(b"HTTP/1.1 200")
        assert b"hi" not in first
        assert b"hi" in await asyncio.wait_for(reader.read(1 << 16), PATIENCE_SECONDS)


class Socket(Wire):
    """Loses what is written after its end, as a real transport does."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            super().write(data)


class Echo:
    """Answers a POST with what it was sent; at once, when asked to, what contains `kept`."""

    def __init__(self, *, at_once: bool) -> None:
        self.seen: list[tuple[str, bytes]] = []
        if at_once:
            self.at_once = AtOnce((b"/kept",), self.known, self.serve)

    def known(
        self, path: bytes, raw: list[tuple[bytes, bytes]], headers: Mapping[str, str], body: bytes, held: float
    ) -> Whole | None:
        if b"kept" not in body:
            return None
        self.seen.append(("POST", body))
        return Whole(200, [("x", "POST"), ("n", str(len(raw)))], body)

    async def serve(self, cycle: Cycle) -> None:
        assert cycle.body is not None
        self.seen.append((cycle.method, cycle.body))
        await cycle.send(200, [("x", cycle.method), ("n", str(len(cycle.raw)))], cycle.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.seen.append((scope["method"], body))
        headers = [(b"x", scope["method"].encode()), (b"n", str(len(scope["headers"])).encode())]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Connection:
    """One connection to an Echo, without a socket."""

    def __init__(self, *, at_once: bool) -> None:
        self.app, self.state, self.wire = Echo(at_once=at_once), ServerState(), Socket()
        config = uvicorn.Config(self.app, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        self.state.default_headers = [(b"date", b"today"), (b"server", b"us")]
        self.protocol = Protocol(config, self.state, {})
        self.protocol.connection_made(self.wire)

    async def feed(self, piece: bytes) -> None:
        if not self.wire.closed:
            self.protocol.data_received(piece)
        await self.rest()

    async def rest(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        while self.state.tasks:
            if self.wire.reading and all(not task.done() for task in self.state.tasks):
                break  # waits for more of a body
            await asyncio.sleep(0)

    def result(self) -> tuple[bytes, bool, int, list[tuple[str, bytes]]]:
        return b"".join(self.wire.writes), self.wire.closed, self.state.total_requests, self.app.seen


def request(body: bytes, *more: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    lines = [method + b" /kept HTTP/" + version, b"Host: x", *more, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


REQUESTS = [
    request(b"kept"),
    request(b"kept " + b"x" * 500),
    request(b"another"),
    request(b""),
    request(b"kept", method=b"PUT"),
    request(b"kept").replace(b"/kept", b"/kept?x=1"),
    request(b"kept").replace(b"/kept", b"/other"),
    request(b"kept", b"Connection: keep-alive", version=b"1.0"),
    request(b"kept", version=b"1.0"),
    request(b"kept", b"Connection: close"),
    request(b"kept", b"Expect: 100-continue"),
    request(b"kept", b"Connection: upgrade", b"Upgrade: h2c"),
    request(b"kept" + bytes(SMALL_BODY_BYTES)),
    b"POST /kept HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nkept\r\n0\r\n\r\n",
    b"HEAD /kept HTTP/1.1\r\n\r\n",
    b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n",
]
BROKEN = [
    b"POST /kept HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nkept",
    b"POST /kept HTTP/1.1\r\nContent-Length: +4\r\n\r\nkept",
    b"nonsense\r\n\r\n",
]
"""Each after an answer, not with the request before it: uvicorn refuses it at once, and drops that answer."""


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What a caller sends, in pieces that end anywhere; perhaps without its end."""
    text = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5)))
    missing = draw(st.sampled_from([0, 0, 0, 1, 3, 40]))
    text = text[: len(text) - missing]
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    return pieces if missing else pieces + draw(st.lists(st.sampled_from(BROKEN), max_size=1))


@given(conversations(), st.booleans())
def test_whatever_is_sent_is_answered_the_same_at_once_or_by_a_task(pieces: list[bytes], stopping: bool) -> None:
    async def said(*, at_once: bool) -> Any:
        connection = Connection(at_once=at_once)
        for piece in pieces:
            await connection.feed(piece)
        if stopping:
            connection.protocol.shutdown()
            await connection.rest()
        connection.protocol.connection_lost(None)
        await connection.rest()
        assert not connection.state.tasks
        assert not connection.state.connections
        return connection.result()

    assert asyncio.run(said(at_once=True)) == asyncio.run(said(at_once=False))


async def test_what_is_kept_is_answered_before_anything_else_can_run() -> None:
    connection = Connection(at_once=True)
    connection.protocol.data_received(request(b"kept") * 2)
    assert len(connection.wire.writes) == 2
    assert not connection.state.tasks
    connection.protocol.data_received(request(b"another"))
    assert len(connection.wire.writes) == 2
    assert len(connection.state.tasks) == 1
    connection.protocol.data_received(request(b"kept"))
    assert len(connection.wire.writes) == 2, "it waits for the one before it"
    for _ in range(10):
        await asyncio.sleep(0)
    assert not connection.state.tasks
    assert len(connection.wire.writes) == 4


async def test_a_caller_who_reads_nothing_is_written_nothing_more_at_once() -> None:
    connection = Connection(at_once=True)
    connection.protocol.pause_writing()
    connection.protocol.data_received(request(b"kept") * 3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.wire.writes == []
    connection.protocol.resume_writing()
    await connection.rest()
    assert b"".join(connection.wire.writes).count(b"HTTP/1.1 200") == 3


async def test_a_head_without_its_body_goes_the_other_way_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HOLD_SECONDS", 0.01)
    connection = Connection(at_once=True)
    text = request(b"kept")
    connection.protocol.data_received(text[:-2])
    assert not connection.state.tasks
    async with asyncio.timeout(10):
        while not connection.state.tasks:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
    assert connection.protocol.scope[HELD_KEY] >= 0.01  # type: ignore[literal-required]
    await connection.feed(text[-2:])
    assert connection.app.seen == [("POST", b"kept")]


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    connection = Connection(at_once=True)
    protocol, loop = connection.protocol, asyncio.get_running_loop()
    protocol.timeout_keep_alive = 0.05  # type: ignore[assignment]
    began = loop.time()
    while loop.time() < began + 0.2:
        protocol.data_received(request(b"kept"))
        await asyncio.sleep(0)
    assert not connection.wire.closed
    protocol.data_received(request(b"kept")[:-1])
    await asyncio.sleep(0.1)
    assert not connection.wire.closed, "a request has begun"
    protocol.data_received(b"t")
    await asyncio.wait_for(connection.wire.end.wait(), PATIENCE_SECONDS)
    protocol.connection_lost(None)
    assert protocol.timeout_keep_alive_task is None
