"""Step: a call's turn at our limits, where tokens are settled after it, and each attempt's turn at OpenAI's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app.errors import BILLING_CODES
from app.limits import BACKGROUND, INTERACTIVE, PRIORITY_HEADER, Caller
from app.pipeline.answer import Answer

if TYPE_CHECKING:
    from app.limits import Grant, Limiter
    from app.limits.upstream import Ticket
    from app.pipeline.attempt import OpenStream
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call

WAIT_HEADER = "prefer"
"""`Prefer: wait=10` (RFC 7240): how many seconds a caller would rather wait than be refused."""
TIMEOUT_HEADER = "x-stainless-read-timeout"
"""The time-out of OpenAI's own clients, which they tell with each request."""
WAIT_PERCENT = 50
"""Of a call's deadline, for its turn; the rest is for its answer."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,6})?")


class Turns:
    """Turns of one call: at our own limits, and at OpenAI's, where each attempt and each other model takes one."""

    __slots__ = ("_call", "_caller", "_plan", "_seconds", "_since", "_ticket", "limiter")

    def __init__(self, limiter: Limiter, call: Call | None, plan: Plan, seconds: float) -> None:
        """`seconds` is the time that the whole call has; without a `call` it is made for many requests at once."""
        self.limiter = limiter
        self._call = call
        self._plan = plan
        self._seconds = seconds
        self._since = limiter.clock()
        self._caller: Caller | None = None
        self._ticket: Ticket | None = None
        """Of the first attempt, while it is not sure that there will be one."""

    @property
    def caller(self) -> Caller:
        """Who waits, and until when. Few calls wait, so it is worked out for those alone."""
        if self._caller is None:
            self._caller = _caller(self._call, self._plan, self._since, self._seconds)
        return self._caller

    def at_once(self, plan: Plan) -> Ticket | None:
        """For a call that is sent now; None when it has to wait."""
        ticket, self._ticket = self._ticket, None
        return ticket or self.limiter.enter_at_once(plan.model.name, _counted(plan))

    def take_ahead(self) -> None:
        """Take the turn of the first attempt, if it is there at once, for `at_once` to give."""
        self._ticket = self.at_once(self._plan)

    def give_back(self) -> None:
        """Undo `take_ahead`, unless an attempt has it."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.limiter.leave(ticket, _counted(self._plan))

    async def take(self, plan: Plan) -> Ticket:
        """The same when its turn has come; raises ApiError 429 when that would be too late."""
        return await self.limiter.enter(plan.model.name, _counted(plan), self.caller)

    def saw(self, ticket: Ticket, result: Answer | OpenStream) -> None:
        """OpenAI answered."""
        if isinstance(result, Answer):
            refused = result.status == 429 and result.error_code not in BILLING_CODES
            self.limiter.saw(ticket, result.headers, result.error_code if refused else None)
        else:
            self.limiter.saw(ticket, result.headers)


def _caller(call: Call | None, plan: Plan, since: float, seconds: float) -> Caller:
    if call is None:
        return Caller(latest=since + seconds * WAIT_PERCENT / 100)
    priority = call.headers.get(PRIORITY_HEADER, INTERACTIVE).strip().lower()
    latest = since + patience(call, seconds)
    return Caller(
        call.identity.tenant, BACKGROUND if priority == BACKGROUND else INTERACTIVE, latest, 1 if plan.stream else 0
    )


def patience(call: Call, seconds: float) -> float:
    """Seconds for which a call may wait for its turn: half of what it has, or as the caller says, whatever is less."""
    longest = seconds * WAIT_PERCENT / 100
    wish = call.headers.get(WAIT_HEADER)
    if wish is not None and (found := _WAIT.search(wish)):
        longest = min(longest, float(found[1]))
    own = call.headers.get(TIMEOUT_HEADER)
    if own is not None and _SECONDS.fullmatch(own):
        longest = min(longest, float(own))
    return longest


def tokens_at_once(limiter: Limiter, call: Call, plan: Plan) -> Grant | None:
    """A grant for the most the call may use; None when it would have to wait."""
    tokens = plan.input_tokens + plan.output_tokens
    return limiter.take(call.identity, plan.model.name, tokens, streams=1 if plan.stream else 0)


async def reserve_tokens(limiter: Limiter, call: Call, plan: Plan, turns: Turns) -> Grant:
    """The same when its turn has come; raises ApiError 429 `rate_limit_exceeded` with when to come back."""
    tokens = plan.input_tokens + plan.output_tokens
    return await limiter.reserve(call.identity, plan.model.name, tokens, turns.caller)


def _counted(plan: Plan) -> int:
    """The tokens that OpenAI counts for its limit: the larger of the two, and it gives nothing back."""
    return max(plan.output_tokens, plan.input_tokens)
