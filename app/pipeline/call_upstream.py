"""Step: ask OpenAI, within one deadline; ask again only where that is safe and can help."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from app import sse
from app.errors import BILLING_CODES, ApiError
from app.pipeline.answer import Answer, invalid_response, passed_headers, read_answer, request_id

if TYPE_CHECKING:
    from app.pipeline.choose import Plan
    from app.secret import OpenAIKey
    from app.upstream import Upstream

ATTEMPTS = 2
BACKOFF_SECONDS = 0.5
"""Full jitter: the pause before the second attempt is anything from 0 to this."""
RETRIED_STATUSES = frozenset({500, 503})
MAX_RETRY_AFTER_SECONDS = 2.0
"""A longer wish of OpenAI goes to the caller, who holds no slot here while waiting."""


@dataclass(slots=True)
class OpenStream:
    """A stream whose headers have arrived. Whoever holds it closes `response`."""

    response: aiohttp.ClientResponse
    key: str

    @property
    def headers(self) -> list[tuple[str, str]]:
        """OpenAI's headers for the caller."""
        return passed_headers(self.response.headers)

    @property
    def request_id(self) -> str | None:
        """OpenAI's id of the request."""
        return request_id(self.response.headers)


async def ask_openai(
    upstream: Upstream, openai_key: OpenAIKey, plan: Plan, *, deadline: float, stack: str
) -> Answer | OpenStream:
    """OpenAI's answer, success or error; a stream is handed over once its headers are there.

    `deadline` is a time of the running loop's clock, over all attempts. Raises ApiError: 503 `api_key_missing`, 502
    when OpenAI cannot be reached or makes no sense, 504 after the deadline.
    """
    key = await openai_key.get()
    if key is None:
        raise ApiError(
            "api_key_missing", f"No OpenAI API key is set yet; an operator sets it by `make key STACK={stack}`."
        )
    try:
        async with asyncio.timeout_at(deadline):
            answer = await _attempts(upstream, key, plan)
            if answer.status != 401:
                return answer.result
            # The key may have been rotated since it was read. Nothing was billed, so once more is safe.
            fresh = await openai_key.refresh(key)
            return answer.result if fresh in (None, key) else (await _attempts(upstream, fresh, plan)).result
    except TimeoutError:
        raise ApiError("upstream_timeout", "OpenAI did not answer in time; try again, or stream.") from None


@dataclass(slots=True)
class _Attempt:
    status: int
    result: Answer | OpenStream


async def _attempts(upstream: Upstream, key: str, plan: Plan) -> _Attempt:
    for left in reversed(range(ATTEMPTS)):
        pause = random.uniform(0, BACKOFF_SECONDS)  # noqa: S311 - spreads load, keeps no secret
        try:
            attempt = await _attempt(upstream, key, plan)
        except aiohttp.ClientConnectionError:
            if not left:
                break
        else:
            wait = _retry_after(attempt, pause)
            if not left or wait is None:
                return attempt
            pause = wait
        await asyncio.sleep(pause)
    raise ApiError("upstream_unreachable", "OpenAI cannot be reached; try again.")


async def _attempt(upstream: Upstream, key: str, plan: Plan) -> _Attempt:
    try:
        response = await upstream.post(plan.endpoint.path.removeprefix("/v1"), plan.payload, key)
    except aiohttp.ClientConnectionError:
        raise
    except aiohttp.ClientError:
        raise ApiError("upstream_invalid_response", "OpenAI's answer is not HTTP; try again.") from None
    if plan.stream and response.status == 200:
        if response.content_type != sse.MEDIA_TYPE:
            response.close()
            raise invalid_response(response)
        return _Attempt(200, OpenStream(response, key))
    return _Attempt(response.status, await read_answer(response, plan.endpoint, key))


def _retry_after(attempt: _Attempt, pause: float) -> float | None:
    """Seconds to wait before the next attempt, or None when there must be none."""
    answer = attempt.result
    if not isinstance(answer, Answer) or attempt.status not in RETRIED_STATUSES or answer.error_code in BILLING_CODES:
        return None
    headers = dict(answer.headers)
    if headers.get("x-should-retry") == "false":
        return None
    asked = headers.get("retry-after", "0")
    try:
        # A date, or a wait that is not short, is for the caller.
        least = float(asked)
    except ValueError:
        return None
    # Written so that "nan" is no wait either.
    return max(least, pause) if 0 <= least <= MAX_RETRY_AFTER_SECONDS else None
