"""The alarms of a job, as data. They look at whole hours: CloudWatch looks back a week in those, and a day in less."""

from collections.abc import Mapping

import pulumi

from components import _metrics
from components._alarms import HOUR, MINUTE, OVER, UNDER, Alarm

# CloudWatch allows 7 days for periods of an hour or more (API_PutMetricAlarm, EvaluationPeriods).
_MOST_PERIODS = 7 * 24
# An hour that has begun is not judged yet, and a run takes some of one.
_SPARE_PERIODS = 2
LONGEST_HOURS = 144
"""Hours between two runs that leave room for a start that was put off and tried again."""


def run_alarms(stack: str, job: str, hours: int) -> list[Alarm]:
    """What every job says about itself. `hours`: the longest time from one run's end to the next one's start."""
    return [
        _judged(
            *(stack, job, hours, _metrics.JOB_RUNS, "silent"),
            f"{job} has not run for over {hours} hours",
            statistic="Sum",
            comparison=UNDER,
            threshold=1,
            # Every hour without a run is bad, one with a run makes up for all others.
            datapoints=None,
            missing="breaching",
        ),
        _judged(
            *(stack, job, hours, _metrics.JOB_FAILURES, "failed"),
            f"{job} failed in its last run or one before; its log says why",
            statistic="Sum",
            comparison=OVER,
            threshold=0,
            datapoints=1,
            missing="notBreaching",
        ),
    ]


def watch(stack: str, job: str, hours: int, *, name: str, metric: str, over: float, description: str) -> Alarm:
    """An alarm on what the job measured in its last runs. Silence is judged by the alarm on runs."""
    return _judged(
        *(stack, job, hours, metric, name, description),
        statistic="Maximum",
        comparison=OVER,
        threshold=over,
        datapoints=1,
        missing="notBreaching",
    )


def dead_letters(job: str, queue: pulumi.Input[str]) -> Alarm:
    """Starts that failed every time they were tried."""
    where: Mapping[str, pulumi.Input[str]] = {"QueueName": queue}
    return Alarm(
        "dead-letters",
        f"{job} could not be started; the message in its dead-letter queue says why",
        *(OVER, 0, MINUTE, 1, "notBreaching", "AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum", where),
    )


def _judged(
    stack: str,
    job: str,
    hours: int,
    metric: str,
    name: str,
    description: str,
    *,
    statistic: str,
    comparison: str,
    threshold: float,
    datapoints: int | None,
    missing: str,
) -> Alarm:
    periods = hours + _SPARE_PERIODS
    assert periods <= _MOST_PERIODS
    return Alarm(
        name=name,
        description=description,
        comparison=comparison,
        threshold=threshold,
        period_seconds=HOUR,
        periods=periods,
        missing=missing,
        namespace=_metrics.NAMESPACE,
        metric=metric,
        statistic=statistic,
        dimensions=_metrics.dimensions(stack, job),
        datapoints=datapoints,
    )
