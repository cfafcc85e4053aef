"""The way of a request, one step a file, in one direction; no step knows the next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.deferred.deadline import PATH as DEFERRED_PATH
from app.errors import ApiError, Domain
from app.ledger import Outcome
from app.observability.metrics import FIRST_TOKEN_TIMEOUTS, INTERNAL_ERRORS
from app.pipeline.afterwards import Afterwards
from app.pipeline.attempt import OpenStream
from app.pipeline.bound import read_bounded
from app.pipeline.call_upstream import OpenAI
from app.pipeline.choose import Plan
from app.pipeline.cut import CutStream
from app.pipeline.defer import Desk
from app.pipeline.economise import affordable_plan
from app.pipeline.endpoints import endpoint_of
from app.pipeline.estimate import BYTES_PER_TOKEN
from app.pipeline.fold import fold
from app.pipeline.headers import headers_ahead, own_headers
from app.pipeline.isolate import isolated
from app.pipeline.long_answers import LongAnswers
from app.pipeline.look_up import LookUp
from app.pipeline.merge import Merger
from app.pipeline.messages import ByteStream, Call, Reply
from app.pipeline.meter import is_complete, usage_of
from app.pipeline.phases import Phases
from app.pipeline.prompt_cache import scoped
from app.pipeline.record import Record, processing_ms
from app.pipeline.request_line import write_line
from app.pipeline.reserve import Turns, reserve_tokens, tokens_at_once
from app.pipeline.settle import settle_tokens
from app.pipeline.stream import MeteredStream, StreamEnd
from app.pipeline.work import Work
from app.resilience import Resilience

if TYPE_CHECKING:
    from app.pipeline.answer import Answer
    from app.services import Services
    from app.upstream.pool import Upstream

__all__ = ["ByteStream", "Call", "Pipeline", "Reply"]

log = logging.getLogger(__name__)


class Pipeline:
    """Runs calls with every policy on, for HTTP and, in the same process, for the product and the worker."""

    def __init__(self, services: Services, upstream: Upstream, resilience: Resilience | None = None) -> None:
        settings = services.settings
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._openai = OpenAI(
            upstream,
            services.openai_key,
            settings.heartbeat_seconds,
            settings.stack,
            resilience or Resilience(services.metrics),
            services.budgets.may_use,
            LongAnswers(services.container.long_answer_bytes),
        )
        self._merger = Merger(self._ask_merged, services.metrics)
        self.desk = Desk(services)
        """For requests that may wait."""
        self._pending: set[asyncio.Task[Any]] = set()
        self.afterwards = Afterwards(self._loop, lambda: services.metrics.count(INTERNAL_ERRORS))
        self._look_up = LookUp(services, self)

    def run(self, call: Call) -> Coroutine[Any, Any, Reply]:
        """Answer one call; raises ApiError before the first byte, and only then. One log line for each call.

        An error answer of OpenAI is a Reply with its status. Cancelling closes the upstream connection and accounts.
        The task of an HTTP request, whose record the call has, is cancelled only when `Call.left` says so.
        """
        return self._run(call) if call.record is not None else self._run_apart(call)

    async def _run_apart(self, call: Call) -> Reply:
        """Answer a call of this process in a task of its own: it may have to go on when its caller has left."""
        task = asyncio.get_running_loop().create_task(self._run(call))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done() and call.left():
                task.cancel()
                await asyncio.wait([task])
            if task.done() and not task.cancelled() and task.exception() is None:
                body = task.result().body
                if not isinstance(body, bytes):
                    await body.aclose()
            raise

    async def _run(self, call: Call) -> Reply:
        record = call.record or _record(call, sampled=self._services.metrics.telemetry is not None)
        try:
            found = self._answer(call, record)
            reply = found if isinstance(found, Reply) else await found
        except ApiError as error:
            record.refused(error)
            self.write(record)
            raise
        except asyncio.CancelledError:
            record.left(draining=self._services.draining)
            self.write(record)
            raise
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": call.request_id}})
            broken = ApiError("internal_error", f"Something went wrong here; report it with {call.request_id}.")
            record.refused(broken)
            self.write(record)
            raise broken from None
        # An HTTP request's line is written when its answer has been sent: nobody waits for it then.
        if call.record is None and isinstance(reply.body, bytes):
            self.write(record)
        return reply

    def at_once(self, call: Call) -> Reply | None:
        """The same for a call that was answered before in the very same bytes; None = it has to `run`.

        Raises what `run` would raise for it, which tells the line then: here only an answer has one.
        """
        record = call.record or _record(call, sampled=self._services.metrics.telemetry is not None)
        reply = self._look_up.at_once(call, record)
        if reply is not None:
            write_line(record, self._services.metrics)
        return reply

    async def close(self) -> None:
        """Wait until everything that was used is settled. Call it when no call runs any more."""
        await asyncio.sleep(0)  # for what was put off until the last answer was written
        self.afterwards.run()
        while self._pending:
            await asyncio.wait(self._pending)

    def _answer(self, call: Call, record: Record) -> Reply | Coroutine[Any, Any, Reply]:
        """The kept answer to a call, else what waits for a produced one."""
        known = self._look_up.at_once(call, record)
        if known is not None:
            return known
        endpoint = endpoint_of(call.endpoint)
        document = read_bounded(endpoint, call.body, call.headers)
        asked = scoped(endpoint, isolated(endpoint, document, call.body), call.identity.tenant)
        plan = affordable_plan(self._services, call, endpoint, asked, record)
        record.planned(plan)
        may_wait = call.headers.get(DEADLINE_HEADER)
        if may_wait is not None:
            return self._defer(call, plan, record, may_wait)
        return self._look_up.answer(call, plan, record)

    async def _defer(self, call: Call, plan: Plan, record: Record, deadline: str) -> Reply:
        """Keep a call for later. It takes a request from its key's limit and no tokens: those are not this minute's."""
        limiter = self._services.limiter
        grant = await limiter.reserve(call.identity, plan.model.name, 0)
        limiter.settle(grant, 0)
        record.deferred, body = await self.desk.accept(call, plan, deadline)
        record.status = 202
        again = str(self._services.settings.defer_collect_seconds)
        headers = [("content-type", "application/json"), ("location", DEFERRED_PATH + record.deferred)]
        return Reply(202, [*headers, ("retry-after", again), *own_headers(record)], body)

    # for the look-up: a `Maker`

    def prepare(self, work: Work) -> None:
        """Take a turn at the limits and set money aside, as far as both are there at once, and write what is sent."""
        limiter, plan = self._services.limiter, work.plan
        plan.write()
        seconds = self._seconds(plan)
        work.deadline = self._loop.time() + seconds
        work.turns = Turns(limiter, work.call, plan, seconds)
        work.grant = tokens_at_once(limiter, work.call, plan)
        # What may stream is sent alone, and by its own turn; other calls may become one.
        if work.grant is not None and work.payment.reserve_at_once(plan) and plan.endpoint.streams:
            work.turns.take_ahead()

    def take_back(self, work: Work) -> None:
        """Undo `prepare`."""
        grant, turns = work.grant, work.turns
        work.grant = work.turns = None
        if turns is not None:
            turns.give_back()
        if grant is not None:
            self._services.limiter.take_back(grant)
        work.payment.take_back()

    async def produce(self, work: Work) -> Reply:
        """Pay for an answer: reserve, ask, settle, keep."""
        record = work.record
        if work.turns is None:
            self.prepare(work)
            assert work.turns is not None
        if work.grant is None:
            work.grant = await reserve_tokens(self._services.limiter, work.call, work.plan, work.turns)
            record.queue_seconds = work.grant.waited
        if not work.payment.ready(work.plan):
            try:
                await work.payment.reserve(work.plan)
            except BaseException:
                self._settle(work)
                raise
        served, answer = await self._ask(work, work.turns)
        if served is not work.plan:
            record.fell_back(served)
            work.plan, work.headers = served, None
        if isinstance(answer, OpenStream):
            return self._stream(work, answer)
        record.answered(answer)
        if answer.status == 200:
            # The planned model's place is for its own answers.
            work.complete = record.fallback_from is None and is_complete(work.plan.endpoint, answer.document)
            self.afterwards.add(partial(self._pay, work, answer))
        else:
            work.payment.failed(answer, unsure=False)
            self._settle(work)
        return Reply(answer.status, [*answer.headers, *own_headers(record, work.headers)], answer.body)

    def _pay(self, work: Work, answer: Answer) -> None:
        """Account a whole answer, which its caller has by now."""
        document, usage = answer.document, usage_of(work.plan.endpoint, answer.document)
        cut = answer.usage_estimated and usage is not None
        work.payment.settle(
            None if cut else usage,
            Outcome.CUT if cut else Outcome.OK,
            output_bytes=usage.output_tokens * BYTES_PER_TOKEN if usage else 0,
            tier=document.get("service_tier"),
            served=document.get("model"),
            upstream=answer.upstream_request_id,
        )
        self._settle(work)

    def _settle(self, work: Work) -> None:
        """Bring every account to what the record says was used, while nobody waits."""
        assert work.grant is not None
        settle_tokens(self._services.limiter, work.grant, work.record)

    async def _ask(self, work: Work, turns: Turns) -> tuple[Plan, Answer | OpenStream]:
        plan, record = work.plan, work.record
        # What may stream is asked for alone.
        part = None if plan.endpoint.streams else self._merger.part(plan, work.call.identity.tenant)
        try:
            # Again: it may have been held while the call waited for its turn.
            self._services.budgets.admit(work.call.identity, plan.model.name)
            if part is not None:
                return plan, await self._merger.ask(part)
            deadline = work.deadline
            self._loop.call_soon(self._meanwhile, work)
            served, answer = await self._openai.ask(plan, record.phases, self._loop, deadline, work.payment, turns)
            if isinstance(answer, OpenStream) and not plan.stream:
                answer = await fold(answer, served, record, self._services.metrics, work.payment, deadline=deadline)
            return served, answer
        except BaseException as error:
            if part is not None and part.sent_at is not None:
                work.payment.given_up(error)
            work.payment.release()
            turns.give_back()
            self._settle(work)
            raise
        finally:
            if part is not None:
                record.merged(part.sent_at, part.requests, part.waited_ms)

    def _meanwhile(self, work: Work) -> None:
        """What need not be done before OpenAI is asked, nor after its answer: nobody else is waited for as long."""
        self.afterwards.run()
        work.headers = headers_ahead(work.record)

    async def _ask_merged(self, plan: Plan) -> Answer:
        """The answer to a plan whose endpoint does not stream."""
        seconds = self._seconds(plan)
        turns = Turns(self._services.limiter, None, plan, seconds)
        _, answer = await self._openai.ask(plan, Phases(), self._loop, self._loop.time() + seconds, None, turns)
        assert not isinstance(answer, OpenStream)
        return answer

    def _seconds(self, plan: Plan) -> float:
        """For a plan's answer, or the beginning of its stream, with every wait for it."""
        return min(plan.model.timeout_seconds, self._services.settings.request_timeout_seconds)

    def _stream(self, work: Work, opened: OpenStream) -> Reply:
        plan, record = work.plan, work.record
        settings = self._services.settings
        meter = opened.meter
        record.status = 200
        record.phases.succeeded = True
        record.openai_ms = processing_ms(opened.headers)
        record.upstream_request_id = opened.request_id

        def on_end(end: StreamEnd) -> None:
            work.payment.settle(
                meter.usage,
                _outcome(end),
                output_bytes=meter.output_bytes,
                tier=meter.answer.get("service_tier"),
                served=meter.answer.get("model"),
                upstream=opened.request_id,
            )
            record.phases.first_token_at = end.first_token_at
            if end.first_token_at is None and end.error_code == "upstream_timeout":
                self._services.metrics.count(FIRST_TOKEN_TIMEOUTS)
            if end.error_code is not None:
                record.failed_inside(end.error_code)
            elif end.left_early:
                record.left(draining=self._services.draining)
            else:
                stopped = isinstance(body, CutStream) and body.response.get("status") == "completed"
                work.complete = record.fallback_from is None and (meter.complete or stopped)
            self._settle(work)
            self.write(record)

        deadline, heartbeat = self._loop.time() + settings.max_stream_seconds, settings.heartbeat_seconds
        body = (
            CutStream(
                opened,
                plan,
                self._services.metrics,
                deadline=deadline,
                heartbeat_seconds=heartbeat,
                on_end=on_end,
            )
            if plan.stop
            else MeteredStream(
                opened, deadline=deadline, heartbeat_seconds=heartbeat, on_end=on_end, payment=work.payment
            )
        )
        return Reply(200, [*opened.headers, *own_headers(record, work.headers)], body)

    def write(self, record: Record) -> None:
        """The line and the counts of a record, with what is still to be put into it."""
        self.afterwards.run()
        write_line(record, self._services.metrics)

    def write_later(self, record: Record) -> None:
        """The same when nobody waits for it: the request has ended just now."""
        record.ended = time.perf_counter()
        self.afterwards.add(partial(write_line, record, self._services.metrics))

    def later(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Do work that no caller waits for, and let `close` wait for it."""
        task = self._loop.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._services.metrics.count(INTERNAL_ERRORS)
            log.error("settling failed", exc_info=task.exception(), extra={"fields": {"domain": Domain.US.value}})


def _outcome(end: StreamEnd) -> Outcome:
    if end.error_code is not None:
        return Outcome.FAILED
    if end.left_early:
        return Outcome.CANCELLED
    return Outcome.CUT if end.cut else Outcome.OK


def _record(call: Call, *, sampled: bool) -> Record:
    """The record of a call that did not come by HTTP."""
    record = Record(call.request_id, call.endpoint, call.identity)
    parent = call.parent
    if parent is not None:
        record.parent = parent.endpoint
        step = parent.step()
        record.trace = None if step is None else step.child()
    record.sampled = sampled
    return record
