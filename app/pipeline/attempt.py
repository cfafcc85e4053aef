"""One call to OpenAI: its whole answer, or its stream once the answer has begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.errors import ApiError
from app.pipeline.answer import (
    REQUEST_ID,
    Answer,
    answer_of,
    invalid_response,
    passed_headers,
    read_answer,
    without_key,
)
from app.pipeline.meter import StreamMeter, stream_meter
from app.time_limit import until, within
from app.upstream import sse
from app.upstream.response import Response, UnreachableError, UpstreamError

if TYPE_CHECKING:
    from app.pipeline.choose import Plan
    from app.pipeline.long_answers import LongAnswers
    from app.upstream.pool import Upstream


@dataclass(slots=True)
class OpenStream:
    """A stream whose headers have arrived, perhaps with its first events. Whoever holds it closes `response`."""

    response: Response
    key: str
    meter: StreamMeter
    splitter: sse.Splitter = field(default_factory=sse.Splitter)
    held: list[bytes] = field(default_factory=list)
    """Whole events that arrived before the first token, with it: metered, and not yet passed on."""
    first_token_at: float | None = None
    """`time.perf_counter` at the first token."""
    first_token_by: float | None = None
    """Loop time until which it may come; None = any."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """OpenAI's headers for the caller."""
        return passed_headers(self.response.headers)

    @property
    def request_id(self) -> str | None:
        """OpenAI's id of the request."""
        return self.response.header(REQUEST_ID)

    def see(self, raw: bytes) -> bytes:
        """Meter one whole event; the bytes that are for the caller, none when it is hidden."""
        return raw if self.meter.more(raw) else self.note(raw, *sse.read(raw))

    def note(self, raw: bytes, name: str, data: bytes) -> bytes:
        """The same for one that is read already."""
        meter = self.meter
        if not meter.see(name, data):
            return b""
        if self.first_token_at is None and meter.output_bytes:
            self.first_token_at = time.perf_counter()
        return raw if meter.error_code is None else without_key(raw, self.key)

    async def begin(self) -> None:
        """Read up to the first token, or to the end of a stream that has none; raises ApiError 502 on nonsense."""
        try:
            while self.first_token_at is None and not self.meter.ended:
                piece = await self.response.read()
                if not piece:
                    return
                self.held += filter(None, map(self.see, self.splitter.feed(piece)))
        except UpstreamError:
            return  # whoever reads on meets the same cut and tells the caller
        except (ValueError, TypeError, AttributeError):
            raise ApiError("upstream_invalid_response", "OpenAI's stream makes no sense; try again.") from None


def attempt(
    upstream: Upstream, key: str, plan: Plan, *, hold_seconds: float, room: LongAnswers
) -> Coroutine[Any, Any, Answer | OpenStream]:
    """OpenAI's answer, success or error, to one call.

    A stream is handed over with its first token. After `hold_seconds` of silence it is handed over without, so that its
    reader can be sent comments; whoever reads it then holds the model to `first_token_by`.

    Raises UnreachableError when OpenAI could not be reached, and ApiError: 502 for an answer that is none,
    504 `upstream_timeout` when the first token of a stream did not come in the model's time.
    """
    seconds = plan.model.first_token_timeout_seconds
    if seconds is None or not plan.streams_upstream:
        return _post(upstream, key, plan, room)
    return _begun(_post(upstream, key, plan, room), plan, seconds, hold_seconds)


async def _begun(
    asked: Coroutine[Any, Any, Answer | OpenStream], plan: Plan, seconds: float, hold_seconds: float
) -> Answer | OpenStream:
    by = asyncio.get_running_loop().time() + seconds
    try:
        with until(by):
            opened = await asked
            if isinstance(opened, OpenStream):
                opened.first_token_by = by
                await _hold(opened, hold_seconds if plan.stream else seconds)
            return opened
    except TimeoutError:
        message = f"OpenAI's {plan.model.name} gave no first token within {seconds} s; try again."
        raise ApiError("upstream_timeout", message) from None


async def _hold(opened: OpenStream, seconds: float) -> None:
    try:
        with within(seconds):
            await opened.begin()
    except TimeoutError:
        return  # nothing is lost: the stream goes on where it is
    except BaseException:
        opened.response.close()
        raise


async def _post(upstream: Upstream, key: str, plan: Plan, room: LongAnswers) -> Answer | OpenStream:
    try:
        response = await upstream.post(plan.endpoint.path.removeprefix("/v1"), plan.payload, key)
    except UnreachableError:
        raise
    except UpstreamError:
        raise ApiError("upstream_invalid_response", "OpenAI's answer is not HTTP; try again.") from None
    if plan.streams_upstream and response.status == 200:
        if response.media_type != sse.MEDIA_TYPE:
            response.close()
            raise invalid_response(response)
        return OpenStream(response, key, stream_meter(plan.endpoint, hides_usage=plan.hides_usage))
    body = response.whole()
    if body is None:
        return await read_answer(response, plan.endpoint, key, room)
    response.release()
    return answer_of(response, body, plan.endpoint, key)
