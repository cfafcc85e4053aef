"""What a caller may make a connection hold: so much of a head, so long, and so many requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from app.serving import protocol as protocols
from app.serving import wire as wires
from app.serving.protocol import MAX_HEAD_BYTES, MOST_WAITING
from app.serving.wire import HeadWaits
from tests.app.serving.test_protocol import Connection, Wire, connected, request
from tests.patience import PATIENCE_SECONDS

PIECE = b"x" * 8_000
CHUNKED = b"POST /kept HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nkept\r\n"


def endless(beginning: bytes, piece: bytes) -> Iterator[bytes]:
    yield beginning
    for _ in range(4 * MAX_HEAD_BYTES // len(piece)):
        yield piece


@pytest.mark.parametrize(
    ("beginning", "piece", "told"),
    [
        (b"GET /", PIECE, True),
        (b"GET / HTTP/1.1\r\nX: ", PIECE, True),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-Y: z\r\n" * 1_000, True),
        (CHUNKED + b"0\r\n", b"X-Y: z\r\n" * 1_000, False),
        (CHUNKED + b"1;y=", PIECE, False),
    ],
    ids=["line", "header", "headers", "trailers", "chunk"],
)
async def test_what_is_no_body_is_bounded(beginning: bytes, piece: bytes, told: bool) -> None:
    connection = Connection(at_once=True)
    sent = 0
    for each in endless(beginning, piece):
        if connection.wire.closed:
            break
        connection.protocol.data_received(each)
        sent += len(each)
    assert connection.wire.closed
    assert sent <= MAX_HEAD_BYTES + len(beginning) + len(piece)
    connection.protocol.connection_lost(None)
    await connection.rest()
    assert b"".join(connection.wire.writes).startswith(b"HTTP/1.1 400 ") is told
    assert connection.app.seen == []


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_head_as_long_as_a_balancer_passes_is_read_and_so_are_many_of_them(at_once: bool) -> None:
    connection = Connection(at_once=at_once)
    text = request(b"kept", b"X: " + b"y" * (MAX_HEAD_BYTES - 200))
    for _ in range(3):
        for at in range(0, len(text), 5_000):
            await connection.feed(text[at : at + 5_000])
    assert connection.app.seen == [("POST", b"kept")] * 3
    assert not connection.wire.closed


async def test_a_long_body_is_no_head() -> None:
    connection = Connection(at_once=True)
    text = request(b"k" * (20 * MAX_HEAD_BYTES))
    for at in range(0, len(text), 200_000):
        await connection.feed(text[at : at + 200_000])
    assert [len(body) for _, body in connection.app.seen] == [20 * MAX_HEAD_BYTES]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost", b"", b"\r\n"], ids=["half", "nothing", "no request"])
async def test_a_connection_on_which_no_request_comes_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.05)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("there was no request")

    async with connected(app, keep_alive_seconds=0.1) as (reader, writer):
        writer.write(sent)
        said = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
        assert said.startswith(b"HTTP/1.1 400 ") is sent.startswith(b"GET")


async def test_a_head_that_comes_in_time_is_not_stopped_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.02)
    connection = Connection(at_once=True)
    text = request(b"kept")
    connection.protocol.data_received(text[:9])
    connection.protocol.data_received(text[9:-1])
    await asyncio.sleep(0.04)
    await connection.feed(text[-1:])
    assert connection.app.seen == [("POST", b"kept")]
    assert not connection.wire.closed


async def test_no_connection_keeps_endlessly_many_requests_waiting() -> None:
    connection = Connection(at_once=True)
    connection.protocol.data_received(request(b"more")[:-1])  # the answer to it is never due
    connection.protocol._give_up()
    connection.protocol.data_received(b"e" + request(b"kept") * MOST_WAITING)
    assert not connection.wire.is_closing()
    connection.protocol.data_received(request(b"kept"))
    assert connection.wire.is_closing()
    connection.protocol.connection_lost(None)
    await connection.rest()


async def test_who_leaves_is_missed_by_the_request_that_runs_though_others_wait_behind_it() -> None:
    left = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with connected(app) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await writer.drain()
        await asyncio.sleep(0)
        writer.close()
        await asyncio.wait_for(left.wait(), PATIENCE_SECONDS)


class Slow(Wire):
    """To a caller who takes as much of what is unsent as the test says, each time somebody looks."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.unsent, self.takes, self.aborted = 1_000, takes, False

    def get_write_buffer_size(self) -> int:
        self.unsent = max(0, self.unsent - self.takes)
        if not self.unsent:
            self.end.set()
        return self.unsent

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
        self.end.set()


@pytest.mark.parametrize(("takes", "aborted"), [(0, True), (100, False)], ids=["nothing", "some"])
async def test_who_takes_nothing_of_an_answers_end_loses_it_and_who_takes_some_gets_all(
    takes: int, aborted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "LINGER_SECONDS", 0.001)
    wire = Slow(takes)
    HeadWaits(wire).close()
    await asyncio.wait_for(wire.end.wait(), PATIENCE_SECONDS)
    assert wire.closed
    assert wire.aborted is aborted
