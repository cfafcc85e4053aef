"""What a caller's connection sees of an answer: the same bytes, in fewer pieces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from app.serving.protocol import JOINED_BYTES, HeadWaits, Protocol
from tests.patience import PATIENCE_SECONDS


class Wire(asyncio.Transport):
    """Keeps what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        return 0


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
async def connected(app: object) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
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
