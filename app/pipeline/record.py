"""Step: write down what happened: one log line, and the counts that alarms and scaling read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app import log, metrics
from app.errors import ApiError, Domain, upstream_domain
from app.prices import PICO_PER_USD

if TYPE_CHECKING:
    from app.keys import Identity
    from app.metrics import Metrics
    from app.models import Usage
    from app.pipeline.answer import Answer
    from app.pipeline.choose import Plan
    from app.pipeline.merge import Part

LEFT_STATUS = 499
"""For the log alone: nobody waits for the answer any more."""
LEFT_CODE = "client_disconnected"
STOPPED_CODE = "stopped"


@dataclass(slots=True)
class Record:
    """What is known about one request; filled on its way, written once at its end."""

    request_id: str
    endpoint: str
    identity: Identity | None = None
    started: float = field(default_factory=time.perf_counter)
    status: int | None = None
    stream: bool = False
    model: str | None = None
    requested_model: str | None = None
    fallback_from: str | None = None
    """The model that could not answer, when another did."""
    cache: str | None = None
    usage: Usage | None = None
    usage_estimated: bool = False
    cost_pico: int = 0
    first_token_ms: float | None = None
    upstream_request_id: str | None = None
    shared_by: int | None = None
    """Requests that one call to OpenAI answered together, this one among them."""
    merge_wait_ms: float | None = None
    """How long this one waited for the others."""
    error_code: str | None = None
    domain: Domain | None = None
    told: bool = False
    """The line of this request is written, or is another record's to write."""

    def planned(self, plan: Plan) -> None:
        """The model is chosen."""
        self.model = plan.model.name
        self.requested_model = plan.requested_model
        self.stream = plan.stream

    def fell_back(self, plan: Plan) -> None:
        """Another model than the chosen one answers."""
        self.fallback_from, self.model = self.model, plan.model.name

    def merged(self, part: Part | None) -> None:
        """The call to OpenAI was, or may have been, one for several requests."""
        if part is not None and part.requests > 1:
            self.shared_by, self.merge_wait_ms = part.requests, round(part.waited_ms, 1)

    def refused(self, error: ApiError) -> None:
        """This service answers with an error."""
        self.status = error.status
        self.error_code = error.code
        self.domain = error.domain

    def answered(self, answer: Answer) -> None:
        """OpenAI answered, success or error."""
        self.status = answer.status
        self.upstream_request_id = answer.upstream_request_id
        if answer.status >= 400:
            self.error_code = answer.error_code
            self.domain = upstream_domain(answer.status)

    def failed_inside(self, code: str) -> None:
        """A stream that had begun did not come to its end because of OpenAI."""
        self.error_code = code
        self.domain = Domain.UPSTREAM

    def left(self, *, draining: bool) -> None:
        """The caller went away, or this process stops and cannot wait; nobody's error."""
        self.status = self.status or LEFT_STATUS
        self.error_code = STOPPED_CODE if draining else LEFT_CODE


def write(record: Record, counts: Metrics) -> None:
    """One JSON line on stdout, never the prompt or the answer, and the metrics of the request; once."""
    if record.told:
        return
    record.told = True
    latency_ms = (time.perf_counter() - record.started) * 1000
    _count(record, counts, latency_ms)
    usage = record.usage
    identity = record.identity
    log.request_line(
        request_id=record.request_id,
        tenant=identity.tenant if identity else None,
        key_id=identity.key_id if identity else None,
        endpoint=record.endpoint,
        model=record.model,
        requested_model=record.requested_model,
        fallback_from=record.fallback_from,
        status=record.status,
        stream=record.stream,
        cache=record.cache,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        usage_estimated=True if record.usage_estimated else None,
        cost_usd=record.cost_pico / PICO_PER_USD if usage else None,
        latency_ms=round(latency_ms, 1),
        first_token_ms=record.first_token_ms,
        shared_by=record.shared_by,
        merge_wait_ms=record.merge_wait_ms,
        upstream_request_id=record.upstream_request_id,
        error_code=record.error_code,
        domain=record.domain.value if record.domain else None,
    )


def _count(record: Record, counts: Metrics, latency_ms: float) -> None:
    counts.count(metrics.REQUESTS)
    counts.observe(metrics.REQUEST_LATENCY_MS, latency_ms)
    if record.domain is not None:
        counts.count(metrics.ERROR_DOMAINS[record.domain])
    if record.status == 429 and record.domain is Domain.POLICY:
        counts.count(metrics.RATE_LIMITED)
    if record.first_token_ms is not None:
        counts.observe(metrics.TIME_TO_FIRST_TOKEN_MS, record.first_token_ms)
    if record.cache == "hit":
        counts.count(metrics.CACHE_HITS)
    elif record.cache == "miss":
        counts.count(metrics.CACHE_MISSES)
    if record.usage is not None:
        counts.count(metrics.INPUT_TOKENS, record.usage.input_tokens)
        counts.count(metrics.OUTPUT_TOKENS, record.usage.output_tokens)
        counts.count(metrics.CACHED_INPUT_TOKENS, record.usage.cached_tokens)
        counts.count(metrics.SPEND_USD, record.cost_pico / PICO_PER_USD)
