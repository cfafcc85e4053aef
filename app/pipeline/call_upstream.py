"""Step: ask OpenAI, within one deadline; ask again, or another model, only where that is safe and can help."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.errors import BILLING_CODES, ApiError
from app.ledger import Outcome
from app.observability.metrics import FALLBACKS, FIRST_TOKEN_TIMEOUTS, INVALID_ANSWERS, RETRIES
from app.pipeline.answer import Answer
from app.pipeline.attempt import OpenStream, attempt
from app.pipeline.choose import fallback_plans
from app.pipeline.long_answers import MAX_ANSWER_BYTES, LongAnswers
from app.resilience import Resilience, quota_exhausted
from app.resilience.breaker import CLOSED, REFUSED
from app.time_limit import until
from app.upstream.pool import UNSENT
from app.upstream.response import UnreachableError

if TYPE_CHECKING:
    from app.limits.upstream import Ticket
    from app.pipeline.choose import Plan
    from app.pipeline.pay import Payment
    from app.pipeline.phases import Phases
    from app.pipeline.reserve import Turns
    from app.secret import OpenAIKey
    from app.upstream.pool import Upstream

ATTEMPTS = 2
"""On the planned model; a fallback gets one. With at most MAX_FALLBACKS of them, a call is made 5 times at most."""
BACKOFF_SECONDS = 0.5
"""Full jitter: the pause before the second attempt is anything from 0 to this, on top of what OpenAI asks for."""
RETRIED_STATUSES = frozenset({429, 500, 503})
RETRIED_EVENTS = frozenset({"server_error", "server_is_overloaded"})
"""Codes of a stream that failed before its first token."""
MAX_RETRY_AFTER_SECONDS = 10.0
"""A longer wish of OpenAI goes to the caller, who holds no slot here while waiting."""

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

_OTHERS_MAY_ANSWER = frozenset(
    {"upstream_unreachable", "upstream_unavailable", "upstream_timeout", "rate_limit_exceeded"}
)

Result = Answer | OpenStream | ApiError


@dataclass(slots=True)
class OpenAI:
    """What every call to OpenAI has in common."""

    upstream: Upstream
    key: OpenAIKey
    hold_seconds: float
    stack: str
    resilience: Resilience
    may_use: Callable[[str], bool] = lambda _model: True
    """Whether a model may answer in another's place."""
    room: LongAnswers = field(default_factory=lambda: LongAnswers(MAX_ANSWER_BYTES))

    async def ask(
        self,
        plan: Plan,
        phases: Phases,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        payment: Payment | None = None,
        turns: Turns | None = None,
    ) -> tuple[Plan, Answer | OpenStream]:
        """OpenAI's answer, success or error, and the plan it answers: the given one, or that of a fallback model.

        A stream is handed over once its first token is there, at the latest `hold_seconds` after its headers; at once
        when the model's first token may take any time.
        `deadline` is a time of the running `loop`, over all attempts, each of which takes its turn by `turns`. Raises
        ApiError: 429 when that comes too late, 503 `api_key_missing`, `upstream_unavailable` or
        `upstream_quota_exhausted`, 502 when OpenAI cannot be reached or makes no sense, 504 after the deadline.
        `payment` gets an entry for every attempt; None for a call that many requests pay for.
        """
        key = self.key.at_hand() or await self.key.get()
        if key is None:
            how = f"make key STACK={self.stack}"
            raise ApiError("api_key_missing", f"No OpenAI API key is set yet; an operator sets it by `{how}`.")
        self.resilience.budget.earn()
        line = _Line(self, key, phases, loop, deadline, payment, turns)
        try:
            with until(deadline, loop):
                result = await line.once(plan)
                # Nearly all that is asked is answered so, and needs no second look.
                if type(result) is not Answer or result.status != 200:
                    result = await line.ask_again(plan, result, ATTEMPTS)
                    if plan.model.fallback and _another_model_may_help(result):
                        plan, result = await line.fall_back(plan, result)
        except TimeoutError:
            raise ApiError("upstream_timeout", "OpenAI did not answer in time; try again, or stream.") from None
        if isinstance(result, ApiError):
            raise result.again()
        return plan, result


class _Line:
    """What the calls made for one request have in common."""

    __slots__ = ("asked", "deadline", "key", "loop", "openai", "payment", "phases", "resilience", "turns", "unsure")

    def __init__(
        self,
        openai: OpenAI,
        key: str,
        phases: Phases,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        payment: Payment | None,
        turns: Turns | None,
    ) -> None:
        self.openai = openai
        self.key = key
        self.phases = phases
        self.loop = loop
        self.deadline = deadline
        self.payment = payment
        self.turns = turns
        self.resilience = openai.resilience
        self.asked = False
        """An attempt was made: from now on each is a load that OpenAI would not have without the failure."""
        self.unsure = False
        """The attempt that failed may have reached OpenAI all the same."""

    async def ask_again(self, plan: Plan, result: Result, attempts: int) -> Result:
        """The result of asking the plan's model at most so many times, after a first one."""
        while True:
            if isinstance(result, Answer):
                if result.status == 200:
                    return result
                if result.status == 401 and await self._found_another_key():
                    # Rotated since it was read. Nothing was billed, so once more is safe.
                    result = await self.once(plan)
            attempts -= 1
            wait = _wait(result, BACKOFF_SECONDS * self.resilience.chance()) if attempts else None
            if wait is None or not self._may_wait(plan, wait):
                return result
            _close(result)
            await self.resilience.sleep(wait)
            result = await self.once(plan)

    async def fall_back(self, plan: Plan, result: Result) -> tuple[Plan, Result]:
        """The answer of the first fallback model that has one; else the planned model's own result, at the latest when
        the retry budget is used up. A model that is asked in the place of one that was not asked costs none of that."""
        try:
            for other in fallback_plans(plan):
                if not self.openai.may_use(other.model.name):
                    continue
                if self.asked and not self.resilience.budget.take():
                    break
                second = await self.ask_again(other, await self.once(other), 1)
                if _succeeded(second):
                    self.resilience.metrics.count(FALLBACKS)
                    _close(result)
                    return other, second
                _close(second)
        except BaseException:
            _close(result)
            raise
        return plan, result

    def once(self, plan: Plan) -> Coroutine[Any, Any, Result]:
        """One call in its turn; raises nothing but cancellation and a refused key. Await it at once."""
        turns = self.turns
        ticket = None if turns is None else turns.at_once(plan)
        return self._call(plan, ticket) if turns is None or ticket is not None else self._call_in_turn(plan, turns)

    async def _call_in_turn(self, plan: Plan, turns: Turns) -> Result:
        try:
            ticket = await turns.take(plan)
        except ApiError as error:
            return error
        return await self._call(plan, ticket)

    async def _call(self, plan: Plan, ticket: Ticket | None) -> Result:
        """One call, paid for and told to the breakers."""
        resilience, payment = self.resilience, self.payment
        refused = None if payment is None or payment.ready(plan) else await _refused(payment, plan)
        if refused is not None:
            return refused
        key_entry = resilience.enter_key(self.key)
        breaker = resilience.breaker(plan.model.name)
        entry = breaker.enter()
        if entry is REFUSED:
            resilience.settle_key(key_entry, None)
            return resilience.unavailable(plan.model.name)
        healthy = paid = None
        try:
            self.phases.attempt()
            self.asked = True
            self.unsure = False
            try:
                openai = self.openai
                answer = await attempt(
                    openai.upstream, self.key, plan, hold_seconds=openai.hold_seconds, room=openai.room
                )
                result: Result = self._seen(answer, ticket)
            except (UnreachableError, ApiError) as error:
                result = self._failed(error)
            if _succeeded(result):
                healthy = paid = True
                return result
            if payment is not None:
                payment.failed(result, self.unsure)
            if isinstance(result, Answer) and result.error_code in BILLING_CODES:
                resilience.refuse_key(self.key, key_entry)
                key_entry = CLOSED
                return quota_exhausted(result.error_code)
            healthy = _healthy(result)
            return result
        except asyncio.CancelledError as error:
            late = self.loop.time() >= self.deadline
            if late:
                healthy = False
            if payment is not None:
                outcome = Outcome.FAILED if late else Outcome.CANCELLED
                payment.abandoned(outcome, sent=UNSENT not in getattr(error, "__notes__", ()))
            raise
        finally:
            breaker.settle(entry, healthy)
            resilience.settle_key(key_entry, paid)

    def _seen(self, answer: Answer | OpenStream, ticket: Ticket | None) -> Answer | OpenStream:
        if ticket is not None and self.turns is not None:
            self.turns.saw(ticket, answer)
        return answer

    def _failed(self, error: UnreachableError | ApiError) -> ApiError:
        """What an attempt without an answer means for the caller."""
        if isinstance(error, ApiError):
            if error.code == "upstream_timeout":
                self.resilience.metrics.count(FIRST_TOKEN_TIMEOUTS)
            elif error.code == "upstream_invalid_response":
                self.resilience.metrics.count(INVALID_ANSWERS)
            return error.again()
        self.unsure = error.sent
        if error.errno in _NO_DESCRIPTORS:
            # Ours and not OpenAI's fault, so no breaker hears of it.
            message = "This replica has no descriptor left for a connection; retry after 1 s."
            return ApiError("overloaded", message, headers={"retry-after": "1"})
        return ApiError("upstream_unreachable", "OpenAI cannot be reached; try again.")

    async def _found_another_key(self) -> bool:
        fresh = await self.openai.key.refresh(self.key)
        if fresh in (None, self.key):
            return False
        self.key = fresh
        return True

    def _may_wait(self, plan: Plan, wait: float) -> bool:
        """Whether another attempt after `wait` seconds is in time, in the budget, and better than another model."""
        if plan.model.fallback and wait > BACKOFF_SECONDS:
            return False
        if self.loop.time() + wait >= self.deadline or not self.resilience.budget.take():
            return False
        self.resilience.metrics.count(RETRIES)
        return True


async def _refused(payment: Payment, plan: Plan) -> ApiError | None:
    """Reserve for one more attempt; the reason when that cannot be."""
    try:
        await payment.reserve(plan)
    except ApiError as error:
        return error
    return None


def _succeeded(result: Result) -> bool:
    if isinstance(result, Answer):
        return result.status == 200
    return isinstance(result, OpenStream) and result.meter.error_code is None


def _healthy(result: Result) -> bool | None:
    """What a result says about its model: a limit that is reached says nothing, a refused request that it works."""
    if isinstance(result, Answer):
        return None if result.status in (401, 403, 408, 429) else result.status < 500
    if isinstance(result, ApiError) and result.code in ("overloaded", "rate_limit_exceeded"):
        return None
    return _succeeded(result)


def _another_model_may_help(result: Result) -> bool:
    if isinstance(result, ApiError):
        return result.code in _OTHERS_MAY_ANSWER
    if isinstance(result, Answer):
        # Not `slow_down`: OpenAI wants less traffic, whatever the model.
        return result.status >= 500 or result.error_code in ("rate_limit_exceeded", "model_not_found")
    return result.first_token_at is None and result.meter.error_code in RETRIED_EVENTS


def _wait(result: Result, pause: float) -> float | None:
    """Seconds to wait before the next attempt, `pause` on top of what is asked for; None when there must be none."""
    if isinstance(result, ApiError):
        return pause if result.code == "upstream_unreachable" else None
    if isinstance(result, OpenStream):
        again = result.first_token_at is None and result.meter.error_code in RETRIED_EVENTS
        return pause if again else None
    if result.status not in RETRIED_STATUSES:
        return None
    headers = dict(result.headers)
    if headers.get("x-should-retry") == "false":
        return None
    milliseconds = headers.get("retry-after-ms")
    try:
        # A date, or a wait that is not short, is for the caller.
        least = float(headers.get("retry-after", "0") if milliseconds is None else milliseconds)
    except ValueError:
        return None
    if milliseconds is not None:
        least /= 1000
    # Written so that "nan" is no wait either.
    return least + pause if 0 <= least <= MAX_RETRY_AFTER_SECONDS else None


def _close(result: Result) -> None:
    """Give up a result that nobody reads."""
    if isinstance(result, OpenStream):
        result.response.close()
