"""Plays CloudWatch: what a recorded alarm of one metric says about a series of periods."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from tests.components.recorder import Registration

OK, ALARM = "OK", "ALARM"
_BREACHES: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
}
_FILL = re.compile(r"FILL\((\w+), (\d+)\)")
_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "Sum": math.fsum,
    "Maximum": max,
    "Minimum": min,
    "Average": lambda values: math.fsum(values) / len(values),
}


def sum_states(alarm: Registration, periods: Sequence[Mapping[str, Sequence[float]]]) -> list[str]:
    """The same of an alarm on the sum of metrics, given each query's samples of each period."""
    queries = {query["id"]: query for query in alarm.inputs["metricQueries"] if "metric" in query}
    assert {query["metric"]["stat"] for query in queries.values()} == {"Sum"}
    [total] = [query for query in alarm.inputs["metricQueries"] if query.get("returnData")]
    terms = [_FILL.fullmatch(term) for term in total["expression"].split(" + ")]
    summed = []
    for samples in periods:
        assert set(samples) <= set(queries)
        named = [(term[1], float(term[2])) for term in terms if term is not None]
        assert len(named) == len(terms) == len(queries)
        values = [math.fsum(samples[name]) if samples.get(name) else missing for name, missing in named]
        # Where no query has a sample CloudWatch has no point in time to fill either.
        summed.append([math.fsum(values)] if any(samples.values()) else [])
    return states(alarm, summed, statistic="Sum")


def states(alarm: Registration, periods: Sequence[Sequence[float]], *, statistic: str = "") -> list[str]:
    """The alarm's state after each period, given the samples that fell into it (none: missing data)."""
    inputs = alarm.inputs
    breaches = _BREACHES[inputs["comparisonOperator"]]
    of = _STATISTICS[statistic or inputs["statistic"]]
    missing = inputs["treatMissingData"] == "breaching"
    bad = [breaches(of(samples), inputs["threshold"]) if samples else missing for samples in periods]
    evaluated = int(inputs["evaluationPeriods"])
    needed = int(inputs.get("datapointsToAlarm", evaluated))
    return [ALARM if sum(bad[max(0, end - evaluated) : end]) >= needed else OK for end in range(1, len(bad) + 1)]
