"""What a stack is planned for, in sentences that show their sums: which limit comes first, and which endpoints pay."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from components._break_even import SERVICES, break_even_gb, endpoint_usd, saved_usd_per_gb, worth_having
from components._capacity import Bottleneck, bottleneck, requests_by
from components._prices import CHECKED, HOURS_A_MONTH, usd
from components.network import InterfaceEndpoints, Nat

if TYPE_CHECKING:
    from stacks.settings import Settings

BUSY_SHARE: Final = 0.25
"""Of what the bottleneck allows, this much is asked for on average over a month: busy by day, quiet by night."""
MINUTES_A_MONTH: Final = 60 * HOURS_A_MONTH


@dataclass(frozen=True)
class Traffic:
    """What is exchanged with an AWS service, in bytes both ways, TLS included. Rough, and on the generous side."""

    request: int = 0
    """For each request of a caller."""
    task_hour: int = 0
    """For each hour of a task, busy or not."""


TRAFFIC: Final = {
    "appconfigdata": Traffic(task_hour=240 * 2_000),  # asked each 15 s whether the models changed
    "ecr.api": Traffic(task_hour=10_000),  # a login and a manifest for each start; layers come through S3's gateway
    "ecr.dkr": Traffic(task_hour=20_000),
    "logs": Traffic(request=2_000, task_hour=360 * 1_500),  # one line a request, one line of metrics each 10 s
    "secretsmanager": Traffic(task_hour=60 * 6_000),  # read again each minute
    "sqs": Traffic(task_hour=1_200 * 3_000),  # an idle worker asks each 3 s
}


def requests_a_month(settings: "Settings") -> int:
    """Requests that a stack is assumed to serve in a month."""
    allowed = min(requests_by(settings.load, settings.web_max_tasks).values())
    return int(float(allowed) * BUSY_SHARE * MINUTES_A_MONTH)


def traffic_gb(settings: "Settings") -> dict[str, float]:
    """GB a month that the tasks are assumed to exchange with each service."""
    requests = requests_a_month(settings)
    task_hours = (settings.web_min_tasks + settings.worker_min_tasks) * HOURS_A_MONTH
    return {service: (requests * each.request + task_hours * each.task_hour) / 1e9 for service, each in TRAFFIC.items()}


def sums(settings: "Settings") -> list[str]:
    """Each a whole sentence, for `make plan` and for whoever operates the stack."""
    return [*_capacity(settings), *_endpoints(settings)]


def _capacity(settings: "Settings") -> list[str]:
    load, tasks = settings.load, settings.web_max_tasks
    allowed = requests_by(load, tasks)
    scarce = bottleneck(load, tasks)
    ways = {
        Bottleneck.REQUESTS: f"the request quota allows {_number(allowed[Bottleneck.REQUESTS])}",
        Bottleneck.TOKENS: (
            f"the token quota {load.tokens_per_minute:,} / {load.tokens_per_request:,} a request = "
            f"{_number(allowed[Bottleneck.TOKENS])}"
        ),
        Bottleneck.TASKS: (
            f"{tasks} web tasks x {load.in_flight_per_task} in flight x 60 / {load.request_seconds} s = "
            f"{_number(allowed[Bottleneck.TASKS])}"
        ),
    }
    fixes = {
        Bottleneck.REQUESTS: "ask OpenAI for more, then set requestsPerMinute",
        Bottleneck.TOKENS: "lower the output cap, or ask OpenAI for more and set tokensPerMinute",
        Bottleneck.TASKS: f"the quota feeds up to {load.useful_tasks} tasks: raise webMaxTasks",
    }
    return [
        f"the bottleneck is the {scarce.value}; requests a minute: {', '.join(ways.values())}",
        f"to serve more than {_number(allowed[scarce])} requests a minute, {fixes[scarce]}",
    ]


def _endpoints(settings: "Settings") -> list[str]:
    if settings.vpc_id:
        return []
    zones, has_nat = settings.zone_count, settings.nat is not Nat.NONE
    each = endpoint_usd(zones)
    price = f"{usd('interface_endpoint')} USD x {HOURS_A_MONTH} h x {zones} zones = {each:.2f} USD a month"
    least = break_even_gb(zones, has_nat)
    if least is None:
        pays = "and saves nothing: without NAT the way to AWS in the same region is free"
    else:
        planned = traffic_gb(settings)
        most = max(planned, key=lambda service: planned[service])
        pays = (
            f"and saves {usd('nat_data')} - {usd('interface_endpoint_data')} = {saved_usd_per_gb(has_nat)} USD a GB, "
            f"so it pays from {least} GB; most is planned with {most}, {planned[most]:.0f} GB "
            f"({requests_a_month(settings) / 1e6:.1f} million requests: a quarter of the bottleneck all month)"
        )
    return [
        f"private address of an AWS service (interfaceEndpoints: {settings.interface_endpoints.value}): {price}, "
        f"{pays}; {_made(settings, each)} (prices of {CHECKED})"
    ]


def _made(settings: "Settings", each: Decimal) -> str:
    made = {
        InterfaceEndpoints.AUTO: worth_having(
            SERVICES, traffic_gb(settings), settings.zone_count, settings.nat is not Nat.NONE
        ),
        InterfaceEndpoints.ALL: list(SERVICES),
        InterfaceEndpoints.NONE: [],
    }[settings.interface_endpoints]
    if not made:
        return f"none is made, all {len(SERVICES)} would be {each * len(SERVICES):.2f} USD"
    return f"made for {', '.join(made)}: {each * len(made):.2f} USD"


def _number(value: Fraction) -> str:
    return f"{float(value):,.0f}"
