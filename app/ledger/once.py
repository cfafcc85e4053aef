"""Work that many wait for at the same moment, done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class Once:
    """Runs at most one piece of work for each key; whoever comes meanwhile waits for that one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: dict[Hashable, asyncio.Task[None]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._running

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work of a key, begun now if it is not running; raises what it raises, to all who wait."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work(), name=self._name)
            task.add_done_callback(lambda task: self._ended(key, task))
        # Shielded: whoever began may leave while others wait.
        await asyncio.shield(task)

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved here as well, for when everyone who waited has gone
