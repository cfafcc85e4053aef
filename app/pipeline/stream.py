"""Step: pass a stream through, metering beside it, and end it in the way of its API whatever happens upstream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from app.pipeline.attempt import OpenStream
from app.upstream import sse
from app.upstream.response import UpstreamError

if TYPE_CHECKING:
    from app.pipeline.messages import Write
    from app.pipeline.pay import Payment

log = logging.getLogger(__name__)

AFTER_END_SECONDS = 1.0
"""OpenAI closes a stream right after its last event; waiting for that keeps the connection usable."""
AHEAD_BYTES = 128
"""A stream's next slice is reserved so much before the last one is used up: OpenAI writes on while we read."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended: `error_code` is None for one that came to its end, or that its reader left."""

    error_code: str | None
    left_early: bool
    first_token_at: float | None
    """`time.perf_counter` at the first token."""
    cut: bool = False
    """This service ended the answer, in order."""


class MeteredStream:
    """A stream on its way to the caller. `on_end` is called exactly once, even when nothing was ever read."""

    _passes_all = True
    """Every event that is for the caller passes as it came."""

    def __init__(
        self,
        stream: OpenStream,
        *,
        deadline: float,
        heartbeat_seconds: float,
        on_end: Callable[[StreamEnd], None],
        payment: Payment | None = None,
    ) -> None:
        """`deadline` is a time of the running loop's clock; comments are sent each `heartbeat_seconds` of silence.

        `payment` is extended as the answer grows; None for one that is paid for as a whole.
        """
        self._stream = stream
        self._response = stream.response
        self._meter = stream.meter
        self._deadline = deadline
        self._heartbeat_seconds = heartbeat_seconds
        self._on_end: Callable[[StreamEnd], None] | None = on_end
        self._payment = payment
        self._paid_bytes = payment.covered_bytes - AHEAD_BYTES if payment is not None else float("inf")
        """Of output; beyond it more is to be reserved."""
        self._farewell = b""
        """Events that end the answer in order, where the money ended."""
        self._clock = asyncio.get_running_loop().time
        self._error_code: str | None = None
        self._finished = False
        self._ended_here = False
        """The answer was ended before OpenAI ended it."""
        self._unfinished = stream.splitter.unfinished
        self._seen = stream.held
        """Events that are metered and not passed on yet."""
        self._over = False
        self._closed_by: float | None = None
        """When OpenAI is no longer waited for, once its last event is there."""
        self._look_at = 0.0
        """When to look again, where nothing comes."""
        self._paying: asyncio.Task[None] | None = None
        """The next slice is being asked for; nothing is read meanwhile."""
        self._write: Write | None = None
        self._flowing: asyncio.Future[None] | None = None

    def __aiter__(self) -> MeteredStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            while True:
                found = self.step()
                if isinstance(found, bytes):
                    return found
                await found
        except BaseException:
            # The end, or the reader was cancelled while waiting: either way nothing more is read from upstream.
            self._end()
            raise

    @property
    def complete(self) -> bool:
        """Whether the answer's last event has been passed on: clients leave there, and do not read to the very end."""
        return (self._meter.ended or self._ended_here) and not self._seen and not self._farewell

    async def aclose(self) -> None:
        """Close the upstream connection at once and account what arrived. May be called twice."""
        self.close()

    def close(self) -> None:
        """The same, which needs no waiting."""
        self._over = True
        self.still()
        self._end()

    def _end(self) -> None:
        if self._finished:
            self._response.release()
        else:
            self._response.close()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            left_early = not self._meter.ended and not self._ended_here and self._error_code is None
            code = self._error_code or self._meter.error_code
            on_end(StreamEnd(code, left_early, self._stream.first_token_at, cut=self._ended_here))

    def step(self) -> bytes | asyncio.Future[None]:
        """The next bytes for the caller, never none, or what to wait for; raises StopAsyncIteration after the last.

        A stream has thousands of steps, so a step is one call and not a chain of coroutines. Who takes steps calls
        `close` after the last. Giving a wait up ends nothing: somebody else may take the next step.
        """
        found = self._next()
        if found is not None:
            return found
        return self._paying or self._response.arrival(self._look_at)

    async def flow(self, write: Write) -> None:
        """Write what comes inside the call that brings it, with no task and no wake-up between.

        It returns when `write` says that its reader is behind, when there is something else to wait for, and at the
        end: who calls it reads on, and may call it again.
        """
        self._write = write
        self._flowing = flowing = asyncio.get_running_loop().create_future()
        self._response.listen(self._flow_on, self._take_text if self._passes_all else None)
        try:
            self._flow_on()
            await flowing
        finally:
            self.still()

    def still(self) -> None:
        """Stop flowing: whoever lets it flow reads on."""
        flowing, self._flowing = self._flowing, None
        if flowing is not None:
            self._write = None
            self._response.listen(None)
            if not flowing.done():
                flowing.set_result(None)

    def _flow_on(self) -> None:
        write, flowing, response, meter = self._write, self._flowing, self._response, self._meter
        if write is None or flowing is None:
            return
        try:
            while (found := self._next()) is not None:
                if not write(found, b""):
                    self.still()
                    return
                if response.idle() and not meter.ended and meter.output_bytes <= self._paid_bytes:
                    break  # another look would find nothing to do before OpenAI says more
            if self._paying is None:
                response.wake_at(self._look_at)
                return
        except StopAsyncIteration:
            pass
        except BaseException as error:
            flowing.set_exception(error)
        self.still()

    def _take_text(self, piece: bytes, chunk: bytes) -> bool:
        """Write a piece that came while the stream flows, if it is more text and nothing else is to be done."""
        write, flowing, meter, now = self._write, self._flowing, self._meter, self._clock()
        if now >= self._deadline or meter.ended or self._unfinished or not meter.more(piece):
            return False
        assert write is not None
        assert flowing is not None
        look_at = now + self._heartbeat_seconds
        self._response.by = look_at if look_at < self._deadline else self._deadline
        try:
            if not write(piece, chunk):
                self.still()
            elif meter.output_bytes > self._paid_bytes:
                self._flow_on()
        except BaseException as error:
            flowing.set_exception(error)
            self.still()
        return True

    def _next(self) -> bytes | None:
        """The next bytes for the caller, None when there are none yet; raises StopAsyncIteration after the last."""
        if self._over:
            raise StopAsyncIteration
        try:
            while True:
                if self._seen and (passed := self._pass_seen()):
                    return passed
                piece = self._next_piece()
                if piece is None:
                    return sse.HEARTBEAT if self._response.silent() else None
                if not piece:
                    break
                if self._passes_all and not self._unfinished and self._meter.more(piece):
                    return piece
                event = None if self._unfinished else sse.plain(piece)
                if event is None:
                    self._see(piece)
                    continue
                passed = self._stream.note(piece, *event)
                if passed and self._passes_all:
                    return passed
                self._seen = [passed] if passed else []
        except (TimeoutError, UpstreamError, ValueError, TypeError, AttributeError) as error:
            return self._broken(error)
        return self._finish()

    def _broken(self, error: Exception) -> bytes:
        """What is said when no more can be read; raises StopAsyncIteration when nothing is missing."""
        if isinstance(error, TimeoutError):
            self._over = True
            return self._fail("upstream_timeout", "The stream took longer than this service allows and was ended.")
        if isinstance(error, UpstreamError):
            log.debug("stream cut by upstream")
            return self._finish()
        # What arrives is not this API's: passing on more of it would break the caller's parser.
        log.warning("malformed event from upstream: %s", type(error).__name__)
        self._over = True
        passed = self._pass_seen()
        return passed + self._fail("upstream_invalid_response", "OpenAI's stream makes no sense; try again.")

    def _finish(self) -> bytes:
        """What is said at the end of what OpenAI sent; raises StopAsyncIteration when nothing is missing."""
        self._over = self._finished = True
        return self._last_words()

    def _last_words(self) -> bytes:
        if self._farewell:
            return self._farewell
        if self._meter.ended or self._ended_here:
            raise StopAsyncIteration
        # An unfinished event is dropped, so that this one is read as what it is.
        return self._fail("upstream_incomplete", "OpenAI's stream was cut before its end; the answer is not complete.")

    def _paid_on(self) -> bool:
        """Whether the next slice could be reserved from what is at hand."""
        payment = self._payment
        if payment is not None and not self._meter.ended and not self._ended_here:
            if not payment.extend(self._meter.output_bytes):
                return False
            self._paid_bytes = payment.covered_bytes - AHEAD_BYTES
        return True

    async def _pay_on(self) -> None:
        """Ask the ledger for the next slice; where the money ends, end the answer in order."""
        meter, payment = self._meter, self._payment
        assert payment is not None
        if await payment.extend_later(meter.output_bytes):
            self._paid_bytes = payment.covered_bytes - AHEAD_BYTES
            return
        self._ended_here = True
        self._response.close()
        self._farewell = b"".join(
            sse.write(b"[DONE]" if data is None else orjson.dumps(data), name)
            for name, data in meter.cut_events("budget", payment.usage_so_far(meter.output_bytes))
        )

    def _pass_seen(self) -> bytes:
        events = self._seen
        if not events:
            return b""
        self._seen = []
        return self._pass(events)

    def _see(self, piece: bytes) -> None:
        stream, seen = self._stream, self._seen
        # Not a comprehension: what came before nonsense is passed on.
        for raw in stream.splitter.feed(piece):
            seen.append(stream.see(raw))

    def _next_piece(self) -> bytes | None:
        """The next bytes of OpenAI, b"" at the end, None when there are none yet; raises TimeoutError."""
        meter = self._meter
        if meter.output_bytes > self._paid_bytes and not self._paid_on():
            if self._paying is None or self._paying.done():
                self._paying = asyncio.ensure_future(self._pay_on())
            return None
        self._paying = None
        if self._ended_here:
            return b""
        if meter.ended:
            return self._after_end()
        stream, deadline, now = self._stream, self._deadline, self._clock()
        if stream.first_token_at is None and stream.first_token_by is not None:
            deadline = min(deadline, stream.first_token_by)
        if now >= deadline:  # however much is there to be read
            raise TimeoutError
        look_at = now + self._heartbeat_seconds
        self._look_at = look_at if look_at < deadline else deadline
        return self._response.take()

    def _after_end(self) -> bytes | None:
        now = self._clock()
        self._closed_by = self._closed_by or now + AFTER_END_SECONDS
        try:
            piece = self._response.take()
        except UpstreamError:
            piece = b""
        if piece is not None:
            return piece
        if now < self._closed_by:
            self._look_at = self._closed_by
            return None
        self._response.close()
        return b""

    def _pass(self, events: list[bytes]) -> bytes:
        """What of the metered events goes on to the caller."""
        return events[0] if len(events) == 1 else b"".join(events)

    def _fail(self, code: str, message: str) -> bytes:
        self._error_code = code
        return self._error_event(code, message)

    def _error_event(self, code: str, message: str) -> bytes:
        name, data = self._meter.error_event(code, message)
        return sse.write(orjson.dumps(data), name)
