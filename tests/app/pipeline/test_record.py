from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import ApiError
from app.keys import Identity
from app.models import Models, Usage, default_document
from app.observability import metrics as names
from app.observability.metrics import Metrics
from app.pipeline import record as step
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES
from app.pipeline.pay import unknown_usage
from app.pipeline.record import Record

MODELS = Models(default_document())
IDENTITY = Identity("acme", "0123456789ab", "ci", "user", None, None)


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
    step.write(record, counts)
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


def test_every_field_of_a_line_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {}
    monkeypatch.setattr("app.observability.log.request_line", lambda **given: fields.update(given))
    step.write(Record("req_1", "/v1/responses"), Counts())
    assert list(fields) == list(step.FIELDS)


def test_a_line_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("req_1", "/v1/responses")
    for _ in range(2):
        step.write(record, Counts())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_estimate_never_misses_what_was_produced() -> None:
    asked = {"model": "fast", "input": "x" * 40, "max_output_tokens": 50, "stream": True}
    seen = make_plan(RESPONSES, {**asked, "reasoning": {"effort": "none"}}, MODELS)
    assert unknown_usage(seen, 9) == Usage(10, 0, 0, 3)
    hidden = make_plan(RESPONSES, asked, MODELS)
    assert unknown_usage(hidden, 9) == Usage(10, 0, 0, 50), "it may have thought for all it was allowed to"
