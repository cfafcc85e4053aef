"""How many tasks a service runs: the arithmetic of its scaling steps, and the policies as data.

Streaming costs hardly any CPU, so the web service follows the requests in flight per task. Growth is fast and generous,
because a full task makes callers wait; shrinking is slow, because a task that leaves waits for its streams.
"""

from dataclasses import dataclass
from typing import Any

import pulumi

from components import _metrics

# Load per task above the target, as a share of the target -> growth in percent that brings the load back under it. The
# last step has no upper bound: past four times the target the next evaluation, half a minute later, grows again.
_GROWTH = ((0.0, 25), (0.25, 50), (0.5, 100), (1.0, 300))

# With two tasks, one must be able to carry both loads without scaling out again: less than half of the target.
SCALE_IN_SHARE = 0.4
SHRINK_PERCENT = 10

SCALE_OUT_PERIOD_SECONDS = _metrics.INTERVAL_SECONDS
SCALE_OUT_PERIODS = 3
SCALE_OUT_COOLDOWN_SECONDS = 30
SCALE_IN_PERIOD_SECONDS = 60
SCALE_IN_PERIODS = 10
SCALE_IN_COOLDOWN_SECONDS = 300

# Percent of what the tasks have, at which a service grows whatever its own metric says.
GUARDS = {"cpu": ("ECSServiceAverageCPUUtilization", 70), "memory": ("ECSServiceAverageMemoryUtilization", 80)}
GUARD_COOLDOWN_SECONDS = 60


@dataclass(frozen=True)
class Step:
    """One step: bounds relative to the alarm's threshold, and the change of the task count in percent."""

    lower: float | None
    upper: float | None
    percent: int


def scale_out_steps(target: float) -> list[Step]:
    """Growth for a load per task above `target` (the alarm's threshold), without gap or overlap."""
    uppers = [share * target for share, _ in _GROWTH[1:]]
    return [
        Step(lower=share * target, upper=upper, percent=percent)
        for (share, percent), upper in zip(_GROWTH, [*uppers, None], strict=True)
    ]


def scale_in_threshold(target: float) -> float:
    """The load per task below which a task can leave; the others then stay under `target`."""
    return target * SCALE_IN_SHARE


def capacity(spot_percent: int) -> list[Any]:
    """The capacity provider strategy for a share of Spot tasks, 0-100.

    A mix keeps its first task on demand: Spot has no fallback, so an empty Spot market must not mean no task at all.
    """
    if spot_percent <= 0:
        return [_provider("FARGATE", 1, 0)]
    if spot_percent >= 100:
        return [_provider("FARGATE_SPOT", 1, 0)]
    return [_provider("FARGATE", 100 - spot_percent, 1), _provider("FARGATE_SPOT", spot_percent, 0)]


@dataclass(frozen=True)
class LoadRule:
    """An alarm on the requests in flight for each task, and the step scaling configuration that it sets off."""

    policy: str
    alarm: str
    description: str
    comparison: str
    threshold: float
    period_seconds: int
    periods: int
    steps: dict[str, Any]


def load_rules(target: int) -> tuple[LoadRule, LoadRule]:
    """Out and in, for `target` requests in flight that one task carries well."""
    grow = LoadRule(
        policy="grow",
        alarm="busy",
        description=f"Over {target} requests in flight for each task: more tasks",
        comparison="GreaterThanThreshold",
        threshold=target,
        period_seconds=SCALE_OUT_PERIOD_SECONDS,
        periods=SCALE_OUT_PERIODS,
        steps=_steps(SCALE_OUT_COOLDOWN_SECONDS, scale_out_steps(target)),
    )
    shrink = LoadRule(
        policy="shrink",
        alarm="quiet",
        description="Few requests in flight for each task: fewer tasks",
        comparison="LessThanThreshold",
        threshold=scale_in_threshold(target),
        period_seconds=SCALE_IN_PERIOD_SECONDS,
        periods=SCALE_IN_PERIODS,
        steps=_steps(SCALE_IN_COOLDOWN_SECONDS, [Step(lower=None, upper=0.0, percent=-SHRINK_PERCENT)]),
    )
    return grow, shrink


def guard(what: str) -> dict[str, Any]:
    """Target tracking that only grows: what shrinks is decided by the metric that says how much work there is."""
    metric, percent = GUARDS[what]
    return {
        "predefined_metric_specification": {"predefined_metric_type": metric},
        "target_value": percent,
        "disable_scale_in": True,
        "scale_in_cooldown": SCALE_IN_COOLDOWN_SECONDS,
        "scale_out_cooldown": GUARD_COOLDOWN_SECONDS,
    }


def backlog(
    target: float, queue: pulumi.Input[str], cluster: pulumi.Input[str], service: pulumi.Input[str]
) -> dict[str, Any]:
    """Target tracking on waiting messages for each running task; leaves may be outputs.

    Container Insights counts the tasks; until its first sample one is assumed, which grows sooner rather than later.
    """
    waiting = _gauge("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": queue})
    running = _gauge("ECS/ContainerInsights", "RunningTaskCount", {"ClusterName": cluster, "ServiceName": service})
    return {
        "customized_metric_specification": {
            "metrics": [
                {"id": "waiting", "label": "Messages waiting", "metric_stat": waiting, "return_data": False},
                {"id": "running", "label": "Tasks running", "metric_stat": running, "return_data": False},
                {
                    "id": "backlog",
                    "label": "Messages waiting for each task",
                    "expression": "waiting / FILL(running, 1)",
                    "return_data": True,
                },
            ]
        },
        "target_value": target,
        "disable_scale_in": False,
        "scale_in_cooldown": SCALE_IN_COOLDOWN_SECONDS,
        "scale_out_cooldown": GUARD_COOLDOWN_SECONDS,
    }


def _gauge(namespace: str, metric: str, dimensions: dict[str, pulumi.Input[str]]) -> dict[str, Any]:
    return {
        "metric": {
            "namespace": namespace,
            "metric_name": metric,
            "dimensions": [{"name": name, "value": value} for name, value in dimensions.items()],
        },
        "stat": "Average",
    }


def _provider(name: str, weight: int, base: int) -> dict[str, Any]:
    return {"capacity_provider": name, "weight": weight, "base": base}


def _steps(cooldown: int, steps: list[Step]) -> dict[str, Any]:
    return {
        "adjustment_type": "PercentChangeInCapacity",
        "min_adjustment_magnitude": 1,
        "metric_aggregation_type": "Average",
        "cooldown": cooldown,
        "step_adjustments": [_adjustment(step) for step in steps],
    }


def _adjustment(step: Step) -> dict[str, Any]:
    made: dict[str, Any] = {"scaling_adjustment": step.percent}
    if step.lower is not None:
        made["metric_interval_lower_bound"] = f"{step.lower:g}"
    if step.upper is not None:
        made["metric_interval_upper_bound"] = f"{step.upper:g}"
    return made
