"""Many waits, a few of them at one time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def in_turns(coroutines: Iterable[Coroutine[Any, Any, Any]], at_once: int) -> list[Any]:
    """Gather with at most so many running; exceptions are results. Given up, it begins no more of them."""
    found: list[Any] = []
    todo = iter(coroutines)

    async def work() -> None:
        for coroutine in todo:  # each is made when its turn comes
            number = len(found)
            found.append(None)
            try:
                found[number] = await coroutine
            except Exception as error:
                found[number] = error

    await asyncio.gather(*(work() for _ in range(at_once)))
    return found
