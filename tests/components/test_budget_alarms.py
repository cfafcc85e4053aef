"""Each alarm on budgets and on the meter, driven from synthetic series."""

from typing import Any

from components.alarms import Alarms
from components.cost_alarms import CostAlarms
from tests.components import test_alarms, test_cost_alarms
from tests.components.alarm_play import ALARM, OK, states
from tests.components.recorder import Record, Registration

KIND = "aws:cloudwatch/metricAlarm:MetricAlarm"
LOOKS = [1.0] * 10  # twice a minute, of five minutes


def cost_alarm(record: Record, name: str) -> Registration:
    args: Any = test_cost_alarms.BASE
    return record(lambda: CostAlarms("cost", args)).one(KIND, f"cost-{name}")


def test_people_hear_of_a_degraded_budget_and_of_its_recovery(record: Record) -> None:
    alarm = cost_alarm(record, "budget-degraded")
    assert alarm.inputs["alarmActions"] == alarm.inputs["okActions"] == ["arn:topic"]
    rungs = [[0.0], [1.0, 1.0], [2.0], [2.0, 3.0], [3.0], [1.0], []]
    assert states(alarm, rungs) == [OK, OK, OK, ALARM, ALARM, OK, OK]


def test_a_spent_budget_has_an_alarm_of_its_own(record: Record) -> None:
    assert states(cost_alarm(record, "budget-spent"), [[3.0], [6.0], [6.0, 7.0], [0.0]]) == [OK, OK, ALARM, OK]


def test_no_data_is_not_no_spend(record: Record) -> None:
    alarm = cost_alarm(record, "budget-unwatched")
    assert alarm.inputs["period"] * alarm.inputs["evaluationPeriods"] == 15 * 60
    assert states(alarm, [LOOKS, [], LOOKS, [], [], [], LOOKS]) == [OK, OK, OK, OK, OK, ALARM, OK]


def test_a_meter_that_does_not_reach_the_ledger_is_noticed_although_requests_are_served(record: Record) -> None:
    args: Any = test_alarms.BASE
    alarm = record(lambda: Alarms("alarms", args)).one(KIND, "alarms-web-silent")
    beats = [1.0] * 6
    assert states(alarm, [beats, [], beats, *[[]] * 5, beats]) == [OK, OK, OK, OK, OK, OK, OK, ALARM, OK]
