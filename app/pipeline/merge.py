"""Step: small embedding and moderation calls of different requests become one call to OpenAI.

A call alone goes out at once, as it came. Calls of one kind that come in the same turn of the event loop go together.
While one of the kind is in flight the next are gathered: until there are MOST_TEXTS texts, until nothing of the kind is
in flight any more, and for WAIT_SECONDS at the longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.observability.metrics import MERGED_CALLS, MERGED_REQUESTS
from app.pipeline.merged_parts import joined, kind_of, split_answer, text_count

if TYPE_CHECKING:
    from app.observability.metrics import Metrics
    from app.pipeline.answer import Answer
    from app.pipeline.choose import Plan

WAIT_SECONDS = 0.010
MOST_TEXTS = 20
"""In one merged call. OpenAI takes 2,048 items and 300,000 tokens; a text that is merged has 8,192 bytes at most."""
_ABOUT_THE_TEXTS = frozenset({400, 404, 413, 422})
"""Refusals for which one text of a call may be to blame: each request of it is then asked alone."""

Send = Callable[["Plan"], Awaitable["Answer"]]
"""Asks OpenAI for one plan: the answer, success or error; raises ApiError."""


@dataclass(eq=False, slots=True)
class Part:
    """One request's part of a call."""

    plan: Plan
    kind: Hashable
    texts: int
    made: float
    """Loop time."""
    answer: asyncio.Future[Answer]
    sent_at: float | None = None
    """Loop time; None while nothing of it went to OpenAI, so that nothing is to be paid."""
    requests: int = 1
    """Requests in the call that answered it."""

    @property
    def waited_ms(self) -> float:
        """What merging cost it."""
        return 0.0 if self.sent_at is None else (self.sent_at - self.made) * 1000


@dataclass(eq=False, slots=True)
class _Kind:
    """The calls that may be merged with each other."""

    waiting: list[Part] = field(default_factory=list)
    texts: int = 0
    timer: asyncio.Handle | None = None
    in_flight: int = 0


class Merger:
    """Merges the calls of one process."""

    def __init__(self, send: Send, metrics: Metrics) -> None:
        self._send = send
        self._metrics = metrics
        self._kinds: dict[Hashable, _Kind] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def part(self, plan: Plan, tenant: str) -> Part | None:
        """A plan's part of some call to come; None for one that goes alone. Ask for its answer next, without a wait."""
        texts = text_count(plan, MOST_TEXTS)
        if texts is None:
            return None
        loop = asyncio.get_running_loop()
        return Part(plan, kind_of(plan, tenant), texts, loop.time(), loop.create_future())

    async def ask(self, part: Part) -> Answer:
        """The answer to a part, as if it had been asked alone; raises ApiError. Cancelling hurts no other part."""
        self._add(part)
        return await part.answer

    def _add(self, part: Part) -> None:
        kind = self._kinds.get(part.kind)
        if kind is None:
            kind = self._kinds[part.kind] = _Kind()
        if kind.texts + part.texts > MOST_TEXTS:
            self._flush(part.kind, kind)
        kind.waiting.append(part)
        kind.texts += part.texts
        if kind.texts >= MOST_TEXTS:
            self._flush(part.kind, kind)
        elif kind.timer is None:
            loop = asyncio.get_running_loop()
            # With nothing in flight only what comes in this same turn of the loop joins, and nobody waits.
            later = loop.call_later(WAIT_SECONDS, self._flush, part.kind, kind) if kind.in_flight else None
            kind.timer = later or loop.call_soon(self._flush, part.kind, kind)

    def _flush(self, name: Hashable, kind: _Kind) -> None:
        """Send what waits."""
        if kind.timer is not None:
            kind.timer.cancel()
            kind.timer = None
        parts = [part for part in kind.waiting if not part.answer.done()]  # done is: its caller left
        kind.waiting, kind.texts = [], 0
        if parts:
            kind.in_flight += 1
            self._start(self._call(parts), parts).add_done_callback(lambda _: self._ended(name, kind))
        elif not kind.in_flight:
            self._kinds.pop(name, None)

    def _ended(self, name: Hashable, kind: _Kind) -> None:
        kind.in_flight -= 1
        if not kind.in_flight:
            if kind.waiting:
                self._flush(name, kind)
            else:
                self._kinds.pop(name, None)

    def _start(self, work: Awaitable[None], parts: Sequence[Part]) -> asyncio.Task[None]:
        """Do a call's work until it is done, or until nobody waits for any part of it."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def left(answer: asyncio.Future[Answer]) -> None:
            if answer.cancelled() and all(part.answer.done() for part in parts):
                task.cancel()

        for part in parts:
            part.answer.add_done_callback(left)
        return task

    async def _call(self, parts: list[Part]) -> None:
        """Ask OpenAI once for all parts and give each its own."""
        now = asyncio.get_running_loop().time()
        for part in parts:
            part.sent_at, part.requests = now, len(parts)
        if len(parts) == 1:
            await self._alone(parts[0])
            return
        self._metrics.count(MERGED_CALLS)
        self._metrics.count(MERGED_REQUESTS, len(parts))
        plans = [part.plan for part in parts]
        try:
            answer = await self._send(joined(plans))
            if answer.status in _ABOUT_THE_TEXTS:
                await asyncio.gather(*(self._alone(part) for part in parts if not part.answer.done()))
                return
            answers = split_answer(answer, plans)
        except Exception as error:
            for part in parts:
                _fail(part, error)
            return
        for part, own in zip(parts, answers, strict=True):
            if not part.answer.done():
                part.answer.set_result(own)

    async def _alone(self, part: Part) -> None:
        part.requests = 1
        try:
            answer = await self._send(part.plan)
        except Exception as error:
            _fail(part, error)
            return
        if not part.answer.done():
            part.answer.set_result(answer)


def _fail(part: Part, error: Exception) -> None:
    """Tell one caller of an error that others may be told of as well: a raised exception has one traceback."""
    if part.answer.done():
        return
    part.answer.set_exception(error.again() if isinstance(error, ApiError) else error)
