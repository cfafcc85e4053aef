"""Plays CloudWatch: what a recorded alarm of one metric says about a series of periods."""

import math
from collections.abc import Callable, Sequence

from tests.components.recorder import Registration

OK, ALARM = "OK", "ALARM"
_BREACHES: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
}
_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "Sum": math.fsum,
    "Maximum": max,
    "Minimum": min,
    "Average": lambda values: math.fsum(values) / len(values),
}


def states(alarm: Registration, periods: Sequence[Sequence[float]]) -> list[str]:
    """The alarm's state after each period, given the samples that fell into it (none: missing data)."""
    inputs = alarm.inputs
    breaches = _BREACHES[inputs["comparisonOperator"]]
    statistic = _STATISTICS[inputs["statistic"]]
    missing = inputs["treatMissingData"] == "breaching"
    bad = [breaches(statistic(samples), inputs["threshold"]) if samples else missing for samples in periods]
    evaluated = int(inputs["evaluationPeriods"])
    needed = int(inputs.get("datapointsToAlarm", evaluated))
    return [ALARM if sum(bad[max(0, end - evaluated) : end]) >= needed else OK for end in range(1, len(bad) + 1)]
