"""Step: dollars. Reserved at the worst case before anything is sent, settled by what was used: one entry an attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from app.errors import ApiError
from app.ledger import Entry, Hold, Kept, Outcome, Payer
from app.ledger.entries import MAX_TEXT, MAX_TIER
from app.pipeline.attempt import OpenStream
from app.pipeline.estimate import BYTES_PER_TOKEN, text_tokens
from app.prices import DEFAULT, Usage

if TYPE_CHECKING:
    from app.ledger import Ledger
    from app.pipeline.answer import Answer
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call
    from app.pipeline.record import Record
    from app.prices import Price

SLICE_TOKENS = 256
"""Of output, reserved ahead of a stream whose tokens can all be seen. A token is at least a byte, so bytes bound it."""
WHOLE = float("inf")
"""Bytes that are covered where all that the model may write is reserved."""
MOST_TOKENS = 10_000_000
"""Of one call: several times what any model reads or writes. More is no count."""
NOTHING = Usage(input_tokens=0, cached_tokens=0, cache_write_tokens=0, output_tokens=0)
FEATURE_HEADER = "x-prodkit-feature"
MAX_FEATURE = 40

# OpenAI may have worked on an attempt that ended so, and bills what it did.
_WORKED = frozenset({"upstream_timeout", "upstream_incomplete", "upstream_invalid_response"})


class Payment:
    """What one request reserves and pays."""

    __slots__ = (
        "_attempts",
        "_began",
        "_call",
        "_ledger",
        "_record",
        "covered_bytes",
        "hold",
        "plan",
        "price",
    )

    def __init__(self, ledger: Ledger, call: Call, record: Record) -> None:
        self._ledger = ledger
        self._call = call
        self._record = record
        self._attempts = 0
        self._began = 0.0
        self.hold: Hold | None = None
        self.plan: Plan | None = None
        self.price: Price | None = None
        self.covered_bytes: float = WHOLE
        """Of a stream's output: what is reserved is enough up to there."""

    def ready(self, plan: Plan) -> bool:
        """Whether an attempt at a plan is reserved for and not yet made."""
        return self.hold is not None and not self.hold.settled and self.plan is plan

    def reserve_at_once(self, plan: Plan) -> bool:
        """As `reserve`, from what is leased already; False when that does not do, and then nothing has happened."""
        try:
            payer, worst, name = self._next(plan)
        except ApiError:
            return False
        self.hold = self._ledger.take(payer, worst, name)
        if self.hold is None:
            self._attempts -= 1
        return self.hold is not None

    def take_back(self) -> None:
        """Undo a `reserve_at_once`: nothing is attempted after all."""
        if self.hold is not None:
            self.release()
            self.hold = None
            self._attempts -= 1

    async def reserve(self, plan: Plan) -> None:
        """Set the worst case of one attempt aside; raises ApiError 429, or 503 when nothing can be promised."""
        if self.hold is not None:
            self._ledger.release(self.hold)
        payer, worst, name = self._next(plan)
        try:
            self.hold = self._ledger.take(payer, worst, name) or await self._ledger.reserve(payer, worst, name)
        except ApiError:
            self._ledger.note(self._entry(name, plan, NOTHING, 0, Outcome.REFUSED))
            raise

    def _next(self, plan: Plan) -> tuple[Payer, int, str]:
        """Who pays for the next attempt, what it costs at the worst, and its name; raises ApiError 503."""
        price = plan.model.tariff.price(plan.document.get("service_tier") or DEFAULT)
        output = plan.output_tokens
        self.covered_bytes = WHOLE
        if output > SLICE_TOKENS and not plan.stop and shows_every_token(plan):
            output = self.covered_bytes = SLICE_TOKENS
        worst = price.worst_pico(plan.input_tokens * BYTES_PER_TOKEN, output)
        identity = self._call.identity
        # Not by their own constructor, here and below: it takes three times as long, on the way of each request.
        payer = tuple.__new__(Payer, (identity.tenant, identity.key_id, plan.model.name))
        self._attempts += 1
        self._began = time.time()
        self.plan, self.price = plan, price
        return payer, worst, f"{self._call.request_id}.{self._attempts}"

    def extend(self, output_bytes: int) -> bool:
        """Reserve the next slice of a stream that has written so much; False when the leases at hand have no room."""
        wanted, pico = self._next_slice(output_bytes)
        if pico and (self.hold is None or not self.hold.extend(pico)):
            return False
        self.covered_bytes = wanted
        return True

    async def extend_later(self, output_bytes: int) -> bool:
        """The same, asking the table; False when there is no money for it."""
        wanted, pico = self._next_slice(output_bytes)
        if pico and (self.hold is None or not await self._ledger.extend(self.hold, pico)):
            return False
        self.covered_bytes = wanted
        return True

    def _next_slice(self, output_bytes: int) -> tuple[float, int]:
        """Up to where it covers the output, and what it costs."""
        assert self.plan is not None
        assert self.price is not None
        wanted = min(self.plan.output_tokens, output_bytes + SLICE_TOKENS)
        more = int(wanted - self.covered_bytes)
        # All that the model may write is reserved already.
        return (WHOLE, 0) if more <= 0 else (wanted, self.price.worst_pico(0, more))

    def usage_so_far(self, output_bytes: int) -> Usage:
        """What a stream that has written so much has used, by estimate."""
        assert self.plan is not None
        return unknown_usage(self.plan, output_bytes)

    def release(self) -> None:
        """Give back what is reserved for an attempt that was never made."""
        if self.hold is not None:
            self._ledger.release(self.hold)

    def failed(self, result: Answer | OpenStream | ApiError, unsure: bool) -> None:
        """An attempt ended without an answer. `unsure`: it may have reached OpenAI all the same."""
        if isinstance(result, OpenStream):
            meter = result.meter
            if meter.usage is not None or meter.output_bytes:
                self.settle(meter.usage, Outcome.FAILED, output_bytes=meter.output_bytes, upstream=result.request_id)
                return
        elif isinstance(result, ApiError) and (unsure or result.code in _WORKED):
            self.settle(None, Outcome.FAILED)
            return
        upstream = None if isinstance(result, ApiError) else _request_id(result)
        self._free(upstream)

    def abandoned(self, outcome: Outcome, *, sent: bool) -> None:
        """Nobody waits for an attempt any more. One that was never sent costs nothing."""
        if sent:
            self.settle(None, outcome)
        else:
            self._free(None, outcome)

    def given_up(self, error: BaseException) -> None:
        """A call that many requests share was left, or broke, after it was sent."""
        if isinstance(error, ApiError):
            self.failed(error, unsure=False)
        else:
            self.settle(None, Outcome.CANCELLED)

    def settle(
        self,
        usage: Usage | None,
        outcome: Outcome,
        *,
        output_bytes: int = 0,
        tier: object = None,
        served: object = None,
        upstream: str | None = None,
    ) -> Usage:
        """Pay for an attempt; returns the usage that was charged, an estimate when OpenAI gave none."""
        plan, hold = self.plan, self.hold
        if plan is None or hold is None or hold.settled:
            return usage or NOTHING
        flags, estimated = "", usage is None
        if usage is None:
            flags = "estimated"
            outcome = Outcome.ESTIMATED if outcome is Outcome.OK else outcome
            usage = unknown_usage(plan, output_bytes)
        named = tier if isinstance(tier, str) and tier else plan.document.get("service_tier") or DEFAULT
        price, known = plan.model.tariff.served(named, usage.input_tokens)
        if not known:
            flags += " unpriced"
        pico = price.cost_pico(usage)
        if usage.input_tokens > MOST_TOKENS or usage.output_tokens > MOST_TOKENS:
            flags += " absurd"
            pico = max(hold.worst, 0)
        elif not usage.sane:
            flags += " negative"
            read = max(0, usage.input_tokens, usage.cached_tokens + usage.cache_write_tokens)
            pico = price.worst_pico(read, max(0, usage.output_tokens))
        if pico > hold.worst:
            flags += " overrun"
        record = self._record
        record.usage, record.usage_estimated = usage, estimated
        record.cost_pico += pico
        entry = self._entry(hold.id, plan, usage, pico, outcome, named, served, upstream, flags.lstrip())
        self._ledger.settle(hold, entry)
        return usage

    def cached(self, plan: Plan, outcome: Outcome = Outcome.CACHED) -> None:
        """An answer that asked nothing of OpenAI: counted, on no entry of its own."""
        self._ledger.count(kept_of(self._call, plan, outcome), self._call.request_id)

    def _free(self, upstream: str | None, outcome: Outcome = Outcome.FAILED) -> None:
        """Settle an attempt that OpenAI refused, or that was never sent: nothing is billed for it."""
        hold, plan = self.hold, self.plan
        if hold is not None and plan is not None and not hold.settled:
            entry = self._entry(hold.id, plan, NOTHING, 0, outcome, upstream=upstream)
            self._ledger.settle(hold, entry)

    def _entry(
        self,
        name: str,
        plan: Plan,
        usage: Usage,
        pico: int,
        outcome: Outcome,
        tier: str = DEFAULT,
        served: object = None,
        upstream: str | None = None,
        flags: str = "",
    ) -> Entry:
        call = self._call
        identity = call.identity
        values = (
            name,
            self._began,
            identity.tenant,
            identity.key_id,
            feature_of(call),
            plan.requested_model,
            served[:MAX_TEXT] if isinstance(served, str) and served else plan.model.name,
            tier[:MAX_TIER],
            usage.input_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            self.price.version if self.price else "",
            pico,
            outcome._value_,
            upstream[:MAX_TEXT] if upstream else "",
            flags,
            1,
        )
        return tuple.__new__(Entry, values)


def kept_of(call: Call, plan: Plan, outcome: Outcome) -> Kept:
    """Under what an answer that asked nothing of OpenAI is counted; raises ApiError 503 `price_missing`."""
    identity, model = call.identity, plan.model
    return Kept(
        identity.tenant,
        identity.key_id,
        feature_of(call),
        plan.requested_model,
        model.name,
        model.price.version,
        outcome,
    )


def shows_every_token(plan: Plan) -> bool:
    """Whether all that an answer is billed for can be seen as it is written: streamed, no reasoning, no tools."""
    if not plan.streams_upstream:
        return False
    document: Any = plan.document
    effort = document.get("reasoning_effort") or (document.get("reasoning") or {}).get("effort")
    return effort == "none" and not document.get("tools") and not document.get("functions")


def unknown_usage(plan: Plan, output_bytes: int) -> Usage:
    """The usage of an attempt whose count never arrived: what was seen where everything is seen, else the most."""
    output = text_tokens(output_bytes) if shows_every_token(plan) else plan.output_tokens
    return Usage(plan.input_tokens, 0, 0, min(output, plan.output_tokens))


def feature_of(call: Call) -> str:
    """What a call is for: as the caller says in a header, else the path by which it came in."""
    said = call.headers.get(FEATURE_HEADER, "")
    if 0 < len(said) <= MAX_FEATURE and said.isascii() and said.replace("-", "").replace("_", "").isalnum():
        return said
    return call.parent.endpoint if call.parent is not None else call.endpoint


def _request_id(result: Answer | OpenStream) -> str | None:
    return result.request_id if isinstance(result, OpenStream) else result.upstream_request_id
