"""What a new version is blamed for, and what not: alarms that roll back, evaluated as CloudWatch would."""

import re

import pytest

from app.errors import KINDS, Domain
from app.observability.metrics import ERROR_DOMAINS
from components import _rollback
from components._alarms import Alarm


def alarms(service: str = "web", balancer: str | None = "app/web/1") -> dict[str, Alarm]:
    made = _rollback.alarms("test", service, 60_000, balancer, ["targetgroup/a", "targetgroup/b"])
    return {alarm.name.removeprefix("rollback-"): alarm for alarm in made}


def value(alarm: Alarm, **metrics: float) -> float:
    """What an alarm judges when the metrics, by name, have these values; an absent one has no data."""
    known = {q["id"]: metrics.get(q["metric"]["metric_name"]) for q in alarm.queries if "metric" in q}
    (judged,) = [query["expression"] for query in alarm.queries if query["return_data"]]
    # CloudWatch's operators are Python's; its IF leaves the other branch alone, as Python's conditional does.
    text = re.sub(r"^IF\((.+ >= \d+), (.+), (.+)\)$", r"(\2) if (\1) else (\3)", judged)
    result: float = eval(text, {"FILL": lambda series, filler: filler if series is None else series}, known)
    return result


def fires(alarm: Alarm, **metrics: float) -> bool:
    return value(alarm, **metrics) > alarm.threshold


@pytest.mark.parametrize(
    ("requests", "errors", "back"),
    [(1000, 11, True), (1000, 10, False), (20, 3, True), (20, 2, False), (3, 3, True), (0, 0, False)],
)
def test_over_one_percent_of_our_own_failures_goes_back(requests: int, errors: int, back: bool) -> None:
    assert fires(alarms()["errors"], Requests=requests, InternalErrors=errors) is back


def test_a_canary_that_fails_for_a_fifth_of_its_tenth_goes_back() -> None:
    assert fires(alarms()["errors"], Requests=1000, InternalErrors=1000 * 0.1 * 0.2)


def test_shed_refused_and_upstream_failures_never_go_back() -> None:
    read = {query["metric"]["metric_name"] for query in alarms()["errors"].queries if "metric" in query}
    assert read == {"Requests", ERROR_DOMAINS["us"]}
    for code in ("overloaded", "rate_limit_exceeded", "api_key_missing", "upstream_timeout", "upstream_unreachable"):
        assert KINDS[code].domain is not Domain.US, code


def test_slowness_goes_back_unless_openai_is_failing() -> None:
    latency = alarms()["latency"]
    assert fires(latency, RequestLatencyMs=60_001)
    assert fires(latency, RequestLatencyMs=60_001, UpstreamErrors=2)
    assert not fires(latency, RequestLatencyMs=60_000)
    assert not fires(latency, RequestLatencyMs=600_000, UpstreamErrors=3)
    assert next(q["metric"]["stat"] for q in latency.queries if q["id"] == "slowest") == "p99"


def test_unready_tasks_in_either_group_go_back() -> None:
    unready = alarms()["unready"]
    assert fires(unready, UnHealthyHostCount=1)
    assert not fires(unready)
    groups = [q["metric"]["dimensions"]["TargetGroup"] for q in unready.queries if "metric" in q]
    assert groups == ["targetgroup/a", "targetgroup/b"]


def test_silence_never_goes_back_and_every_alarm_is_quick() -> None:
    for alarm in alarms().values():
        assert alarm.missing == "notBreaching"
        assert alarm.period_seconds * alarm.periods <= 180


def test_a_service_without_a_balancer_is_judged_by_errors_of_its_own() -> None:
    (errors,) = alarms("worker", None).values()
    assert {str(q["metric"]["dimensions"]["Service"]) for q in errors.queries if "metric" in q} == {"worker"}
