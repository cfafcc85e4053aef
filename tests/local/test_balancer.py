"""The local balancer over real sockets: what the recorded attributes promise is what happens."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from tests.local.backends import BALANCING, CHECK, balancing, name_of, running, until
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


async def test_method_path_query_headers_and_body_arrive_unchanged() -> None:
    async def echo(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        return web.Response(
            status=201, body=body, headers={"X-Seen": f"{request.method} {request.raw_path}", "Set-Cookie": "a=b"}
        )

    async with running(echo) as target, balancing(target) as (_, url), aiohttp.ClientSession() as client:
        sent = {"X-Own": "1", "X-Forwarded-For": "192.0.2.7", "Content-Type": "application/json"}
        async with client.put(f"{url}/v1/x%2Fy?q=%20a", data=b"\x00" * 300_000, headers=sent) as answer:
            assert (answer.status, await answer.read()) == (201, b"\x00" * 300_000)
            assert answer.headers["X-Seen"] == "PUT /v1/x%2Fy?q=%20a"
            assert answer.headers["Set-Cookie"] == "a=b"
            assert answer.headers["Content-Length"] == "300000"
        (seen,) = target.requests
        assert seen.headers["X-Own"] == "1"
        assert seen.headers["X-Forwarded-For"] == "192.0.2.7, 127.0.0.1"
        assert seen.headers["X-Forwarded-Proto"] == "http"
        assert seen.headers["X-Forwarded-Port"] == url.rsplit(":", 1)[1]
        assert seen.headers["Host"] == url.removeprefix("http://")
        assert seen.headers["Content-Length"] == "300000"


async def test_head_and_empty_answers_pass() -> None:
    async def nothing(request: web.BaseRequest) -> web.Response:
        return web.Response(status=204) if request.path == "/none" else web.Response(headers={"Content-Length": "42"})

    async with running(nothing) as target, balancing(target) as (_, url), aiohttp.ClientSession() as client:
        async with client.get(f"{url}/none") as answer:
            assert (answer.status, await answer.read()) == (204, b"")
        async with client.head(f"{url}/size") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "42")


async def test_an_answer_streams_while_it_is_made() -> None:
    step = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await step.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with (
        running(stream) as target,
        balancing(target) as (_, url),
        aiohttp.ClientSession() as client,
        client.get(url) as answer,
    ):
        assert await answer.content.readany() == b"data: 1\n\n"
        step.set()
        assert await answer.content.read() == b"data: 2\n\n"


async def test_a_request_body_streams_while_it_is_sent() -> None:
    first_seen, rest = asyncio.Event(), asyncio.Event()

    async def take(request: web.BaseRequest) -> web.Response:
        got = await request.content.readany()
        first_seen.set()
        return web.Response(body=got + await request.content.read())

    async def body() -> AsyncIterator[bytes]:
        yield b"first "
        await rest.wait()
        yield b"rest"

    async with running(take) as target, balancing(target) as (_, url), aiohttp.ClientSession() as client:
        asking = asyncio.create_task(client.post(url, data=body()))
        await first_seen.wait()
        rest.set()
        async with await asking as answer:
            assert await answer.read() == b"first rest"


async def test_a_client_that_leaves_takes_its_request_with_it() -> None:
    async def forever(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await asyncio.Event().wait()
        return response

    async with running(forever) as target, balancing(target) as (balancer, url), aiohttp.ClientSession() as client:
        answer = await client.get(url)
        assert await answer.content.readany() == b"begun"
        answer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await target.cancelled.wait()
        await until(lambda: all(one.outstanding == 0 for one in balancer.targets))


async def test_silence_before_the_answer_is_504() -> None:
    async def silent(_: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    settings = replace(BALANCING, idle_timeout_seconds=0.2)
    async with (
        running(silent) as target,
        balancing(target, settings=settings) as (_, url),
        aiohttp.ClientSession() as client,
        client.post(url, data=b"x") as answer,
    ):
        assert answer.status == 504


async def test_silence_in_the_middle_of_a_stream_cuts_it_visibly() -> None:
    async def stall(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await asyncio.Event().wait()
        return response

    settings = replace(BALANCING, idle_timeout_seconds=0.2)
    async with (
        running(stall) as target,
        balancing(target, settings=settings) as (_, url),
        aiohttp.ClientSession() as client,
        client.get(url) as answer,
    ):
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_a_stream_that_moves_outlives_the_idle_timeout() -> None:
    async def beat(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(8):
            await response.write(b".")
            await asyncio.sleep(0.1)
        return response

    settings = replace(BALANCING, idle_timeout_seconds=0.4)
    async with (
        running(beat) as target,
        balancing(target, settings=settings) as (_, url),
        aiohttp.ClientSession() as client,
        client.get(url) as answer,
    ):
        assert await answer.read() == b"." * 8


async def test_a_client_that_stops_sending_gets_408() -> None:
    async def take(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read())

    settings = replace(BALANCING, idle_timeout_seconds=0.2)
    async with running(take) as target, balancing(target, settings=settings) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_target_that_dies_in_the_middle_of_a_request_gives_502() -> None:
    async def die(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with (
        running(die) as target,
        balancing(target) as (_, url),
        aiohttp.ClientSession() as client,
        client.post(url, data=b"x") as answer,
    ):
        assert answer.status == 502


async def test_a_refused_connection_goes_to_the_next_target() -> None:
    async with running(name_of) as alive, running(name_of) as dead:
        slow_checks = replace(BALANCING, health_check=replace(CHECK, interval_seconds=60.0))
        async with balancing(dead, alive, settings=slow_checks) as (balancer, url), aiohttp.ClientSession() as client:
            gone = next(iter(balancer.targets))
            gone.port = unused_port()
            for _ in range(4):
                async with client.post(url, data=b"x") as answer:
                    assert (answer.status, await answer.text()) == (200, str(alive.port))
            for one in balancer.targets:
                one.port = gone.port
            async with client.post(url, data=b"x") as answer:
                assert answer.status == 502


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def test_a_request_that_a_dying_target_did_not_read_goes_to_the_next() -> None:
    async with running(name_of) as alive, running(name_of) as dying:
        slow_checks = replace(BALANCING, health_check=replace(CHECK, interval_seconds=60.0))
        async with balancing(dying, alive, settings=slow_checks) as (balancer, url), aiohttp.ClientSession() as client:
            with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts in the kernel, reads never
                next(iter(balancer.targets)).port = deaf.getsockname()[1]
                asking = [asyncio.create_task(client.post(url, data=b"x" * 1000)) for _ in range(2)]
                await until(lambda: bool(select.select([deaf], [], [], 0)[0]))
            answers = [await one for one in asking]
            assert [(answer.status, await answer.text()) for answer in answers] == [(200, str(alive.port))] * 2


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async def take(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read())

    async with running(take) as target, balancing(target) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"ok")
        rest = await reader.read()
        assert b"HTTP/1.1 200 OK" in rest
        assert rest.endswith(b"ok")
        writer.close()


async def test_a_connection_older_than_the_client_keep_alive_is_closed_after_its_answer() -> None:
    settings = replace(BALANCING, client_keep_alive_seconds=0.0)
    async with (
        running(name_of) as target,
        balancing(target, settings=settings) as (_, url),
        aiohttp.ClientSession() as client,
        client.get(url) as answer,
    ):
        assert answer.headers["Connection"] == "close"
