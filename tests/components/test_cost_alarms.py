from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cost_alarms import CostAlarms, anomaly_scope, smallest_anomaly_usd
from tests.components.recorder import Record, Recording

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
MONITOR = "aws:costexplorer/anomalyMonitor:AnomalyMonitor"
SUBSCRIPTION = "aws:costexplorer/anomalySubscription:AnomalySubscription"
BASE: dict[str, Any] = {
    "stack": "test",
    "monthly_budget_usd": 300,
    "token_budget_usd": 720,
    "email": ["ops@example.com"],
    "topic_arn": "arn:topic",
    "cost_tag_key": "prodkit:stack",
    "cost_tag_value": "test",
    "tags": {"Stack": "test"},
}


def recorded(record: Record, **more: Any) -> Recording:
    args: Any = {**BASE, **more}
    return record(lambda: CostAlarms("cost", args))


def test_the_budget_speaks_before_and_after_the_money_is_gone(record: Record) -> None:
    budget = recorded(record).one("aws:budgets/budget:Budget").inputs
    assert (budget["budgetType"], budget["timeUnit"]) == ("COST", "MONTHLY")
    assert (budget["limitAmount"], budget["limitUnit"]) == ("300.0", "USD")
    assert [(n["threshold"], n["notificationType"]) for n in budget["notifications"]] == [
        (80, "ACTUAL"),
        (100, "ACTUAL"),
        (100, "FORECASTED"),
    ]
    for notification in budget["notifications"]:
        assert notification["subscriberEmailAddresses"] == ["ops@example.com"]
        assert notification["subscriberSnsTopicArns"] == ["arn:topic"]
        assert (notification["comparisonOperator"], notification["thresholdType"]) == ("GREATER_THAN", "PERCENTAGE")


def test_a_stack_pays_only_for_itself(record: Record) -> None:
    made = recorded(record)
    budget = made.one("aws:budgets/budget:Budget").inputs
    assert budget["costFilters"] == [{"name": "TagKeyValue", "values": ["user:prodkit:stack$test"]}]
    monitor = made.one(MONITOR)
    assert monitor.inputs["monitorType"] == "CUSTOM"
    assert monitor.json("monitorSpecification") == anomaly_scope("prodkit:stack", "test")
    assert monitor.json("monitorSpecification")["Tags"]["Values"] == ["test"]


def test_an_anomaly_reaches_the_topic_at_once(record: Record) -> None:
    subscription = recorded(record).one(SUBSCRIPTION).inputs
    assert subscription["frequency"] == "IMMEDIATE"
    assert subscription["subscribers"] == [{"type": "SNS", "address": "arn:topic"}]
    assert subscription["thresholdExpression"]["dimension"] == {
        "key": "ANOMALY_TOTAL_IMPACT_ABSOLUTE",
        "matchOptions": ["GREATER_THAN_OR_EQUAL"],
        "values": ["15"],
    }


def test_an_adopted_monitor_makes_none(record: Record) -> None:
    made = recorded(record, anomaly_monitor_arn="arn:monitor")
    assert made.all(MONITOR) == []
    assert made.one(SUBSCRIPTION).inputs["monitorArnLists"] == ["arn:monitor"]


def test_tokens_are_watched_by_the_hour_and_by_the_day(record: Record) -> None:
    made = recorded(record)
    hour, day = made.one(ALARM, "cost-spend-hour").inputs, made.one(ALARM, "cost-spend-day").inputs
    assert (hour["threshold"], day["threshold"]) == (14.4, 72)
    for alarm, period in ((hour, 3600), (day, 86_400)):
        web, worker, spend = alarm["metricQueries"]
        for query, service in ((web, "web"), (worker, "worker")):
            assert query["metric"] == {
                "namespace": "Prodkit",
                "metricName": "SpendUsd",
                "dimensions": {"Stack": "test", "Service": service},
                "stat": "Sum",
                "period": period,
            }
        assert spend["expression"] == "FILL(web, 0) + FILL(worker, 0)"
        assert alarm["alarmActions"] == alarm["okActions"] == ["arn:topic"]
        assert alarm["treatMissingData"] == "notBreaching"


@given(st.floats(0.01, 1e9))
def test_a_small_anomaly_stays_quiet(budget: float) -> None:
    assert smallest_anomaly_usd(budget) >= 10
    assert smallest_anomaly_usd(budget) >= round(budget / 20)


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record)
    assert made.strays("prodkit:index:CostAlarms") == []
    assert all(r.inputs["tags"] == {"Stack": "test"} for r in made.resources if r.custom)
    assert made.outputs("prodkit:index:CostAlarms") == {"budget_name": "cost-budget"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"monthly_budget_usd": 0}, "monthly_budget_usd=0.0 is no budget; use an amount above 0"),
        ({"token_budget_usd": -1}, "token_budget_usd=-1.0 is no budget"),
        ({"token_budget_usd": float("nan")}, "token_budget_usd=nan is no budget"),
        ({"email": ["nobody"]}, "email='nobody' is no e-mail address"),
        ({"email": [f"a{n}@example.com" for n in range(11)]}, "email has 11 addresses and AWS Budgets takes 10"),
        ({"topic": "arn"}, "unknown argument 'topic'; did you mean 'topic_arn'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^CostAlarms: {message}"):
        recorded(record, **wrong)


def test_a_budget_without_addresses_still_reaches_the_topic(record: Record) -> None:
    budget = recorded(record, email=[]).one("aws:budgets/budget:Budget").inputs
    assert all(n["subscriberSnsTopicArns"] == ["arn:topic"] for n in budget["notifications"])
