"""What is still to be done for a request that is answered: nobody waits for it, so it is done when nothing else is."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from app.errors import Domain

log = logging.getLogger(__name__)

LATEST_SECONDS = 0.005
"""Nothing waits here for longer, unless the event loop is held up."""


class Afterwards:
    """Work of one event loop, in its order: for whoever has to wait for something anyway, or for a timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_failure: Callable[[], object] = lambda: None) -> None:
        """`on_failure` is told of work that raised, which stops no other."""
        self._loop = loop
        self._on_failure = on_failure
        self._works: deque[Callable[[], object]] = deque()
        self._timed = False

    def add(self, work: Callable[[], object]) -> None:
        """Do this later, and after all that was added before."""
        self._works.append(work)
        if not self._timed:
            self._timed = True
            self._loop.call_later(LATEST_SECONDS, self._due)

    def run(self) -> None:
        """Do all of it now."""
        works = self._works
        while works:
            try:
                works.popleft()()
            except Exception:
                self._on_failure()
                log.exception("settling failed", extra={"fields": {"domain": Domain.US.value}})

    def _due(self) -> None:
        self._timed = False
        self.run()
