"""The client of OpenAI against servers that speak HTTP well, badly, slowly and in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from app.upstream.pool import Upstream
from app.upstream.response import HELD_BYTES, BadAnswerError, CutError, Response, UnreachableError, UpstreamError
from tests.app.upstream.scripted import CHUNKED, KEY, Server, ask, read, whole
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


async def test_a_request_is_whole_and_an_answer_comes_with_its_headers() -> None:
    server = Server(whole(b"hello", b"X-Request-Id: req_1", b"Content-Type: Application/JSON; charset=utf-8"))
    async with server.pool() as pool:
        response = await pool.post("/responses", b'{"a":1}', KEY)
        assert (response.status, response.header(b"x-request-id")) == (200, "req_1")
        assert (response.media_type, response.header(b"x-other")) == ("application/json", None)
        assert await read(response) == b"hello"
    [head] = server.heads
    assert head.startswith(b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n" in head
    assert server.bodies == [b'{"a":1}']


async def test_interim_answers_are_passed_over() -> None:
    server = Server(
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", whole(b"x")], whole(b"y")
    )
    async with server.pool() as pool:
        assert await ask(pool) == b"x"
        assert await ask(pool) == b"y"
        assert server.connections == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"], close=True)
    async with server.pool() as pool:
        assert await ask(pool) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"hello")[:-1],
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\nxx\r\n",
        CHUNKED + b"5\r\nhello\r\n-1\r\n",
        CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_cut_and_says_so(answer: bytes) -> None:
    server = Server(answer, close=True)
    async with server.pool() as pool:
        response = await pool.post("/responses", b"{}", KEY)
        with pytest.raises(CutError):
            await read(response)
        response.release()


BAD = [
    b"hello\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\nX: y\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent Length: 1\r\n\r\nx",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
]


@pytest.mark.parametrize("answer", BAD)
async def test_what_is_not_plainly_an_answer_is_refused(answer: bytes) -> None:
    server = Server(answer)
    async with server.pool() as pool:
        with pytest.raises(BadAnswerError):
            await asyncio.wait_for(pool.post("/responses", b"{}", KEY), PATIENCE_SECONDS)
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "endless", [b"X: y\r\n", b"x", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["headers", "one", "interim"]
)
async def test_headers_without_an_end_are_refused(endless: bytes) -> None:
    start = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nX-Long: "
    server = Server([start, *[endless * (8_000 // len(endless))] * 16])
    async with server.pool() as pool:
        with pytest.raises(BadAnswerError):
            await asyncio.wait_for(pool.post("/responses", b"{}", KEY), PATIENCE_SECONDS)


async def test_trailers_without_an_end_are_refused() -> None:
    server = Server([CHUNKED + b"1\r\nx\r\n0\r\n", *[b"X: y\r\n" * 1_000] * 16])
    async with server.pool() as pool:
        response = await pool.post("/responses", b"{}", KEY)
        with pytest.raises(CutError):
            await asyncio.wait_for(read(response), PATIENCE_SECONDS)
        response.close()


async def test_a_server_that_hangs_up_has_not_answered() -> None:
    server = Server(b"", close=True)
    async with server.pool() as pool:
        with pytest.raises(UnreachableError):
            await pool.post("/responses", b"{}", KEY)


async def test_a_long_body_arrives_whole_and_an_early_refusal_stops_it() -> None:
    body = bytes(range(256)) * 20_000
    server = Server(whole(b"x"))
    async with server.pool() as pool:
        assert await ask(pool, body) == b"x"
        assert server.bodies == [body]

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(b"too long", status=b"413 Too Long"))
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    async with Upstream(address, connections=1, tcp_keep_alive_seconds=45) as pool:
        response = await pool.post("/responses", body * 4, KEY)
        assert (response.status, await read(response)) == (413, b"too long")
        assert not pool._free, "what is left of the body must not be read as the next request"
    listening.close()


async def test_a_reader_who_waits_makes_openai_wait() -> None:
    said = 0
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        with contextlib.suppress(ConnectionError):
            while said < 1_000:
                writer.write(piece)
                await writer.drain()
                said += 1
            writer.write(b"0\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(endless, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    async with Upstream(address, connections=1, tcp_keep_alive_seconds=45) as pool:
        response = await pool.post("/responses", b"{}", KEY)
        before = -1
        while said != before:
            before = said
            await asyncio.sleep(0.1)
        assert said < 500, "what the sockets of both sides hold"
        assert response._size < HELD_BYTES + (1 << 19)
        assert len(await read(response)) == 1_000 * 65_536
    listening.close()


async def arrived(response: Response, at: float) -> bytes | None:
    """What arrives by then."""
    while (found := response.take()) is None:
        await response.arrival(at)
        if response.silent():
            return None
    return found


async def test_a_silence_is_told_at_its_moment_and_loses_nothing() -> None:
    server = Server([CHUNKED, b"1\r\nx\r\n"])
    async with server.pool() as pool:
        response = await pool.post("/responses", b"{}", KEY)
        clock = asyncio.get_running_loop().time
        assert await arrived(response, clock() + PATIENCE_SECONDS) == b"x"
        for seconds in (0.02, 0.02, 0.05):  # sooner than the timer that is set already, and later
            by = clock() + seconds
            assert await arrived(response, by) is None
            assert clock() >= by - 0.001
        gone = asyncio.create_task(arrived(response, clock() + PATIENCE_SECONDS))
        await asyncio.sleep(0)
        gone.cancel()
        assert await arrived(response, clock() + 0.02) is None, "a reader who left has not stopped the clock"
        response.close()


def on_uvloop(work: Callable[[], Awaitable[bytes]]) -> bytes:
    async def run() -> bytes:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=6), st.data())
def test_an_answer_is_the_same_however_it_is_cut(pieces: list[bytes], data: st.DataObject) -> None:
    flow = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(flow) - 1), max_size=5)))
    edges = [0, *cuts, len(flow)]

    async def work() -> bytes:
        server = Server([flow[a:b] for a, b in itertools.pairwise(edges)])
        async with server.pool() as pool:
            return await ask(pool)

    assert on_uvloop(work) == b"".join(pieces)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_whatever_break_more_than_their_call(noise: bytes) -> None:
    async def work() -> bytes:
        server = Server(b"HTTP/1.1 " + noise, whole(b"%d" % zlib.crc32(noise)), close=True)
        async with server.pool() as pool:
            with contextlib.suppress(UpstreamError, UnicodeDecodeError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await ask(pool)
            return await ask(pool)

    assert on_uvloop(work) == b"%d" % zlib.crc32(noise)
