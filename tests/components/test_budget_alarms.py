"""Each alarm on budgets and on the meter, driven from synthetic series."""

from typing import Any

from components.alarms import Alarms
from components.cost_alarms import CostAlarms
from tests.components import test_alarms, test_cost_alarms
from tests.components.alarm_play import ALARM, OK, states, sum_states
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


def test_a_pace_that_ends_the_month_in_two_days_is_told_within_the_hour_whoever_spends(record: Record) -> None:
    """A dollar an hour is the even pace of the 720 dollars."""
    hour, day = cost_alarm(record, "spend-hour"), cost_alarm(record, "spend-day")
    spent: list[dict[str, list[float]]] = [
        {"web": [1.0]},
        {"web": [7.0, 3.0], "worker": [4.0]},
        {"web": [7.0, 4.0], "worker": [4.0]},
        {"worker": [15.0]},
        {},
    ]
    assert sum_states(hour, spent) == [OK, OK, ALARM, ALARM, OK]
    assert sum_states(day, [{"web": [24.0]}, {"web": [72.0]}, {"web": [60.0], "worker": [13.0]}]) == [OK, OK, ALARM]


def test_a_worker_that_says_nothing_is_noticed_as_a_web_task_is(record: Record) -> None:
    args: Any = test_alarms.BASE
    recorded = record(lambda: Alarms("alarms", args))
    worker, web = (recorded.one(KIND, f"alarms-{name}-silent") for name in ("worker", "web"))
    assert states(worker, [[1.0], *[[]] * 5]) == states(web, [[1.0], *[[]] * 5]) == [*[OK] * 5, ALARM]


def test_a_meter_that_does_not_reach_the_ledger_is_noticed_although_requests_are_served(record: Record) -> None:
    args: Any = test_alarms.BASE
    alarm = record(lambda: Alarms("alarms", args)).one(KIND, "alarms-web-silent")
    beats = [1.0] * 6
    assert states(alarm, [beats, [], beats, *[[]] * 5, beats]) == [OK, OK, OK, OK, OK, OK, OK, ALARM, OK]
