"""Who gets the next request: turns, health and leaving, as a target group has them."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from local.targets import State
from tests.local.backends import BALANCING, CHECK, balancing, name_of, running, until

pytestmark = pytest.mark.process


async def test_the_target_with_the_fewest_requests_in_progress_gets_the_next() -> None:
    release = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        if request.path == "/slow":
            await release.wait()
        return await name_of(request)

    async with running(slow) as a, running(slow) as b, balancing(a, b) as (_, url), aiohttp.ClientSession() as client:
        held = asyncio.create_task(client.get(f"{url}/slow"))
        await until(lambda: len(a.requests) + len(b.requests) == 1)
        free = b if a.requests else a
        for _ in range(4):
            async with client.get(url) as answer:
                assert await answer.text() == str(free.port)
        release.set()
        (await held).close()


async def test_idle_targets_take_turns() -> None:
    async with (
        running(name_of) as a,
        running(name_of) as b,
        balancing(a, b) as (_, url),
        aiohttp.ClientSession() as client,
    ):
        for _ in range(6):
            (await client.get(url)).close()
        assert (len(a.requests), len(b.requests)) == (3, 3)


async def test_no_target_is_503() -> None:
    async with balancing() as (_, url), aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == 503


async def test_a_target_that_never_passed_a_check_gets_nothing() -> None:
    async with running(name_of) as target:
        target.healthy = False
        async with balancing() as (balancer, url), aiohttp.ClientSession() as client:
            registered = balancer.targets.register("new", "127.0.0.1", target.port)
            async with client.get(url) as answer:
                assert answer.status == 503
            target.healthy = True
            await registered.ready.wait()
            async with client.get(url) as answer:
                assert answer.status == 200


async def test_thresholds_move_a_target_out_and_in_again() -> None:
    async with (
        running(name_of) as a,
        running(name_of) as b,
        balancing(a, b) as (balancer, url),
        aiohttp.ClientSession() as client,
    ):
        first, _ = balancer.targets
        a.healthy = False
        await until(lambda: first.state is State.UNHEALTHY)
        for _ in range(4):
            (await client.get(url)).close()
        assert (len(a.requests), len(b.requests)) == (0, 4)
        a.healthy = True
        await until(lambda: first.state is State.HEALTHY)


async def test_when_every_target_turned_unhealthy_all_are_used_as_alb_does() -> None:
    async with running(name_of) as target, balancing(target) as (balancer, url), aiohttp.ClientSession() as client:
        (only,) = balancer.targets
        target.healthy = False
        await until(lambda: only.state is State.UNHEALTHY)
        async with client.get(url) as answer:
            assert answer.status == 200


async def test_a_target_that_leaves_finishes_what_it_has_and_gets_nothing_new() -> None:
    release = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one ")
        await release.wait()
        await response.write(b"two")
        return response

    async with running(slow) as leaving, balancing(leaving) as (balancer, url), aiohttp.ClientSession() as client:
        async with client.get(url) as answer:
            assert await answer.content.readany() == b"one "
            left = asyncio.create_task(balancer.targets.deregister("t0"))
            await asyncio.sleep(0)
            async with client.get(url) as refused:
                assert refused.status == 503
            assert not left.done()
            release.set()
            assert await answer.read() == b"two"
        assert await left == 0
        assert list(balancer.targets) == []


async def test_the_end_of_the_deregistration_delay_cuts_what_is_left_as_alb_does() -> None:
    async def forever(_: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    settings = replace(BALANCING, deregistration_delay_seconds=0.1)
    async with (
        running(forever) as target,
        balancing(target, settings=settings) as (balancer, url),
        aiohttp.ClientSession() as client,
    ):
        asking = asyncio.create_task(client.post(url))  # a GET would be sent again
        await until(lambda: bool(target.requests))
        assert await balancer.targets.deregister("t0") == 1
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asking
        await target.cancelled.wait()


async def test_a_cut_answer_does_not_look_whole() -> None:
    async def begun(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one ")
        await asyncio.Event().wait()
        return response

    settings = replace(BALANCING, deregistration_delay_seconds=0.1)
    async with (
        running(begun) as target,
        balancing(target, settings=settings) as (balancer, url),
        aiohttp.ClientSession() as client,
        client.get(url) as answer,
    ):
        assert await answer.content.readany() == b"one "
        assert await balancer.targets.deregister("t0") == 1
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


@pytest.mark.parametrize(
    ("matcher", "status", "passes"),
    [("200", 200, True), ("200", 204, False), ("200,302", 302, True), ("200-299", 299, True)],
)
def test_a_matcher_is_a_list_of_codes_and_ranges(matcher: str, status: int, passes: bool) -> None:
    assert replace(CHECK, matcher=matcher).passes(status) is passes
