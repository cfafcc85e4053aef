"""What a collector is sent: finished requests as spans and histograms, in OTLP's JSON form, with GenAI names.

Names: https://github.com/open-telemetry/semantic-conventions-genai (development) and the HTTP conventions (stable).
Imported only where an endpoint is set.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from app.observability.trace import valid_state

if TYPE_CHECKING:
    from app.pipeline.record import Record

SERVER, CLIENT = 2, 3  # kinds of a span
ERROR = 2  # status of one
CUMULATIVE = 2
OPERATIONS = {"/v1/responses": "chat", "/v1/chat/completions": "chat", "/v1/embeddings": "embeddings"}
MODERATION = "moderation"  # the conventions have no word for it
ROUTES = frozenset({*OPERATIONS, "/v1/moderations", "/v1/models", "/ask", "/documents", "/openapi.json"})
DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"
_SECONDS_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
BOUNDS: Mapping[str, tuple[float, ...]] = {
    DURATION: _SECONDS_BOUNDS,
    FIRST_CHUNK: _SECONDS_BOUNDS,
    TOKENS: tuple(4.0**power for power in range(14)),
}
"""Bucket limits as the conventions ask for them."""
UNITS = {DURATION: "s", FIRST_CHUNK: "s", TOKENS: "{token}"}
MAX_SERIES = 1_000
"""Of one histogram; what more models and error codes there were goes into one series without them."""
SCOPE = {"name": "prodkit"}

Attributes = tuple[tuple[str, str | int | bool], ...]


@dataclass(slots=True)
class Finished:
    """A request that ended, and when by `time.perf_counter`."""

    record: Record
    ended: float
    counted: bool = False
    """It is in the histograms; its spans may still be sent once more."""


def resource(stack: str, service: str) -> dict[str, Any]:
    """Who sends: one process."""
    return {
        "attributes": _attributes(
            (
                ("service.name", f"prodkit-{service}"),
                ("service.namespace", "prodkit"),
                ("service.instance.id", secrets.token_hex(8)),
                ("deployment.environment.name", stack),
            )
        )
    }


def spans(finished: Iterable[Finished]) -> list[dict[str, Any]]:
    """The spans of requests whose trace is sampled."""
    # Both clocks now: their difference turns moments of the one into times of the other.
    offset = time.time() - time.perf_counter()
    return [span for each in finished for span in _spans(each, offset)]


def traces(about: Mapping[str, Any], spans: Iterable[bytes]) -> bytes:
    """The message that holds spans, each of them JSON already."""
    fragments = [orjson.Fragment(span) for span in spans]
    document = {"resourceSpans": [{"resource": about, "scopeSpans": [{"scope": SCOPE, "spans": fragments}]}]}
    return orjson.dumps(document)


def _spans(finished: Finished, offset: float) -> Iterable[dict[str, Any]]:
    record = finished.record
    trace = record.step()
    if trace is None or not trace.sampled:
        return
    call_id = trace.span_id
    parent_id = trace.parent_id
    state = valid_state(trace.state)
    if record.method is not None:
        yield {
            "traceId": trace.trace_id,
            "spanId": trace.span_id,
            "traceState": state,
            **({"parentSpanId": parent_id} if parent_id else {}),
            "name": f"{record.method} {_route(record.endpoint)}".rstrip(),
            "kind": SERVER,
            **_times(record.phases.started, finished.ended, offset),
            "attributes": _attributes(_request_attributes(record)),
            **_status(record),
        }
        call = trace.child()
        call_id, parent_id = call.span_id, trace.span_id
    if record.phases.asked_at is not None:
        yield {
            "traceId": trace.trace_id,
            "spanId": call_id,
            "traceState": state,
            **({"parentSpanId": parent_id} if parent_id else {}),
            "name": f"{operation(record)} {record.model}",
            "kind": CLIENT,
            **_times(record.phases.asked_at, record.phases.answered_at or finished.ended, offset),
            "attributes": _attributes(_call_attributes(record)),
            **_status(record),
        }


def operation(record: Record) -> str:
    """What was asked of the model."""
    return OPERATIONS.get(record.endpoint, MODERATION)


def _route(path: str) -> str:
    """The path where it is one of a few; a caller's own would make endless names."""
    for family in ("/documents/", "/v1/models/"):
        if path.startswith(family):
            return family + "{id}"
    return path if path in ROUTES else ""


def _request_attributes(record: Record) -> Attributes:
    found: list[tuple[str, Any]] = [
        ("http.request.method", record.method),
        ("http.route", _route(record.endpoint) or None),
        ("http.response.status_code", record.status),
        ("error.type", record.error_code),
        ("prodkit.request_id", record.request_id),
        ("prodkit.tenant", record.identity.tenant if record.identity else None),
        ("prodkit.cache", record.cache),
    ]
    return tuple((name, value) for name, value in found if value is not None)


def _call_attributes(record: Record) -> Attributes:
    usage = record.usage
    found: list[tuple[str, Any]] = [
        *_model_attributes(record),
        ("gen_ai.request.stream", record.stream),
        ("gen_ai.usage.input_tokens", usage.input_tokens if usage else None),
        ("gen_ai.usage.output_tokens", usage.output_tokens if usage else None),
        ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens if usage else None),
        ("error.type", record.error_code),
        ("prodkit.request_id", record.request_id),
        ("prodkit.upstream_request_id", record.upstream_request_id),
    ]
    return tuple((name, value) for name, value in found if value is not None)


def _model_attributes(record: Record) -> Attributes:
    return (
        ("gen_ai.operation.name", operation(record)),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", record.fallback_from or record.model or ""),
        ("gen_ai.response.model", record.model or ""),
    )


@dataclass(slots=True)
class _Series:
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class Histograms:
    """Durations and tokens since the process began, by model, operation and error; never by tenant."""

    began: float = field(default_factory=time.time)
    series: dict[str, dict[Attributes, _Series]] = field(default_factory=lambda: {name: {} for name in BOUNDS})

    def add(self, finished: Finished) -> None:
        """Count a call to a model; other requests are none of the conventions' business."""
        record, phases = finished.record, finished.record.phases
        if finished.counted or phases.asked_at is None:
            return
        finished.counted = True
        about = _model_attributes(record)
        failed: Attributes = () if record.error_code is None else (("error.type", record.error_code),)
        self._observe(DURATION, about + failed, (phases.answered_at or finished.ended) - phases.asked_at)
        if record.stream and phases.first_token_at is not None:
            self._observe(FIRST_CHUNK, about, phases.first_token_at - phases.asked_at)
        if record.usage is not None and not record.usage_estimated:
            self._observe(TOKENS, (*about, ("gen_ai.token.type", "input")), record.usage.input_tokens)
            self._observe(TOKENS, (*about, ("gen_ai.token.type", "output")), record.usage.output_tokens)

    def _observe(self, name: str, attributes: Attributes, value: float) -> None:
        known = self.series[name]
        if attributes not in known and len(known) >= MAX_SERIES:
            attributes = (("otel.metric.overflow", True),)
        found = known.get(attributes)
        if found is None:
            found = known[attributes] = _Series([0] * (len(BOUNDS[name]) + 1))
        found.counts[bisect_left(BOUNDS[name], value)] += 1
        found.total += value

    def document(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """All of them, as of now."""
        times = {"startTimeUnixNano": _nanoseconds(self.began), "timeUnixNano": _nanoseconds(time.time())}
        metrics = [
            {
                "name": name,
                "unit": UNITS[name],
                "histogram": {
                    "aggregationTemporality": CUMULATIVE,
                    "dataPoints": [
                        {
                            **times,
                            "attributes": _attributes(attributes),
                            "count": str(sum(found.counts)),
                            "sum": found.total,
                            "bucketCounts": [str(count) for count in found.counts],
                            "explicitBounds": BOUNDS[name],
                        }
                        for attributes, found in series.items()
                    ],
                },
            }
            for name, series in self.series.items()
            if series
        ]
        return {"resourceMetrics": [{"resource": about, "scopeMetrics": [{"scope": SCOPE, "metrics": metrics}]}]}


def _status(record: Record) -> dict[str, Any]:
    return {"status": {"code": ERROR}} if record.domain is not None else {}


def _times(began: float, ended: float, offset: float) -> dict[str, str]:
    return {"startTimeUnixNano": _nanoseconds(began + offset), "endTimeUnixNano": _nanoseconds(ended + offset)}


def _nanoseconds(seconds: float) -> str:
    return str(int(seconds * 1_000_000) * 1_000)


def _attributes(pairs: Attributes) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in pairs]


def _value(value: str | int | bool) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
