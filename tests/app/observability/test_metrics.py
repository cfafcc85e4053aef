from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability import metrics as m
from app.observability.metrics import Metrics


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def emitted(metrics: Metrics, lines: list[str]) -> dict[str, Any]:
    metrics.emit()
    document: dict[str, Any] = json.loads(lines[-1])
    return document


def made(**options: Any) -> tuple[Metrics, list[str], Clock]:
    lines: list[str] = []
    clock = Clock()
    return (
        Metrics("dev", "web", write=lines.append, clock=clock, wall_clock=lambda: 1_800_000_000.5, **options),
        lines,
        clock,
    )


def test_one_document_holds_namespace_dimensions_and_every_value() -> None:
    metrics, lines, _ = made()
    metrics.count(m.REQUESTS)
    metrics.count(m.INPUT_TOKENS, 120)
    document = emitted(metrics, lines)
    header = document.pop("_aws")
    assert header["Timestamp"] == 1_800_000_000_500
    (directive,) = header["CloudWatchMetrics"]
    assert directive["Namespace"] == "Prodkit"
    assert directive["Dimensions"] == [["Stack", "Service"]]
    named = {metric["Name"]: metric for metric in directive["Metrics"]}
    assert named["InFlightRequests"] == {"Name": "InFlightRequests", "Unit": "Count", "StorageResolution": 1}
    assert named["SpendUsd"] == {"Name": "SpendUsd", "Unit": "None"}
    assert set(document) == set(named) | {"Stack", "Service"}
    assert (document["Stack"], document["Service"]) == ("dev", "web")
    assert (document["Requests"], document["InputTokens"], document["InternalErrors"]) == (1, 120, 0)


def test_an_interval_starts_from_zero_and_a_ratio_never_misses_a_side() -> None:
    metrics, lines, _ = made()
    metrics.count(m.RATE_LIMITED, 3)
    emitted(metrics, lines)
    assert {name: value for name, value in emitted(metrics, lines).items() if name not in ("_aws", *m.DIMENSIONS)} == {
        "Requests": 0,
        "CallerErrors": 0,
        "UpstreamErrors": 0,
        "InternalErrors": 0,
        "SpendUsd": 0,
        "RateLimited": 0,
        "InFlightRequests": 0,
        "MeterHeartbeat": 1,
    }


def test_in_flight_is_the_mean_of_the_interval() -> None:
    metrics, lines, clock = made()
    with metrics.request():
        clock.now += 3
        with metrics.request():
            assert metrics.in_flight == 2
            clock.now += 1
    clock.now += 6
    assert emitted(metrics, lines)["InFlightRequests"] == 0.5
    metrics.start()
    clock.now += 10
    assert emitted(metrics, lines)["InFlightRequests"] == 1
    metrics.finish()
    metrics.finish()
    assert metrics.in_flight == 0


def test_a_request_that_fails_is_no_longer_in_flight() -> None:
    metrics, _, _ = made()
    with pytest.raises(RuntimeError), metrics.request():
        raise RuntimeError
    assert metrics.in_flight == 0


def test_a_dead_meter_has_no_heartbeat() -> None:
    metrics, lines, _ = made(meter_alive=lambda: False)
    assert "MeterHeartbeat" not in emitted(metrics, lines)


def test_names_that_no_alarm_knows_are_refused() -> None:
    metrics, _, _ = made()
    for name in ("Latency", m.REQUEST_LATENCY_MS):
        with pytest.raises(KeyError):
            metrics.count(name)
    with pytest.raises(KeyError):
        metrics.observe(m.REQUESTS, 1)


@given(st.lists(st.floats(0, 4_000_000), min_size=1, max_size=400))
def test_a_distribution_is_bounded_and_keeps_count_sum_and_shape(latencies: list[float]) -> None:
    metrics, lines, _ = made()
    for latency in latencies:
        metrics.observe(m.REQUEST_LATENCY_MS, latency)
    found = emitted(metrics, lines)["RequestLatencyMs"]
    assert len(found["Values"]) == len(found["Counts"]) <= m.MAX_VALUES
    assert found["Count"] == sum(found["Counts"]) == len(latencies)
    assert found["Sum"] == pytest.approx(sum(latencies), abs=0.001)
    assert found["Values"] == sorted(set(found["Values"]))
    assert found["Min"] == pytest.approx(max(1, min(latencies)), rel=0.2)
    assert found["Max"] == pytest.approx(max(1, max(latencies)), rel=0.2)


def test_every_latency_from_a_millisecond_to_an_hour_fits_one_document() -> None:
    metrics, lines, _ = made()
    value = 1.0
    while value < 3_600_000:
        metrics.observe(m.TIME_TO_FIRST_TOKEN_MS, value)
        value *= 1.05
    assert len(emitted(metrics, lines)["TimeToFirstTokenMs"]["Values"]) <= m.MAX_VALUES


async def test_stopping_writes_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "EMIT_SECONDS", 0.0)
    lines: list[str] = []
    wrote = asyncio.Event()

    def write(line: str) -> None:
        lines.append(line)
        wrote.set()

    metrics = Metrics("dev", "web", write=write)
    await metrics.run()
    await wrote.wait()
    metrics.count(m.REQUESTS)
    await metrics.stop()
    assert json.loads(lines[-1])["Requests"] == 1


def test_a_job_writes_one_document_with_its_own_metrics_only() -> None:
    lines: list[str] = []
    values = {m.JOB_RUNS: 1.0, m.JOB_FAILURES: 0.0, m.KEY_AGE_DAYS: 3.5}
    m.write_once("dev", "rotate-key", values, write=lines.append, wall_clock=lambda: 1_800_000_000.5)
    (document,) = map(json.loads, lines)
    assert {"Stack": "dev", "Service": "rotate-key", **values}.items() <= document.items()
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "JobRuns": "Count",
        "JobFailures": "Count",
        "KeyAgeDays": "None",
    }
    with pytest.raises(KeyError, match="Unheard"):
        m.write_once("dev", "rotate-key", {"Unheard": 1.0}, write=lines.append)
