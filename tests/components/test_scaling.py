import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from components import _scaling

TARGETS = st.integers(1, 10_000)


@given(TARGETS)
def test_growth_steps_leave_no_gap_and_no_overlap(target: int) -> None:
    steps = _scaling.scale_out_steps(target)
    assert steps[0].lower == 0
    assert steps[-1].upper is None
    assert all(one.upper == following.lower for one, following in pairwise(steps))
    assert all(one.percent < following.percent for one, following in pairwise(steps))


@given(TARGETS, st.integers(1, 500), st.floats(0, 1))
def test_one_growth_step_brings_the_load_back_under_its_target(target: int, tasks: int, where: float) -> None:
    for step in _scaling.scale_out_steps(target)[:-1]:
        assert step.lower is not None
        assert step.upper is not None
        load = tasks * (target + step.lower + where * (step.upper - step.lower))
        grown = tasks + max(1, math.floor(tasks * step.percent / 100))
        # Whole tasks: rounding down may leave less than one task's work for the next evaluation.
        assert load / target <= grown + 1


@given(TARGETS, st.integers(2, 1000))
def test_shrinking_never_makes_the_service_grow_again(target: int, tasks: int) -> None:
    load = _scaling.scale_in_threshold(target) * tasks
    left = tasks - max(1, math.floor(tasks * _scaling.SHRINK_PERCENT / 100))
    assert load / left < target


@given(TARGETS)
def test_growing_is_faster_than_shrinking(target: int) -> None:
    grow, shrink = _scaling.load_rules(target)
    assert grow.period_seconds * grow.periods <= 30
    assert shrink.period_seconds * shrink.periods >= 600
    assert grow.steps["cooldown"] < shrink.steps["cooldown"]
    assert shrink.threshold < grow.threshold


def test_the_busy_alarm_sets_off_the_documented_steps() -> None:
    grow, shrink = _scaling.load_rules(40)
    assert grow.steps["step_adjustments"] == [
        {"scaling_adjustment": 25, "metric_interval_lower_bound": "0", "metric_interval_upper_bound": "10"},
        {"scaling_adjustment": 50, "metric_interval_lower_bound": "10", "metric_interval_upper_bound": "20"},
        {"scaling_adjustment": 100, "metric_interval_lower_bound": "20", "metric_interval_upper_bound": "40"},
        {"scaling_adjustment": 300, "metric_interval_lower_bound": "40"},
    ]
    assert shrink.steps["step_adjustments"] == [{"scaling_adjustment": -10, "metric_interval_upper_bound": "0"}]
    assert (grow.comparison, grow.threshold) == ("GreaterThanThreshold", 40)
    assert (shrink.comparison, shrink.threshold) == ("LessThanThreshold", 16)


@given(st.integers(0, 100))
def test_spot_gets_its_share_and_a_mix_keeps_one_task_on_demand(percent: int) -> None:
    weights = {p["capacity_provider"]: p["weight"] for p in _scaling.capacity(percent)}
    bases = {p["capacity_provider"]: p["base"] for p in _scaling.capacity(percent)}
    total = sum(weights.values())
    assert weights.get("FARGATE_SPOT", 0) / total == percent / 100
    assert bases.get("FARGATE_SPOT", 0) == 0
    assert bases.get("FARGATE", 0) == (1 if 0 < percent < 100 else 0)


def test_guards_only_grow() -> None:
    for what in ("cpu", "memory"):
        guard = _scaling.guard(what)
        assert guard["disable_scale_in"] is True
        assert 50 <= guard["target_value"] < 90


def test_the_backlog_is_the_queue_over_the_running_tasks() -> None:
    tracking = _scaling.backlog(20, "jobs", "cluster", "worker")
    waiting, running, backlog = tracking["customized_metric_specification"]["metrics"]
    assert waiting["metric_stat"]["metric"] == {
        "namespace": "AWS/SQS",
        "metric_name": "ApproximateNumberOfMessagesVisible",
        "dimensions": [{"name": "QueueName", "value": "jobs"}],
    }
    assert running["metric_stat"]["metric"] == {
        "namespace": "ECS/ContainerInsights",
        "metric_name": "RunningTaskCount",
        "dimensions": [{"name": "ClusterName", "value": "cluster"}, {"name": "ServiceName", "value": "worker"}],
    }
    assert backlog["expression"] == "waiting / FILL(running, 1)"
    assert [m["return_data"] for m in (waiting, running, backlog)] == [False, False, True]
    assert (tracking["target_value"], tracking["disable_scale_in"]) == (20, False)
