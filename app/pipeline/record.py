"""What is known about a request; every step fills in its part."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.budgets.policy import Rung
from app.errors import ApiError, Domain, upstream_domain
from app.observability import trace as traces
from app.observability.trace import HEADER as TRACE_HEADER
from app.pipeline.phases import Phases

if TYPE_CHECKING:
    from app.keys import Identity
    from app.models import Usage
    from app.observability.trace import Trace
    from app.pipeline.answer import Answer
    from app.pipeline.choose import Plan

LEFT_STATUS = 499
"""For the log alone: nobody waits for the answer any more."""
LEFT_CODE = "client_disconnected"
STOPPED_CODE = "stopped"
PROCESSING_HEADER = "openai-processing-ms"
MAX_DIGITS = 9  # of a header's milliseconds; more is no time that a request can take


@dataclass(slots=True)
class Record:
    """What is known about one request; filled on its way, written once at its end."""

    request_id: str
    endpoint: str
    identity: Identity | None = None
    method: str | None = None
    """Of the HTTP request; None for a call that is none."""
    phases: Phases = field(default_factory=Phases)
    status: int | None = None
    stream: bool = False
    model: str | None = None
    requested_model: str | None = None
    fallback_from: str | None = None
    """The model that could not answer, when another did."""
    cache: str | None = None
    rung: Rung = Rung.NORMAL
    """How far the call's budgets were degraded."""
    usage: Usage | None = None
    usage_estimated: bool = False
    cost_pico: int = 0
    trace: Trace | None = None
    """Known from its beginning; else `step` makes it."""
    sampled: bool | None = None
    """Whether a trace that begins with this request is exported; None = none begins with it."""
    parent: str | None = None
    """Path of the request that this call was made for; None for one that came from outside."""
    openai_ms: float | None = None
    """What OpenAI says it took."""
    upstream_request_id: str | None = None
    deferred: str | None = None
    """Id of a request that may wait."""
    shared_by: int | None = None
    """Requests that one call to OpenAI answered together, this one among them."""
    queue_seconds: float = 0.0
    """How long it waited for its turn at a rate limit of ours."""
    merge_wait_ms: float | None = None
    """How long this one waited for the others."""
    error_code: str | None = None
    domain: Domain | None = None
    ended: float | None = None
    """When, by `time.perf_counter`, if that was before its line is written."""
    told: bool = False
    """The line of this request is written, or is another record's to write."""

    def step(self) -> Trace | None:
        """Its step of a trace. A trace that begins here is made when it is first asked for: by then OpenAI is asked."""
        if self.trace is None and self.sampled is not None:
            self.trace = traces.new(self.request_id, sampled=self.sampled)
        return self.trace

    def id_headers(self) -> list[tuple[str, str]]:
        """What names this request in its answer."""
        headers = [("x-request-id", self.request_id)]
        step = self.step()
        if step is not None:
            headers.append((TRACE_HEADER, step.header))
        return headers

    def planned(self, plan: Plan) -> None:
        """The model is chosen."""
        self.model = plan.model.name
        self.requested_model = plan.requested_model
        self.stream = plan.stream

    def fell_back(self, plan: Plan) -> None:
        """Another model than the chosen one answers."""
        self.fallback_from, self.model = self.model, plan.model.name

    def merged(self, sent_at: float | None, requests: int, waited_ms: float) -> None:
        """The call to OpenAI was, or may have been, one for several requests."""
        if sent_at is not None:
            self.phases.asked(sent_at)
        if requests > 1:
            self.shared_by, self.merge_wait_ms = requests, round(waited_ms, 1)

    def refused(self, error: ApiError) -> None:
        """This service answers with an error."""
        self.status = error.status
        self.error_code = error.code
        self.domain = error.domain

    def answered(self, answer: Answer) -> None:
        """OpenAI answered, success or error."""
        self.status = answer.status
        self.upstream_request_id = answer.upstream_request_id
        self.phases.answered_at = time.perf_counter()
        self.phases.succeeded = answer.status == 200
        self.openai_ms = processing_ms(answer.headers)
        if answer.status >= 400:
            self.error_code = answer.error_code
            self.domain = upstream_domain(answer.status)

    def failed_inside(self, code: str) -> None:
        """A stream that had begun did not come to its end because of OpenAI."""
        self.error_code = code
        self.domain = Domain.UPSTREAM

    def broke_off(self, error: ApiError) -> None:
        """An answer that had begun ends with this error instead; its status was sent."""
        self.error_code = error.code
        self.domain = error.domain

    def left(self, *, draining: bool) -> None:
        """The caller went away, or this process stops and cannot wait; nobody's error."""
        self.status = self.status or LEFT_STATUS
        self.error_code = STOPPED_CODE if draining else LEFT_CODE


def processing_ms(headers: Iterable[tuple[str, str]]) -> float | None:
    """OpenAI's own time for an answer, by its header; None without one that is a sensible number."""
    for name, value in headers:
        if name == PROCESSING_HEADER:
            return float(value) if value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS else None
    return None
