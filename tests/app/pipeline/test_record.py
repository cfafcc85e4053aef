from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.budgets.policy import Rung
from app.errors import ApiError, Domain
from app.keys import Identity
from app.models import Models, Usage, default_document
from app.observability import metrics as names
from app.observability.metrics import Metrics
from app.observability.trace import Trace
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES
from app.pipeline.pay import unknown_usage
from app.pipeline.phases import Phases
from app.pipeline.record import Record
from app.pipeline.request_line import FIELDS, write_line
from app.prices import PICO_PER_USD

MODELS = Models(default_document())
IDENTITY = Identity("acme", "0123456789ab", "ci", "user", None, None)

PHASES = {
    "receive_ms": names.RECEIVE_MS,
    "overhead_ms": names.OVERHEAD_MS,
    "prompt_ms": names.PROMPT_MS,
    "generation_ms": names.GENERATION_MS,
    "whole_answer_ms": names.WHOLE_ANSWER_MS,
    "openai_processing_ms": names.OPENAI_PROCESSING_MS,
    "first_token_ms": names.TIME_TO_FIRST_TOKEN_MS,
}
"""Of the log line, each a metric as well."""


class Counts(Metrics):
    """Metrics that remember what was counted."""

    def __init__(self) -> None:
        super().__init__("dev", "web", write=lambda _: None)
        self.seen: dict[str, float] = {}

    def count(self, name: str, value: float = 1) -> None:
        super().count(name, value)
        self.seen[name] = self.seen.get(name, 0) + value

    def observe(self, name: str, value: float) -> None:
        super().observe(name, value)
        self.seen[name] = value


def written(record: Record, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], dict[str, float]]:
    counts = Counts()
    write_line(record, counts)
    return json.loads(capsys.readouterr().out), counts.seen


@pytest.mark.parametrize(
    ("code", "metric"),
    [
        ("invalid_json", names.CALLER_ERRORS),
        ("not_allowed", names.POLICY_ERRORS),
        ("overloaded", names.POLICY_ERRORS),
        ("upstream_timeout", names.UPSTREAM_ERRORS),
        ("internal_error", names.INTERNAL_ERRORS),
    ],
)
def test_an_error_counts_for_its_domain_and_no_other(
    capsys: pytest.CaptureFixture[str], code: str, metric: str
) -> None:
    record = Record("req_1", "/v1/responses", IDENTITY)
    record.refused(ApiError(code, "no"))
    line, counts = written(record, capsys)
    assert line["error_code"] == code
    assert {name for name in names.ERROR_DOMAINS.values() if name in counts} == {metric}
    assert counts[names.REQUESTS] == 1


def test_a_limit_of_ours_is_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("req_1", "/v1/responses", IDENTITY)
    record.refused(ApiError("rate_limit_exceeded", "later"))
    assert written(record, capsys)[1][names.RATE_LIMITED] == 1


@pytest.mark.parametrize(("draining", "code"), [(False, "client_disconnected"), (True, "stopped")])
def test_nobody_is_blamed_for_a_caller_who_leaves(
    capsys: pytest.CaptureFixture[str], draining: bool, code: str
) -> None:
    record = Record("req_1", "/v1/responses", IDENTITY)
    record.left(draining=draining)
    line, counts = written(record, capsys)
    assert (line["status"], line["error_code"]) == (499, code)
    assert not set(names.ERROR_DOMAINS.values()) & set(counts)


def test_a_charged_call_tells_tokens_and_dollars_but_no_word_of_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(RESPONSES, {"model": "fast", "input": "a secret question"}, MODELS)
    record = Record("req_1", "/v1/responses", IDENTITY)
    record.planned(plan)
    record.cache = "miss"
    record.status = 200
    record.usage = Usage(100_000, 0, 0, 100_000)
    record.cost_pico = plan.model.price.cost_pico(record.usage)
    line, counts = written(record, capsys)
    assert (line["input_tokens"], line["output_tokens"], line["cost_usd"]) == (100_000, 100_000, 0.06)
    assert counts[names.SPEND_USD] == 0.06
    assert counts[names.CACHE_MISSES] == 1
    assert "secret" not in json.dumps(line)


def test_every_field_of_a_line_stands_under_its_name_and_its_times_are_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = {
        "request_id": "req_1",
        "parent": "/ask",
        "endpoint": "/v1/responses",
        "model": "m",
        "requested_model": "fast",
        "fallback_from": "other",
        "status": 200,
        "cache": "miss",
        "usage_estimated": True,
        "shared_by": 3,
        "deferred": "d",
        "merge_wait_ms": 4.5,
        "upstream_request_id": "up",
        "error_code": "invalid_json",
    }
    shown = set()
    for stream in (True, False):
        record = Record(**fields, identity=IDENTITY, stream=stream)  # type: ignore[arg-type]
        record.trace = Trace("trace", "span", "before", 1)
        record.rung, record.domain = Rung.CHEAPER, Domain.CALLER
        record.usage, record.cost_pico = Usage(11, 12, 0, 13), 14 * PICO_PER_USD
        record.openai_ms, record.queue_seconds = 15.0, 0.016
        now = time.perf_counter()
        began, first = now - 20, now - 10 if stream else None
        record.phases = Phases(now - 60, 17.0, now - 30, began, first, now, True)
        line, observed = written(record, capsys)
        assert {name: line[name] for name in fields} == fields
        assert {field for field, metric in PHASES.items() if metric in observed} == PHASES.keys() & line.keys()
        assert all(line[field] == round(observed[PHASES[field]], 1) for field in PHASES.keys() & line.keys())
        assert (line["trace_id"], line["span_id"], line["parent_span_id"]) == ("trace", "span", "before")
        assert (line["tenant"], line["key_id"], line["stream"]) == ("acme", "0123456789ab", stream)
        assert (line["budget_rung"], line["domain"]) == ("cheaper", "caller")
        assert (line["input_tokens"], line["cached_tokens"], line["output_tokens"], line["cost_usd"]) == (
            11,
            12,
            13,
            14,
        )
        assert (line["openai_processing_ms"], line["queue_ms"]) == (15, 16)
        assert (line["receive_ms"], line["failed_attempts_ms"]) == (17_000, 10_000)
        assert line["latency_ms"] == pytest.approx(60_000, abs=500)
        assert line["overhead_ms"] == pytest.approx(13_000, abs=500)
        if stream:
            assert (line["prompt_ms"], line["generation_ms"], line["first_token_ms"]) == (10_000, 10_000, 50_000)
        else:
            assert line["whole_answer_ms"] == 20_000
        shown |= set(line)
        assert [name for name in FIELDS if name in line] == list(line)[3:]
    assert shown == {"time", "level", "event", *FIELDS}


def test_a_line_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("req_1", "/v1/responses")
    for _ in range(2):
        write_line(record, Counts())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_estimate_never_misses_what_was_produced() -> None:
    asked = {"model": "fast", "input": "x" * 40, "max_output_tokens": 50, "stream": True}
    seen = make_plan(RESPONSES, {**asked, "reasoning": {"effort": "none"}}, MODELS)
    assert unknown_usage(seen, 9) == Usage(10, 0, 0, 3)
    hidden = make_plan(RESPONSES, asked, MODELS)
    assert unknown_usage(hidden, 9) == Usage(10, 0, 0, 50), "it may have thought for all it was allowed to"
