"""A stream on its way to the caller whose call it is, for as long as nobody else hears it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from app.cache.flight import Reader

if TYPE_CHECKING:
    from app.cache.flight import Flight
    from app.pipeline.messages import Write
    from app.pipeline.stream import MeteredStream


class Lead:
    """Reads a flight's stream without a task and a wake-up between it and its caller: a `ByteStream`.

    What passes is collected for those who join, and to be kept. Once somebody joins, a task reads the stream for all of
    them, so that none waits for another, and this caller is one reader like others.
    """

    def __init__(
        self,
        flight: Flight,
        body: MeteredStream,
        *,
        later: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_end: Callable[[bool], None],
    ) -> None:
        """`later` begins a task; `on_end` is called once, with whether the stream came to its end."""
        self._flight = flight
        self._body = body
        self._later = later
        self._on_end: Callable[[bool], None] | None = on_end
        self._reader: Reader | None = None
        self._here = False
        """The caller has taken the stream, and not left it."""
        self._taken = False
        self._waits = False
        self._shared = False
        self._pumped = False

    def take(self) -> Lead:
        """The stream for its caller, once."""
        self._here = self._taken = True
        if self._pumped:
            self._reader = Reader(self._flight)
        return self

    def share(self) -> None:
        """Somebody else hears the stream from now on."""
        self._shared = True
        # Whoever waits for the next piece hands over when it is here: nothing is to be read before.
        if not self._waits:
            self._hand_over()

    def leave(self) -> None:
        """Nobody hears the stream any more."""
        if not self._pumped:
            self._end(whole=self._body.complete)

    def __aiter__(self) -> Lead:
        return self

    async def __anext__(self) -> bytes:
        try:
            while self._reader is None:
                if not self._here:
                    raise StopAsyncIteration
                found = self._body.step()
                if isinstance(found, bytes):
                    self._flight.relay.pass_on(found)
                    return found
                self._waits = True
                try:
                    await found
                finally:
                    self._waits = False
                if self._shared:
                    self._hand_over()
        except StopAsyncIteration:
            self._end(whole=True)
            raise
        except BaseException:
            # The caller was cancelled while it waited; whoever else hears the stream goes on doing so.
            await self.aclose()
            raise
        return await anext(self._reader)

    async def flow(self, write: Write) -> None:
        """As a MeteredStream's, until somebody else hears it."""
        if self._reader is not None or not self._here:
            return
        pass_on = self._flight.relay.pass_on

        def both(piece: bytes, chunk: bytes) -> bool:
            pass_on(piece)
            return write(piece, chunk)

        await self._body.flow(both)

    async def aclose(self) -> None:
        """As a reader's: the last who leaves ends the stream. May be called twice."""
        if not self._here:
            return
        self._here = False
        if self._reader is not None:
            await self._reader.aclose()
            return
        self._flight.leave()
        self._hand_over()

    def _hand_over(self) -> None:
        """From now on a task reads the stream for everybody."""
        if self._pumped or self._on_end is None:
            return
        self._pumped = True
        self._body.still()
        if self._here:
            self._reader = Reader(self._flight, at_end=True)
        self._flight.task = task = self._later(self._pump())
        # Not in the task itself: one that is cancelled before it begins does nothing at all.
        task.add_done_callback(self._pumped_out)

    def _pumped_out(self, task: asyncio.Task[None]) -> None:
        self._end(whole=self._body.complete or not (task.cancelled() or task.exception()))

    async def _pump(self) -> None:
        relay = self._flight.relay
        async for piece in self._body:
            relay.add(piece)
            await relay.room()

    def _end(self, *, whole: bool) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            if self._taken:
                self._flight.lead = None  # a cycle, for the collector to find, if it stayed
            self._body.close()
            on_end(whole)
