"""Where the time of one request went: the caller's, ours, and OpenAI's before and after its first token."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Phases:
    """Moments of one request, by `time.perf_counter`, noted on its way; `split` makes durations of them."""

    started: float = field(default_factory=time.perf_counter)
    """Its headers are here: what the network, TLS and the balancer took before is not seen by this process."""
    receive_seconds: float | None = None
    """Spent reading the body, so waiting for the caller; None = there was none to read."""
    asked_at: float | None = None
    """The first attempt at OpenAI began."""
    began_at: float | None = None
    """The attempt that was answered, or the last one, began."""
    first_token_at: float | None = None
    answered_at: float | None = None
    """An unstreamed answer was there, or the last attempt had failed."""
    succeeded: bool = False
    """OpenAI took the request: a whole answer is there or a stream has begun."""

    def attempt(self) -> None:
        """An attempt at OpenAI begins."""
        self.began_at = now = time.perf_counter()
        if self.asked_at is None:
            self.asked_at = now

    def asked(self, loop_time: float) -> None:
        """One call that began at that time of the running loop asked for this request and for others: with all its
        attempts it counts as one."""
        since = asyncio.get_running_loop().time() - loop_time
        self.asked_at = self.began_at = time.perf_counter() - since

    def split(self, ended: float, *, stream: bool) -> Split:
        """The durations of a request that ended at `ended`; with the body's they are all of it."""
        asked, began, first = self.asked_at, self.began_at, self.first_token_at
        failed = 0.0
        prompt = generation = whole = None
        until = self.answered_at or ended
        if asked is None or began is None:
            until = asked = 0.0
        elif not self.succeeded:
            failed = until - asked
        else:
            failed = began - asked
            if first is not None:
                prompt, generation = first - began, until - first
            elif stream:
                prompt = until - began
            else:
                whole = until - began
        overhead = ended - self.started - (self.receive_seconds or 0.0) - (until - asked)
        return Split(overhead, failed, prompt, generation, whole)


@dataclass(slots=True)
class Split:
    """Seconds of each phase; None for one that does not exist or cannot be told from another."""

    overhead: float | None = None
    """This service: checks, look-ups, limits, waiting for its own turn, and writing what is left at the end."""
    failed: float | None = None
    """Attempts without success, and the pauses between them."""
    prompt: float | None = None
    """From the beginning of the attempt to its first token, or to the end of a stream that has none."""
    generation: float | None = None
    """From the first token to the end; of a stream it includes the wait for a slow reader."""
    whole: float | None = None
    """Both of an unstreamed answer, where nothing tells them apart."""


NO_SPLIT = Split()
"""Of a request that was no call to a model."""
