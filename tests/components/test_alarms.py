import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import _alarms, _metrics
from components.alarms import Alarms
from tests.components.recorder import REGION, Record, Recording

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TOPIC = "arn:topic"
BASE: dict[str, Any] = {
    "stack": "test",
    "topic_arn": "arn:topic",
    "cluster_name": "cluster",
    "web_service_name": "web-1",
    "worker_service_name": "worker-1",
    "load_balancer_suffix": "app/web/1",
    "target_group_suffixes": ["targetgroup/web/2", "targetgroup/web/3"],
    "queue_name": "jobs",
    "dead_letter_name": "jobs-dead",
    "web_log_group_name": "web-log",
    "worker_log_group_name": "worker-log",
    "tags": {"Stack": "test"},
}


def recorded(record: Record, **more: Any) -> Recording:
    args: Any = {**BASE, **more}
    return record(lambda: Alarms("alarms", args))


def every_alarm() -> list[_alarms.Alarm]:
    return [
        *_alarms.app_alarms("test", 60_000, 10_000),
        *_alarms.balancer_alarms("app/web/1", ["targetgroup/web/2", "targetgroup/web/3"]),
        *_alarms.queue_alarms("jobs", "jobs-dead", 900),
        *_alarms.saturation_alarms("web", "cluster", "web-1"),
        *_alarms.saturation_alarms("worker", "cluster", "worker-1"),
        *_alarms.spend_alarms("test", 100),
        *_alarms.budget_alarms("test"),
    ]


def test_every_alarm_tells_people_and_says_what_silence_means(record: Record) -> None:
    alarms = recorded(record).all(ALARM)
    assert {alarm.name for alarm in alarms} == {
        f"alarms-{name}"
        for name in (
            *("errors-us", "errors-upstream", "latency", "first-token", "quota", "deferred-overdue"),
            *("web-silent", "worker-silent"),
            *("balancer-5xx", "unhealthy", "nobody-home", "dead-letters", "queue-age"),
            *("web-cpu", "web-memory", "worker-cpu", "worker-memory"),
        )
    }
    for alarm in alarms:
        assert alarm.inputs["alarmActions"] == [TOPIC]
        assert alarm.inputs["okActions"] == [TOPIC]
        assert alarm.inputs["treatMissingData"] in {"breaching", "notBreaching"}
        assert alarm.inputs["alarmDescription"]


def test_silence_is_an_alarm_only_where_there_is_always_a_sound() -> None:
    breaching = {alarm.name for alarm in every_alarm() if alarm.missing == "breaching"}
    assert breaching == {"web-silent", "worker-silent", "nobody-home", "budget-unwatched"}


def test_a_meter_that_stopped_is_noticed_within_five_minutes(record: Record) -> None:
    silent = recorded(record).one(ALARM, "alarms-web-silent").inputs
    assert (silent["namespace"], silent["metricName"]) == ("Prodkit", "MeterHeartbeat")
    assert silent["dimensions"] == {"Stack": "test", "Service": "web"}
    assert (silent["comparisonOperator"], silent["threshold"], silent["statistic"]) == ("LessThanThreshold", 1, "Sum")
    assert silent["period"] * silent["evaluationPeriods"] == 300


def test_only_our_own_failures_count_as_ours(record: Record) -> None:
    ours = recorded(record).one(ALARM, "alarms-errors-us").inputs
    errors, requests, share = ours["metricQueries"]
    assert errors["metric"]["metricName"] == "InternalErrors"
    assert requests["metric"]["metricName"] == "Requests"
    assert share["expression"] == "IF(requests >= 20, 100 * errors / requests, 0)"
    assert [q["returnData"] for q in (errors, requests, share)] == [False, False, True]
    assert (ours["threshold"], ours["evaluationPeriods"]) == (1, 2)
    assert "metricName" not in ours


def test_latency_is_judged_by_its_slowest_hundredth(record: Record) -> None:
    made = recorded(record, latency_p99_ms=30_000, first_token_p99_ms=5_000)
    latency = made.one(ALARM, "alarms-latency").inputs
    assert (latency["metricName"], latency["extendedStatistic"], latency["threshold"]) == (
        *("RequestLatencyMs", "p99"),
        30_000,
    )
    assert "statistic" not in latency
    first = made.one(ALARM, "alarms-first-token").inputs
    assert (first["metricName"], first["threshold"]) == ("TimeToFirstTokenMs", 5_000)


def test_one_dead_letter_is_enough(record: Record) -> None:
    dead = recorded(record).one(ALARM, "alarms-dead-letters").inputs
    assert dead["dimensions"] == {"QueueName": "jobs-dead"}
    assert (dead["comparisonOperator"], dead["threshold"], dead["evaluationPeriods"]) == ("GreaterThanThreshold", 0, 1)
    age = recorded(record, queue_age_seconds=60).one(ALARM, "alarms-queue-age").inputs
    assert (age["metricName"], age["threshold"]) == ("ApproximateAgeOfOldestMessage", 60)
    assert age["dimensions"] == {"QueueName": "jobs"}


def test_the_balancer_is_watched_from_outside(record: Record) -> None:
    made = recorded(record)
    nobody = made.one(ALARM, "alarms-nobody-home").inputs
    first, second, ready = nobody["metricQueries"]
    # After a canary or linear rollout the tasks are in the other group.
    assert [query["metric"]["dimensions"] for query in (first, second)] == [
        {"LoadBalancer": "app/web/1", "TargetGroup": "targetgroup/web/2"},
        {"LoadBalancer": "app/web/1", "TargetGroup": "targetgroup/web/3"},
    ]
    assert ready["expression"] == "FILL(group0, 0) + FILL(group1, 0)"
    assert {query["metric"]["metricName"] for query in (first, second)} == {"HealthyHostCount"}
    assert (nobody["threshold"], nobody["treatMissingData"]) == (1, "breaching")
    own = made.one(ALARM, "alarms-balancer-5xx").inputs
    assert (own["metricName"], own["dimensions"]) == ("HTTPCode_ELB_5XX_Count", {"LoadBalancer": "app/web/1"})


def test_full_tasks_are_noticed_per_service(record: Record) -> None:
    cpu = recorded(record).one(ALARM, "alarms-worker-cpu").inputs
    assert (cpu["namespace"], cpu["metricName"], cpu["threshold"]) == ("AWS/ECS", "CPUUtilization", 90)
    assert cpu["dimensions"] == {"ClusterName": "cluster", "ServiceName": "worker-1"}


def test_every_alarm_is_one_that_cloudwatch_accepts() -> None:
    names = [alarm.name for alarm in every_alarm()]
    assert len(set(names)) == len(names)
    for alarm in every_alarm():
        assert (alarm.metric is None) == bool(alarm.queries)
        assert alarm.period_seconds in {10, 20, 30} or alarm.period_seconds % 60 == 0
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html: one day at most
        assert alarm.period_seconds * alarm.periods <= 86_400
        assert len(alarm.description) <= 1024
        if alarm.namespace == _metrics.NAMESPACE:
            assert alarm.metric in _metrics.NAMES


@given(st.floats(0.01, 1e7))
def test_an_even_month_sets_off_no_spend_alarm_and_a_runaway_does(budget: float) -> None:
    for alarm in _alarms.spend_alarms("test", budget):
        even = budget * alarm.period_seconds / _alarms.MONTH
        assert even < alarm.threshold + 1e-4
        assert even * 20 > alarm.threshold


def test_the_dashboard_shows_what_is_measured(record: Record) -> None:
    made = recorded(record)
    dashboard = made.one("aws:cloudwatch/dashboard:Dashboard")
    assert dashboard.inputs["dashboardName"] == "prodkit-test"
    widgets = dashboard.json("dashboardBody")["widgets"]
    places = [(w["x"], w["y"]) for w in widgets]
    assert len(set(places)) == len(places)
    assert all(w["x"] + w["width"] <= 24 for w in widgets)
    assert all(w["properties"]["region"] == REGION for w in widgets)
    charted = {
        series[1]
        for widget in widgets
        for series in widget["properties"].get("metrics", [])
        if series[0] == _metrics.NAMESPACE
    }
    assert charted == _metrics.NAMES - _metrics.OF_JOBS - {_metrics.METER_HEARTBEAT}
    [tokens] = [w["properties"]["metrics"] for w in widgets if w["properties"]["title"] == "Tokens"]
    ids = {series[-1]["id"]: series[1] for series in tokens if "id" in series[-1]}
    assert ids == {"input": _metrics.INPUT_TOKENS, "cached": _metrics.CACHED_INPUT_TOKENS}
    assert [s[0]["expression"] for s in tokens if isinstance(s[0], dict)] == ["100 * cached / input"]
    query = widgets[-1]["properties"]["query"]
    assert query.startswith("SOURCE 'web-log' | SOURCE 'worker-log' | fields time, domain")
    url = made.outputs("prodkit:index:Alarms")["dashboard_url"]
    assert url.startswith(f"https://{REGION}.console.aws.amazon.com/cloudwatch/")
    assert url.endswith("#dashboards/dashboard/prodkit-test")


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record)
    assert made.strays("prodkit:index:Alarms") == []
    untagged = {r.type for r in made.resources if r.custom and r.inputs.get("tags") != {"Stack": "test"}}
    assert untagged == {"aws:cloudwatch/dashboard:Dashboard"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latency_p99_ms": 99}, "latency_p99_ms=99 is not allowed; choose 100 to 3600000 ms"),
        ({"first_token_p99_ms": 0}, "first_token_p99_ms=0 is not allowed"),
        ({"queue_age_seconds": 59}, "queue_age_seconds=59 is not allowed; choose 60 to 1209600 seconds"),
        ({"topic": "arn"}, "unknown argument 'topic'; did you mean 'topic_arn'?"),
        ({"topic_arn": None}, "missing argument 'topic_arn'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'Alarms: {message}')}"):
        recorded(record, **wrong)
