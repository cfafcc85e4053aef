"""Ctrl-C, twice: the first asks for an orderly end, the second for one at once."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(Exception):
    """The awaited work was given up because of a signal."""


class Interrupts:
    """Counts the signals that ask a run to end. Use it as a context manager inside a running loop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.at_once: Callable[[], None] = lambda: None
        """Called at the second signal, from the loop."""

    def __enter__(self) -> "Interrupts":
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _caught(self) -> None:
        if not self.first.is_set():
            self.first.set()
        else:
            self.second.set()
            self.at_once()

    async def unless(self, event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; InterruptedRunError, with the work cancelled and over, if the event comes first."""
        working = asyncio.create_task(work)
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if not working.done():
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working
        if working.cancelled():
            raise InterruptedRunError
        return working.result()
