"""The alarms that roll a deployment back, as data.

They judge what a new version can be blamed for: our own failures, slowness, tasks that do not get ready. Requests that
were shed, refused by policy or failed at OpenAI are not among them: those happen to a good version just as well, and
going back would not mend them.
"""

from collections.abc import Sequence

import pulumi

from components import _metrics
from components._alarms import MINUTE, OVER, Alarm, expression, hosts, stat

# Short periods: the faulty version serves as long as they take.
PERIODS = 3
ERROR_PERIODS = 2
# Of all requests, those that the old version answers included: a canary with a tenth of them that fails in one of five
# counts as two percent.
ERROR_PERCENT = 1
# One odd failure in a quiet minute is no reason to go back.
FEWEST_ERRORS = 3


def alarms(
    stack: str,
    service: str,
    latency_p99_ms: int,
    load_balancer: pulumi.Input[str] | None,
    target_groups: Sequence[pulumi.Input[str]],
) -> list[Alarm]:
    """The alarms of one service.

    Args:
        stack: value of the `Stack` dimension.
        service: value of the `Service` dimension.
        latency_p99_ms: one in a hundred requests may take this long.
        load_balancer: `LoadBalancer` dimension, or None for a service without one: then latency is nobody's wait.
        target_groups: `TargetGroup` dimensions of every group that the service's tasks may be in.
    """
    made = [_errors(stack, service)]
    if load_balancer is not None:
        made += [_latency(stack, service, latency_p99_ms), _unready(load_balancer, target_groups)]
    return made


def _errors(stack: str, service: str) -> Alarm:
    where = _metrics.dimensions(stack, service)
    share = f"IF(errors >= {FEWEST_ERRORS}, 100 * errors / requests, 0)"
    return Alarm(
        name="rollback-errors",
        description=f"Rolls a deployment of {service} back: over {ERROR_PERCENT} % of requests fail because of us",
        comparison=OVER,
        threshold=ERROR_PERCENT,
        period_seconds=MINUTE,
        periods=ERROR_PERIODS,
        missing="notBreaching",
        queries=(
            stat("errors", _metrics.NAMESPACE, _metrics.INTERNAL_ERRORS, where, "Sum", MINUTE),
            stat("requests", _metrics.NAMESPACE, _metrics.REQUESTS, where, "Sum", MINUTE),
            expression("share", "Percent of requests", share),
        ),
    )


def _latency(stack: str, service: str, latency_p99_ms: int) -> Alarm:
    where = _metrics.dimensions(stack, service)
    return Alarm(
        name="rollback-latency",
        description=f"Rolls a deployment of {service} back: one in a hundred requests takes over {latency_p99_ms} ms",
        comparison=OVER,
        threshold=latency_p99_ms,
        period_seconds=MINUTE,
        periods=PERIODS,
        missing="notBreaching",
        queries=(
            stat("slowest", _metrics.NAMESPACE, _metrics.REQUEST_LATENCY_MS, where, "p99", MINUTE),
            stat("upstream", _metrics.NAMESPACE, _metrics.UPSTREAM_ERRORS, where, "Sum", MINUTE),
            # While OpenAI fails, its slowness is no fault of the new version.
            expression("judged", "Slowest hundredth, ms", f"IF(FILL(upstream, 0) >= {FEWEST_ERRORS}, 0, slowest)"),
        ),
    )


def _unready(load_balancer: pulumi.Input[str], target_groups: Sequence[pulumi.Input[str]]) -> Alarm:
    return Alarm(
        name="rollback-unready",
        description="Rolls a deployment back: tasks stay unready",
        comparison=OVER,
        threshold=0,
        period_seconds=MINUTE,
        periods=PERIODS,
        missing="notBreaching",
        queries=hosts("UnHealthyHostCount", load_balancer, target_groups),
    )
