"""A time limit around a block that waits: what `asyncio.timeout` does, for a tenth of its CPU time."""

from __future__ import annotations

import asyncio
import math
import weakref
from types import TracebackType


class _Watch:
    """The one timer of a loop for all blocks: it is set for the earliest end there is, and looks when that has come.

    Nearly every block is over long before its time, so nearly none pays for a timer.
    """

    __slots__ = ("__weakref__", "_at", "_timer", "blocks", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.blocks: set[Within] = set()
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, block: Within, at: float) -> None:
        """End a block at a time."""
        self.blocks.add(block)
        if at < self._at:
            self._set(at)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        # By a weak reference: with a loop that is gone its watch goes, and leaves nothing to the garbage collector.
        self._timer = self.loop.call_at(at, _look, weakref.ref(self))

    def look(self) -> None:
        """End the blocks whose time has come."""
        self._at, self._timer = math.inf, None
        now = self.loop.time()
        for block in [block for block in self.blocks if block.at <= now]:
            self.blocks.discard(block)
            block.expire()
        if self.blocks:
            self._set(min(block.at for block in self.blocks))


def _look(of: weakref.ref[_Watch]) -> None:
    watch = of()
    if watch is not None:
        watch.look()


_watch: _Watch | None = None
"""Of the loop that asked last: a process has one."""


class Within:
    """A `with` block of one task; TimeoutError leaves it when it is not over in time."""

    __slots__ = ("_cancelling", "_expired", "_loop", "_task", "_watch", "at")

    def __init__(self, at: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`at` is a time of the running loop's clock. Who knows the loop gives it: to ask for it is a system call."""
        self.at = at
        self._loop = loop

    def __enter__(self) -> None:
        global _watch
        loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a time limit needs a task to stop"
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        watch = _watch
        if watch is None or watch.loop is not loop:
            watch = _watch = _Watch(loop)
        self._watch = watch
        watch.add(self, self.at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.blocks.discard(self)
        # Cancelled by somebody else as well, the task stays cancelled.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """For the timer: the time has come."""
        self._expired = True
        self._task.cancel()


def within(seconds: float) -> Within:
    """A block that may take so many seconds from now."""
    loop = asyncio.get_running_loop()
    return Within(loop.time() + seconds, loop)


def until(at: float, loop: asyncio.AbstractEventLoop | None = None) -> Within:
    """A block that may take until a time of the running loop's clock; who knows the loop gives it, which is cheaper."""
    return Within(at, loop)
