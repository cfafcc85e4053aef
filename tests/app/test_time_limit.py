from __future__ import annotations

import asyncio

import pytest

from app.time_limit import until, within


async def test_a_block_that_takes_too_long_is_left_by_a_timeout_and_the_task_goes_on() -> None:
    with pytest.raises(TimeoutError), within(0.01):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_moment_that_has_passed_ends_the_first_wait() -> None:
    with pytest.raises(TimeoutError), until(0):
        await asyncio.Event().wait()


async def test_a_block_in_time_is_left_alone_and_its_errors_stay_errors() -> None:
    with within(0.01):
        done = True
    assert done
    await asyncio.sleep(0.02)  # the limit is gone with its block
    with pytest.raises(ZeroDivisionError), within(10):
        raise ZeroDivisionError


async def test_a_cancellation_from_elsewhere_is_no_timeout() -> None:
    async def work() -> None:
        with within(10):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_beside_the_timeout_wins() -> None:
    async def work() -> None:
        with until(0):
            loop.call_soon(task.cancel)
            await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    task = loop.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_of_two_limits_the_one_that_passed_speaks() -> None:
    async def inner() -> str:
        try:
            with within(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "inner"
        return "nobody"

    with within(10):
        assert await inner() == "inner"
    with pytest.raises(TimeoutError), until(0), within(10):
        await asyncio.Event().wait()


async def test_each_of_many_blocks_ends_at_its_own_time() -> None:
    loop = asyncio.get_running_loop()
    began, ended = loop.time(), []

    async def work(seconds: float) -> None:
        try:
            with within(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(seconds)
            assert loop.time() - began >= seconds - 0.001

    with within(60):  # the timer is set for this one first
        await asyncio.gather(*(work(seconds) for seconds in (0.03, 0.01, 0.02)))
    assert ended == [0.01, 0.02, 0.03]


def test_loops_one_after_the_other_have_each_their_own_timer() -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError), within(0.01):
            await asyncio.Event().wait()

    for _ in range(2):
        asyncio.run(work())
