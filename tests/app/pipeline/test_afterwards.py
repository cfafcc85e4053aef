"""Work that nobody waits for: done in its order, in time, and each whatever became of the others."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from app.pipeline.afterwards import Afterwards
from tests.patience import PATIENCE_SECONDS


async def test_what_is_put_off_is_done_by_itself_and_in_its_order() -> None:
    done: list[int] = []
    last = asyncio.Event()
    afterwards = Afterwards(asyncio.get_running_loop())
    for number in range(3):
        afterwards.add(partial(done.append, number))
    afterwards.add(last.set)
    assert done == []
    async with asyncio.timeout(PATIENCE_SECONDS):
        await last.wait()
    assert done == [0, 1, 2]
    last.clear()
    afterwards.add(last.set)  # once more, after the timer
    async with asyncio.timeout(PATIENCE_SECONDS):
        await last.wait()


async def test_what_fails_is_told_and_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    failures: list[None] = []
    afterwards = Afterwards(asyncio.get_running_loop(), lambda: failures.append(None))
    afterwards.add(lambda: 1 // 0)
    afterwards.add(partial(done.append, "second"))
    afterwards.add(partial(afterwards.add, partial(done.append, "added by another")))
    afterwards.run()
    assert done == ["second", "added by another"]
    assert len(failures) == 1
    assert "settling failed" in caplog.text
    afterwards.run()
    assert len(done) == 2, "nothing is done twice"
