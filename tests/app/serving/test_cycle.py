"""A small request that was read whole: its answer, and what becomes of its work when its caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.serving.cycle import Cycle
from app.serving.exchange import chunk_writer
from tests.app.serving.test_protocol import Connection, request, whole


class Served(Connection):
    """A connection whose small requests are answered by a function of the test's."""

    def __init__(self, serve: Callable[[Cycle], Awaitable[None]]) -> None:
        super().__init__(at_once=True)
        self.protocol._serve = serve

    async def asked(self) -> bytes:
        """What is written for a request that has to be answered."""
        await self.feed(request(b"another"))
        return b"".join(self.wire.writes)


async def test_a_header_is_refused_for_the_same_characters_as_by_uvicorn() -> None:
    async def taken(value: str, *, at_once: bool) -> bool:
        async def serve(cycle: Cycle) -> None:
            await cycle.send(200, [("x", value)], b"body")

        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            headers = [(b"x", value.encode("latin-1"))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"body"})

        connection = Served(serve) if at_once else Connection(at_once=False)
        if not at_once:
            connection.protocol.app = app
        await connection.feed(request(b"another"))
        said = b"".join(connection.wire.writes)
        assert (b"x: " + value.encode("latin-1") in said) is said.startswith(b"HTTP/1.1 200")
        return said.startswith(b"HTTP/1.1 200")

    ways = [[await taken(f"a{chr(code)}b", at_once=way) for code in range(256)] for way in (True, False)]
    assert ways[0] == ways[1]
    assert ways[0].count(False) == 32  # all of the first 32 but the tab, and DEL


@pytest.mark.parametrize("line", ["a\r\nset-cookie: x", "a\nb", "a\rb", "a\0b"])
async def test_an_answer_whose_header_would_be_two_is_500_and_the_last(line: str) -> None:
    async def serve(cycle: Cycle) -> None:
        await cycle.send(200, [("x", line)], b"never seen")

    connection = Served(serve)
    said = await connection.asked()
    assert said.startswith(b"HTTP/1.1 500")
    assert b"set-cookie" not in said
    assert said.endswith(b"connection: close\r\n\r\nInternal Server Error")
    assert connection.wire.closed
    assert not connection.state.tasks


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def leaves_off(cycle: Cycle) -> None:
        await cycle.begin(200, [])
        await cycle.put(b"half")

    async def fails(cycle: Cycle) -> None:
        await leaves_off(cycle)
        raise ZeroDivisionError

    for serve in (leaves_off, fails):
        connection = Served(serve)
        said = await connection.asked()
        assert said.endswith(b"4\r\nhalf\r\n")
        assert connection.wire.closed
        assert not connection.state.tasks


async def test_an_answer_in_pieces_is_chunked_and_the_connection_goes_on() -> None:
    async def serve(cycle: Cycle) -> None:
        await cycle.begin(200, [("x", "y")])
        await cycle.put(b"first")
        await cycle.put(b"")
        write = cycle.writer()
        assert write(b"0123456789abcdef", b"")
        assert write(b"", b"")
        await cycle.end()

    connection = Served(serve)
    said = await connection.asked()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[1:] == [b"date: today", b"server: us", b"x: y", b"transfer-encoding: chunked"]
    assert body == b"5\r\nfirst\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert (await connection.asked()).count(said) == 2
    assert connection.state.total_requests == 2


async def test_a_reader_who_is_slow_holds_up_the_pieces_and_one_who_leaves_does_not() -> None:
    put: list[int] = []

    async def serve(cycle: Cycle) -> None:
        await cycle.begin(200, [])
        for number in range(3):
            assert not cycle.writer()(b"", b"") or number
            await cycle.put(b"piece")
            put.append(number)
        await cycle.end()

    for leaves in (False, True):
        put.clear()
        connection = Served(serve)
        connection.protocol.data_received(request(b"another"))
        connection.protocol.pause_writing()
        for _ in range(5):
            await asyncio.sleep(0)
        assert put == []
        if leaves:
            connection.protocol.connection_lost(None)
        else:
            connection.protocol.resume_writing()
        await connection.rest()
        assert put == [0, 1, 2]
        assert (b"piece" in b"".join(connection.wire.writes)) is not leaves
        assert not connection.state.tasks


@pytest.mark.parametrize("others_wait", [True, False])
@pytest.mark.parametrize("behind", [b"", request(b"next")])
@pytest.mark.parametrize("before", [True, False])
async def test_work_ends_at_once_when_its_caller_leaves_unless_others_wait_for_it(
    others_wait: bool, behind: bytes, before: bool
) -> None:
    ended: list[str] = []
    begin, finish = asyncio.Event(), asyncio.Event()

    async def serve(cycle: Cycle) -> None:
        await begin.wait()
        with cycle.until_left(lambda: not others_wait):
            await finish.wait()
            ended.append("work")
        await cycle.send(200, [], b"")
        ended.append("end")

    connection = Served(serve)
    connection.protocol.data_received(request(b"another") + behind)
    for leaves in (before, not before):
        if leaves:
            connection.protocol.connection_lost(None)
        begin.set()
        for _ in range(5):
            await asyncio.sleep(0)
    assert ended == ([] if others_wait else ["end"])
    finish.set()
    await connection.rest()
    assert ended == (["work", "end"] if others_wait else ["end"])
    assert connection.wire.writes == []


async def test_a_task_that_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    seen: list[bool] = []

    async def serve(cycle: Cycle) -> None:
        try:
            with cycle.until_left(lambda: True):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(True)
            raise

    connection = Served(serve)
    connection.protocol.data_received(request(b"another"))
    await asyncio.sleep(0)
    [task] = connection.state.tasks
    task.cancel()
    await connection.rest()
    assert seen == [True]
    assert b"".join(connection.wire.writes).startswith(b"HTTP/1.1 500")


async def test_a_request_leaves_nothing_behind(garbage: Callable[[], list[str]]) -> None:
    async def serve(cycle: Cycle) -> None:
        with cycle.until_left(lambda: True):
            await asyncio.sleep(0)
        await cycle.send(200, [], b"")

    connection = Served(serve)
    for _ in range(3):
        await connection.asked()
    connection.protocol.data_received(request(b"another"))
    await asyncio.sleep(0)
    connection.protocol.connection_lost(None)
    await connection.rest()
    assert garbage() == []
    assert not hasattr(connection.protocol.cycle, "body")


async def test_a_piece_written_without_waiting_is_as_one_that_is_sent() -> None:
    went: list[bool] = []

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        assert chunk_writer(send) is None, "nothing has begun"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        write = chunk_writer(send)
        assert write is not None
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        went.append(write(b"two", b""))
        connection.protocol.pause_writing()
        went.append(write(b"three", b""))
        connection.protocol.resume_writing()
        await send({"type": "http.response.body", "body": b"four", "more_body": True})
        connection.protocol.connection_lost(None)
        went.append(write(b"five", b""))

    connection = Connection(at_once=False)
    connection.protocol.app = streams
    await connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert went == [True, False, False]
    body = b"".join(connection.wire.writes).partition(b"\r\n\r\n")[2]
    assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n4\r\nfour\r\n"


async def test_an_answer_whose_length_is_said_or_whose_sender_is_wrapped_is_only_sent() -> None:
    found: list[object] = []

    async def says(scope: Scope, receive: Receive, send: Send) -> None:
        await whole(scope, receive, send)
        found.append(chunk_writer(send))

        async def wrapped(message: Any) -> None:
            await send(message)

        found.append(chunk_writer(wrapped))

    connection = Connection(at_once=False)
    connection.protocol.app = says
    await connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert found == [None, None]
