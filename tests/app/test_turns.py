from __future__ import annotations

import asyncio

import pytest

from app.turns import in_turns


async def test_a_few_run_at_one_time_and_their_results_and_errors_come_in_order() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if number == 3:
            raise KeyError(number)
        return number

    found = await in_turns(map(work, range(8)), 3)
    assert most == 3
    assert [repr(each) for each in found] == ["0", "1", "2", "KeyError(3)", "4", "5", "6", "7"]


async def test_when_it_is_given_up_none_is_begun_any_more_and_none_is_left_unawaited() -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_turns(map(work, range(8)), 2)
    await asyncio.sleep(0)
    assert begun == [0, 1]
