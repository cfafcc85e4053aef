"""Step: write down what happened: one log line, and the counts that alarms and scaling read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from app.errors import Domain
from app.observability import log, metrics
from app.pipeline.phases import NO_SPLIT, Split
from app.prices import PICO_PER_USD

if TYPE_CHECKING:
    from app.observability.metrics import Metrics
    from app.pipeline.record import Record

FIELDS: dict[str, str] = {
    "request_id": "ours, as the caller got it in `x-request-id`",
    "trace_id": "of the caller's `traceparent`, else made of the request id",
    "span_id": "this line's own step of the trace",
    "parent_span_id": "the step that asked for it: the caller's, or the request this call was made for",
    "parent": "path of the request that this call was made for; only lines without it are counted as `Requests`",
    "tenant": "whose key it was",
    "key_id": "which key",
    "endpoint": "path",
    "model": "that answered",
    "requested_model": "as the caller named it",
    "fallback_from": "the planned model, when another answered",
    "status": "HTTP status; 499 when the caller left before there was one",
    "stream": "whether the caller read a stream",
    "cache": "`hit`, `stale`, `join`, `miss` or `bypass`",
    "budget_rung": "how far the call's budgets were degraded; absent when they were not",
    "input_tokens": "as OpenAI counted, cached ones included",
    "output_tokens": "as OpenAI counted",
    "cached_tokens": "input that OpenAI had in its prompt cache",
    "usage_estimated": "the tokens are our estimate: OpenAI's count never came",
    "cost_usd": "by the prices of the models document",
    "latency_ms": "from the request's headers to the end of the answer",
    "first_token_ms": "from the request's headers to the first token of a stream",
    "receive_ms": "waiting for the caller's body",
    "overhead_ms": "this service: what no other phase took",
    "failed_attempts_ms": "attempts at OpenAI without success, and the pauses between them",
    "prompt_ms": "from the beginning of the attempt that was answered to its first token",
    "generation_ms": "from the first token to the end of the answer, a slow reader's time included",
    "whole_answer_ms": "prompt and generation of an unstreamed answer, where nothing tells them apart",
    "openai_processing_ms": "OpenAI's own time, by its `openai-processing-ms`",
    "shared_by": "requests that one call to OpenAI answered together",
    "deferred": "id of the request that may wait, when it is accepted and when it is answered",
    "merge_wait_ms": "how long this one waited for the others; part of `overhead_ms`",
    "queue_ms": "waiting for a turn at a rate limit of ours; part of `overhead_ms`",
    "upstream_request_id": "OpenAI's id of the request",
    "error_code": "as the caller got it",
    "domain": "who has to act: `caller`, `policy`, `upstream` or `us`",
}
"""Every field of the log line of a request, beside `time`, `level` and `event`, in its order."""


def write_line(record: Record, counts: Metrics) -> None:
    """One JSON line on stdout, never the prompt or the answer, and the metrics of the request; once."""
    if record.told:
        return
    record.told = True
    phases = record.phases
    ended = time.perf_counter() if record.ended is None else record.ended
    latency = ended - phases.started
    first = phases.first_token_at if record.stream else None
    first_token = None if first is None else first - phases.started
    # The product's own requests spend most of their time in calls that have lines of their own.
    split = phases.split(ended, stream=record.stream) if record.model is not None else NO_SPLIT
    _count(record, counts)
    _observe(record, counts, latency, first_token, split)
    if counts.telemetry is not None:
        counts.telemetry.add(record, ended)
    log.request_line(_fields(record, latency, first_token, split))


def _fields(record: Record, latency: float, first_token: float | None, split: Split) -> dict[str, Any]:
    """Of the log line, in the order of FIELDS; what a request does not have is left out.

    Written out: a loop over names and values takes three times as long, for each request.
    """
    fields = log.request_fields()
    fields["request_id"] = record.request_id
    trace, identity = record.step(), record.identity
    if trace is not None:
        fields["trace_id"] = trace.trace_id
        fields["span_id"] = trace.span_id
        if trace.parent_id is not None:
            fields["parent_span_id"] = trace.parent_id
    if record.parent is not None:
        fields["parent"] = record.parent
    if identity is not None:
        fields["tenant"] = identity.tenant
        fields["key_id"] = identity.key_id
    fields["endpoint"] = record.endpoint
    _put_answer(fields, record)
    fields["latency_ms"] = _ms(latency)
    _put_phases(fields, first_token, record.phases.receive_seconds, split)
    _put_rest(fields, record)
    return fields


def _put_answer(fields: dict[str, Any], record: Record) -> None:
    if record.model is not None:
        fields["model"] = record.model
    if record.requested_model is not None:
        fields["requested_model"] = record.requested_model
    if record.fallback_from is not None:
        fields["fallback_from"] = record.fallback_from
    if record.status is not None:
        fields["status"] = record.status
    fields["stream"] = record.stream
    if record.cache is not None:
        fields["cache"] = record.cache
    if record.rung:
        fields["budget_rung"] = record.rung.label
    usage = record.usage
    if usage is not None:
        fields["input_tokens"] = usage.input_tokens
        fields["output_tokens"] = usage.output_tokens
        fields["cached_tokens"] = usage.cached_tokens
        if record.usage_estimated:
            fields["usage_estimated"] = True
        fields["cost_usd"] = record.cost_pico / PICO_PER_USD


def _put_phases(fields: dict[str, Any], first_token: float | None, receive: float | None, split: Split) -> None:
    if first_token is not None:
        fields["first_token_ms"] = _ms(first_token)
    if receive is not None:
        fields["receive_ms"] = _ms(receive)
    if split.overhead is not None:
        fields["overhead_ms"] = _ms(split.overhead)
    if split.failed and (failed := _ms(split.failed)):
        fields["failed_attempts_ms"] = failed
    if split.prompt is not None:
        fields["prompt_ms"] = _ms(split.prompt)
    if split.generation is not None:
        fields["generation_ms"] = _ms(split.generation)
    if split.whole is not None:
        fields["whole_answer_ms"] = _ms(split.whole)


def _put_rest(fields: dict[str, Any], record: Record) -> None:
    if record.openai_ms is not None:
        fields["openai_processing_ms"] = record.openai_ms
    if record.shared_by is not None:
        fields["shared_by"] = record.shared_by
    if record.deferred is not None:
        fields["deferred"] = record.deferred
    if record.merge_wait_ms is not None:
        fields["merge_wait_ms"] = record.merge_wait_ms
    if record.queue_seconds:
        fields["queue_ms"] = _ms(record.queue_seconds)
    if record.upstream_request_id is not None:
        fields["upstream_request_id"] = record.upstream_request_id
    if record.error_code is not None:
        fields["error_code"] = record.error_code
    if record.domain is not None:
        fields["domain"] = record.domain.value


def _ms(seconds: float) -> float:
    return int(seconds * 10_000 + 0.5) / 10  # to a tenth; `round` finds out the same in ten times the time


def _observe(record: Record, counts: Metrics, latency: float, first_token: float | None, split: Split) -> None:
    observe = counts.observe
    if record.parent is None:
        observe(metrics.REQUEST_LATENCY_MS, latency * 1000)
    if record.phases.receive_seconds is not None:
        observe(metrics.RECEIVE_MS, record.phases.receive_seconds * 1000)
    if split.overhead is not None:
        observe(metrics.OVERHEAD_MS, split.overhead * 1000)
    if first_token is not None:
        observe(metrics.TIME_TO_FIRST_TOKEN_MS, first_token * 1000)
    if split.prompt is not None and split.generation is not None:
        observe(metrics.PROMPT_MS, split.prompt * 1000)
        observe(metrics.GENERATION_MS, split.generation * 1000)
    elif split.whole is not None:
        observe(metrics.WHOLE_ANSWER_MS, split.whole * 1000)
    if record.openai_ms is not None:
        observe(metrics.OPENAI_PROCESSING_MS, record.openai_ms)


def _count(record: Record, counts: Metrics) -> None:
    if record.parent is None:
        counts.count(metrics.REQUESTS)
        if record.domain is not None:
            counts.count(metrics.ERROR_DOMAINS[record.domain])
        if record.error_code == "rate_limit_exceeded" and record.domain is Domain.POLICY:
            counts.count(metrics.RATE_LIMITED)
    if record.cache in ("hit", "stale", "join"):
        counts.count(metrics.CACHE_HITS)
    elif record.cache == "miss":
        counts.count(metrics.CACHE_MISSES)
    if record.usage is not None:
        counts.count(metrics.INPUT_TOKENS, record.usage.input_tokens)
        counts.count(metrics.OUTPUT_TOKENS, record.usage.output_tokens)
        counts.count(metrics.CACHED_INPUT_TOKENS, record.usage.cached_tokens)
        counts.count(metrics.SPEND_USD, record.cost_pico / PICO_PER_USD)
