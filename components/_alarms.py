"""Which alarms a stack has, as data: what each watches, when it fires and what missing data means."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components import _metrics

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MONTH = 30 * DAY
# An hour at 14.4 times the even pace uses 2 % of the month's budget, a day at 3 times uses 10 %: the first catches a
# runaway before it costs much, the second a trend that leaves nothing after ten days.
HOUR_PACE = 14.4
DAY_PACE = 3.0
OVER = "GreaterThanThreshold"
UNDER = "LessThanThreshold"
# A few calls at night are no measure: below this many in a period, the share of errors is not judged.
FEWEST_REQUESTS = 20


@dataclass(frozen=True)
class Alarm:
    """One alarm; leaves of `dimensions` and `queries` may be outputs. Exactly one of `metric` and `queries` is set."""

    name: str
    description: str
    comparison: str
    threshold: float
    period_seconds: int
    periods: int
    missing: str
    namespace: str | None = None
    metric: str | None = None
    statistic: str | None = None
    dimensions: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    queries: Sequence[Any] = ()
    datapoints: int | None = None
    """How many of the periods must be bad; None means all of them."""

    def inputs(self) -> dict[str, Any]:
        """The alarm as arguments of a CloudWatch metric alarm, without actions and tags."""
        made: dict[str, Any] = {
            "alarm_description": self.description,
            "comparison_operator": self.comparison,
            "threshold": self.threshold,
            "evaluation_periods": self.periods,
            "treat_missing_data": self.missing,
        }
        if self.datapoints is not None:
            made["datapoints_to_alarm"] = self.datapoints
        if self.queries:
            return {**made, "metric_queries": list(self.queries)}
        made |= {
            "namespace": self.namespace,
            "metric_name": self.metric,
            "dimensions": dict(self.dimensions),
            "period": self.period_seconds,
        }
        percentile = (self.statistic or "").startswith("p")
        return {**made, "extended_statistic" if percentile else "statistic": self.statistic}


def stat(
    id_: str, namespace: str, metric: str, dimensions: Mapping[str, pulumi.Input[str]], statistic: str, period: int
) -> dict[str, Any]:
    """A metric as an operand of an expression."""
    return {
        "id": id_,
        "metric": {
            "namespace": namespace,
            "metric_name": metric,
            "dimensions": dict(dimensions),
            "stat": statistic,
            "period": period,
        },
        "return_data": False,
    }


def expression(id_: str, label: str, text: str) -> dict[str, Any]:
    """The expression that an alarm judges."""
    return {"id": id_, "label": label, "expression": text, "return_data": True}


def hosts(metric: str, load_balancer: pulumi.Input[str], target_groups: Sequence[pulumi.Input[str]]) -> Sequence[Any]:
    """A count of the balancer's targets over every group that tasks may be in; a group without data counts as 0."""
    names = [f"group{number}" for number, _ in enumerate(target_groups)]
    counted = [
        stat(
            name,
            "AWS/ApplicationELB",
            metric,
            {"LoadBalancer": load_balancer, "TargetGroup": group},
            "Maximum",
            MINUTE,
        )
        for name, group in zip(names, target_groups, strict=True)
    ]
    return (*counted, expression("hosts", "Tasks", " + ".join(f"FILL({name}, 0)" for name in names)))


def _own(
    stack: str, service: str, metric: str, name: str, description: str, statistic: str, threshold: float, **more: Any
) -> Alarm:
    judged: dict[str, Any] = {
        "comparison": OVER,
        "period_seconds": 5 * MINUTE,
        "periods": 1,
        "missing": "notBreaching",
        **more,
    }
    return Alarm(
        name=name,
        description=description,
        namespace=_metrics.NAMESPACE,
        metric=metric,
        statistic=statistic,
        threshold=threshold,
        dimensions=_metrics.dimensions(stack, service),
        **judged,
    )


def _share(stack: str, metric: str, name: str, description: str, percent: float) -> Alarm:
    """An alarm on errors as a share of the web service's requests, in two of the periods one after the other."""
    where = _metrics.dimensions(stack, _metrics.WEB)
    period = 5 * MINUTE
    return Alarm(
        name=name,
        description=description,
        comparison=OVER,
        threshold=percent,
        period_seconds=period,
        periods=2,
        missing="notBreaching",
        queries=(
            stat("errors", _metrics.NAMESPACE, metric, where, "Sum", period),
            stat("requests", _metrics.NAMESPACE, _metrics.REQUESTS, where, "Sum", period),
            expression(
                "share", "Percent of requests", f"IF(requests >= {FEWEST_REQUESTS}, 100 * errors / requests, 0)"
            ),
        ),
    )


def app_alarms(stack: str, latency_p99_ms: int, first_token_p99_ms: int) -> list[Alarm]:
    """What the app says about itself. The threshold of errors is in percent of requests, of latencies in ms."""
    alarms = [
        _share(stack, _metrics.INTERNAL_ERRORS, "errors-us", "Over 1 % of requests fail because of us", 1),
        _share(stack, _metrics.UPSTREAM_ERRORS, "errors-upstream", "Over 5 % of requests fail at OpenAI", 5),
        _own(
            *(stack, _metrics.WEB, _metrics.REQUEST_LATENCY_MS, "latency"),
            f"One in a hundred requests takes over {latency_p99_ms} ms",
            *("p99", latency_p99_ms),
            periods=3,
        ),
        _own(
            *(stack, _metrics.WEB, _metrics.TIME_TO_FIRST_TOKEN_MS, "first-token"),
            f"One in a hundred streams takes over {first_token_p99_ms} ms to begin",
            *("p99", first_token_p99_ms),
            periods=3,
        ),
        _own(
            *(stack, _metrics.WEB, _metrics.KEY_BREAKER_OPEN, "quota"),
            "OpenAI refuses every call: quota, credit or spend limit is used up; raise it there, then calls resume",
            *("Sum", 0),
            period_seconds=MINUTE,
        ),
    ]
    alarms.append(_overdue(stack))
    # A meter that stopped makes every other alarm of the app, and the spend, look fine: its silence is the alarm.
    silent = [
        _own(
            *(stack, service, _metrics.METER_HEARTBEAT, f"{service}-silent"),
            f"No {service} task reports its metrics: nobody serves, or nobody meters",
            *("Sum", 1),
            comparison=UNDER,
            period_seconds=MINUTE,
            periods=5,
            missing="breaching",
        )
        for service in (_metrics.WEB, _metrics.WORKER)
    ]
    return [*alarms, *silent]


def _overdue(stack: str) -> Alarm:
    """The worker sees what it cannot finish; the web service sees it when no worker is left."""
    stats = [
        stat(service, _metrics.NAMESPACE, _metrics.DEFERRED_OVERDUE, _metrics.dimensions(stack, service), "Sum", MINUTE)
        for service in (_metrics.WEB, _metrics.WORKER)
    ]
    return Alarm(
        name="deferred-overdue",
        description="Requests passed their deadline without an answer: is the worker stuck, or OpenAI's batches?",
        comparison=OVER,
        threshold=0,
        period_seconds=MINUTE,
        periods=1,
        missing="notBreaching",
        queries=(*stats, expression("overdue", "Overdue", "FILL(web, 0) + FILL(worker, 0)")),
    )


def balancer_alarms(load_balancer: pulumi.Input[str], target_groups: Sequence[pulumi.Input[str]]) -> list[Alarm]:
    """What the balancer sees: its own errors, and the tasks behind it, whichever of the groups they are in."""
    namespace = "AWS/ApplicationELB"
    return [
        Alarm(
            "balancer-5xx",
            "The load balancer itself answers 5xx: no task, a full one, or one that closed the connection",
            *(OVER, 10, 5 * MINUTE, 1, "notBreaching", namespace, "HTTPCode_ELB_5XX_Count", "Sum"),
            {"LoadBalancer": load_balancer},
        ),
        Alarm(
            "unhealthy",
            "A web task fails its readiness checks",
            *(OVER, 0, MINUTE, 5, "notBreaching"),
            queries=hosts("UnHealthyHostCount", load_balancer, target_groups),
        ),
        Alarm(
            "nobody-home",
            "No web task is ready",
            *(UNDER, 1, MINUTE, 3, "breaching"),
            queries=hosts("HealthyHostCount", load_balancer, target_groups),
        ),
    ]


def spend_alarms(stack: str, token_budget_usd: float) -> list[Alarm]:
    """The pace at which tokens are paid for, by the app's own meter: AWS Budgets cannot see what OpenAI charges.

    Args:
        stack: value of the `Stack` dimension.
        token_budget_usd: what a month of 30 days may cost at OpenAI, in USD.
    """
    return [
        _spend(stack, token_budget_usd, "hour", HOUR, HOUR_PACE),
        _spend(stack, token_budget_usd, "day", DAY, DAY_PACE),
    ]


def budget_alarms(stack: str) -> list[Alarm]:
    """What the app's watch over budgets says. It names scopes in messages of its own; metrics have no tenants."""
    return [
        _own(
            *(stack, _metrics.WEB, _metrics.BUDGET_RUNG, "budget-degraded"),
            "A budget is degraded to cheaper models or further; python -m app.budgets show says which",
            *("Maximum", 2),
        ),
        _own(
            *(stack, _metrics.WEB, _metrics.BUDGET_RUNG, "budget-spent"),
            "A budget is spent and its requests are refused; python -m app.budgets show says which",
            *("Maximum", 6),
        ),
        # No data is not no spend: while nobody looks, no rung moves and no runaway is found.
        _own(
            *(stack, _metrics.WEB, _metrics.BUDGET_WATCH, "budget-unwatched"),
            "No web task looks at the budgets: no rung moves, no runaway is found; caps hold all the same",
            *("Sum", 1),
            comparison=UNDER,
            periods=3,
            missing="breaching",
        ),
    ]


def _spend(stack: str, token_budget_usd: float, span: str, seconds: int, pace: float) -> Alarm:
    limit = spend_limit(token_budget_usd, seconds, pace)
    services = (_metrics.WEB, _metrics.WORKER)
    spent = [
        stat(service, _metrics.NAMESPACE, _metrics.SPEND_USD, _metrics.dimensions(stack, service), "Sum", seconds)
        for service in services
    ]
    return Alarm(
        name=f"spend-{span}",
        description=f"OpenAI costs over ${limit:.2f} in one {span}, {pace:g} times the pace of the month's budget",
        comparison=OVER,
        threshold=limit,
        period_seconds=seconds,
        periods=1,
        # A meter that stopped is the heartbeat alarm's matter.
        missing="notBreaching",
        queries=(*spent, expression("spend", "USD", " + ".join(f"FILL({service}, 0)" for service in services))),
    )


def spend_limit(token_budget_usd: float, seconds: int, pace: float) -> float:
    """USD within `seconds` that are `pace` times an even spread of the month's budget, to a hundredth of a cent."""
    return round(token_budget_usd * pace * seconds / MONTH, 4)


def queue_alarms(queue: pulumi.Input[str], dead_letters: pulumi.Input[str], oldest_seconds: int) -> list[Alarm]:
    """Work that fails, and work that waits too long. A queue without traffic reports nothing, which is fine."""
    return [
        Alarm(
            "dead-letters",
            "Work failed every time it was tried; look at it and redrive it",
            *(OVER, 0, MINUTE, 1, "notBreaching", "AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum"),
            {"QueueName": dead_letters},
        ),
        Alarm(
            "queue-age",
            f"The oldest work has been waiting for over {oldest_seconds} s",
            *(OVER, oldest_seconds, MINUTE, 5, "notBreaching", "AWS/SQS", "ApproximateAgeOfOldestMessage", "Maximum"),
            {"QueueName": queue},
        ),
    ]


def saturation_alarms(kind: str, cluster: pulumi.Input[str], service: pulumi.Input[str]) -> list[Alarm]:
    """A service whose tasks are full although it may scale. Silence is judged by the heartbeat alarm, not here."""
    return [
        Alarm(
            f"{kind}-{what}",
            f"The {kind} tasks use over {percent} % of their {what}, scaled out as they are",
            *(OVER, percent, 5 * MINUTE, 3, "notBreaching", "AWS/ECS", metric, "Average"),
            {"ClusterName": cluster, "ServiceName": service},
        )
        for what, metric, percent in (("cpu", "CPUUtilization", 90), ("memory", "MemoryUtilization", 90))
    ]


def check_addresses(component: str, addresses: Sequence[str]) -> None:
    """Refuses what is no e-mail address, and the same one twice."""
    for address in addresses:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", address):
            raise ValueError(f"{component}: email={address!r} is no e-mail address; use name@example.com.")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"{component}: email={list(addresses)} names an address twice; keep one.")
