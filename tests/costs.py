"""Writes docs/costs.md from the recorded stacks and the list of prices (`make reference`); a test checks its sums."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any

from components import _metrics
from components._prices import CHECKED, HOURS_A_MONTH, PRICES, REGION, usd
from preflight.record import Recording, Resource
from tests.app.ledger.test_cost import SMALL_PER_SECOND, SMALL_SECONDS, SMALL_TASKS, cost_per_million
from tests.known import known

PAGE = Path(__file__).resolve().parents[1] / "docs/costs.md"
STACKS = ("dev", "staging", "prod")
CENT = Decimal("0.01")
SERVERLESS_CACHE_GB = Decimal("0.1")
"""What AWS charges at least."""
ALARMS_OF_A_TRACKING_POLICY = 2
"""One to grow, one to shrink; a policy that never shrinks may have only the first."""


@dataclass(frozen=True)
class Line:
    """One thing that costs the same whether anybody uses the stack or not."""

    what: str
    number: int
    each: tuple[tuple[Decimal, ...], ...]
    """A sum of products: prices with the hours and sizes they are multiplied by."""

    @property
    def amount(self) -> Decimal:
        """Dollars a month."""
        total = Decimal(0)
        for factors in self.each:
            product = Decimal(1)
            for factor in factors:
                product *= factor
            total += product
        return (self.number * total).quantize(CENT, ROUND_HALF_UP)

    @property
    def sum_shown(self) -> str:
        """`each` as a reader multiplies it."""
        return " + ".join(" x ".join(map(str, factors)) for factors in self.each)


def lines(recording: Recording) -> Iterator[Line]:
    """Everything in a stack that has a price by time alone, at its fewest tasks."""
    hours = Decimal(HOURS_A_MONTH)
    count = recording.of_type
    endpoints = sum(_subnets(item) for item in count("aws:ec2/vpcEndpoint:VpcEndpoint"))
    yield Line("load balancers", len(count("aws:lb/loadBalancer:LoadBalancer")), ((usd("load_balancer"), hours),))
    yield Line("public IPv4 addresses", public_addresses(recording), ((usd("public_ipv4"), hours),))
    yield Line("NAT gateways", len(count("aws:ec2/natGateway:NatGateway")), ((usd("nat_gateway"), hours),))
    yield Line("interface endpoints, each zone", endpoints, ((usd("interface_endpoint"), hours),))
    for service in ("web", "worker"):
        yield _tasks(recording, service, hours)
    caches = len(count("aws:elasticache/serverlessCache:ServerlessCache"))
    yield Line("serverless caches, the least", caches, ((SERVERLESS_CACHE_GB, usd("serverless_cache"), hours),))
    firewalls = count("aws:wafv2/webAcl:WebAcl")
    yield Line("firewalls", len(firewalls), ((usd("firewall"),),))
    yield Line("firewall rules", sum(len(item.inputs["rules"]) for item in firewalls), ((usd("firewall_rule"),),))
    yield Line("KMS keys", len(count("aws:kms/key:Key")), ((usd("key"),),))
    yield Line("secrets", len(count("aws:secretsmanager/secret:Secret")), ((usd("secret"),),))
    yield Line("hosted zones", len(count("aws:route53/zone:Zone")), ((usd("hosted_zone"),),))
    read = list(_metrics_read(recording))
    yield Line("metrics that alarms read", len(read) - sum(read), ((usd("alarm_metric"),),))
    yield Line("the same, each 10 seconds", sum(read), ((usd("alarm_metric_high_resolution"),),))
    yield Line("dashboards", len(count("aws:cloudwatch/dashboard:Dashboard")), ((usd("dashboard"),),))
    metrics = len(_metrics.NAMES - _metrics.OF_JOBS) * len(count("aws:ecs/service:Service"))
    metrics += len(_metrics.OF_JOBS) * len(count("aws:scheduler/schedule:Schedule"))
    yield Line("custom metrics, at most", metrics, ((usd("metric"),),))
    clusters = len(count("aws:ecs/cluster:Cluster"))
    yield Line("Container Insights, an estimate", clusters, ((usd("container_insights"),),))


def public_addresses(recording: Recording) -> int:
    """Public IPv4 addresses: of the balancer in each zone, of NAT gateways, and of tasks without NAT."""
    balancers = sum(len(item.inputs["subnets"]) for item in recording.of_type("aws:lb/loadBalancer:LoadBalancer"))
    services = recording.of_type("aws:ecs/service:Service")
    public = [item for item in services if item.inputs["networkConfiguration"]["assignPublicIp"]]
    return (
        balancers + len(recording.of_type("aws:ec2/eip:Eip")) + sum(int(item.inputs["desiredCount"]) for item in public)
    )


def total(recording: Recording) -> Decimal:
    """Dollars a month of a stack that nobody uses."""
    return sum((line.amount for line in lines(recording)), Decimal(0))


def _subnets(endpoint: Resource) -> int:
    return len(endpoint.inputs["subnetIds"]) if endpoint.inputs["vpcEndpointType"] == "Interface" else 0


def _tasks(recording: Recording, service: str, hours: Decimal) -> Line:
    size = recording.one("aws:ecs/taskDefinition:TaskDefinition", f"{service}-tasks").inputs
    arm = size["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    kind = "arm" if arm else "x86"
    vcpu, gb = Decimal(size["cpu"]) / 1024, Decimal(size["memory"]) / 1024
    each = ((vcpu, usd(f"fargate_{kind}_vcpu"), hours), (gb, usd(f"fargate_{kind}_gb"), hours))
    number = int(recording.one("aws:ecs/service:Service", f"{service}-service").inputs["desiredCount"])
    return Line(f"{service} tasks, {kind}", number, each)


def _metrics_read(recording: Recording) -> Iterator[bool]:
    """For each metric that an alarm reads: whether it is read more often than each minute."""
    for alarm in recording.of_type("aws:cloudwatch/metricAlarm:MetricAlarm"):
        queries = [query["metric"] for query in alarm.inputs.get("metricQueries") or () if query.get("metric")]
        for read in queries or [alarm.inputs]:
            yield int(read["period"]) < 60
    for policy in recording.of_type("aws:appautoscaling/policy:Policy"):
        tracking: dict[str, Any] = policy.inputs.get("targetTrackingScalingPolicyConfiguration") or {}
        custom = (tracking.get("customizedMetricSpecification") or {}).get("metrics", ())
        read_by_each = sum(1 for metric in custom if metric.get("metricStat")) or 1
        yield from [False] * (ALARMS_OF_A_TRACKING_POLICY * read_by_each if tracking else 0)


INTRODUCTION = f"""\
# What a stack costs

Made by `make reference` from the recorded stacks and [components/prices.toml](../components/prices.toml), which
names the source of each price; do not edit it by hand.

US dollars a month ({HOURS_A_MONTH} hours) in {REGION} at list prices read on {CHECKED}, free tiers left out. First the
floor: the fewest tasks, nobody using it. Then what comes on top with traffic. What OpenAI bills for tokens is
not in it, and is usually the larger part.
"""
ABOUT_THE_FLOOR = """\
Tasks count at the on-demand price. dev's worker runs on Spot, which is up to 70 % cheaper and floats, so it is
no part of a floor. Alarms that autoscaling makes itself count as two for each policy that tracks a target.
Custom metrics and Container Insights are billed by the hours that have data: at most as shown.

## With traffic

For 1 million requests a month, each with 10 KB of question and 20 KB of answer.
"""
ABOUT_THE_REST = """\
More tasks cost what the tables say, while they run. Not priced, and cents for the example: S3, DynamoDB and ECR
storage, SQS, KMS and Secrets Manager calls, AppConfig polls, flow logs, image builds.

## What changes the floor

- `nat: none` saves the gateways and gives tasks public addresses; `per_az` costs one gateway a zone.
- `interfaceEndpoints: all` adds six endpoints in each zone. `auto` makes those that save more than they cost;
  `make plan` shows the sum. Security Hub's EC2.55 and EC2.56 want those of the registry whatever they cost.
- Each KMS key costs as much again for each of its first two yearly rotations.
- `architecture: X86_64` makes each task a quarter dearer.
"""


def render() -> str:
    """The whole page."""
    recordings = {stack: known(stack) for stack in STACKS}
    floors = [
        (stack, str(sum(item.custom for item in recording.resources)), str(total(recording)))
        for stack, recording in recordings.items()
    ]
    text = [INTRODUCTION, *_table(("stack", "resources", "floor, USD a month"), *floors)]
    for stack, recording in recordings.items():
        rows = [(line.what, str(line.number), line.sum_shown, str(line.amount)) for line in lines(recording)]
        text += [
            f"## {stack}: about {total(recording):.0f} USD",
            "",
            *_table(("what", "number", "each", "USD"), *rows, ("**sum**", "", "", f"**{total(recording)}**")),
        ]
    usage = [
        (what, str(number), f"{usd(price)} a {PRICES[price].unit}", assumed, _amount(number * usd(price)))
        for what, number, price, assumed in (*_USAGE, *_ledger())
    ]
    text += [ABOUT_THE_FLOOR, *_table(("what", "number", "each", "assumed", "USD"), *usage), ABOUT_THE_REST]
    return "\n".join(text)


# what, how many, price, assumption
_USAGE = (
    ("balancer capacity", Decimal(HOURS_A_MONTH), "load_balancer_capacity", "below one unit, all month"),
    ("data out to callers", Decimal(20), "data_out", "1 M x 20 KB"),
    ("data through NAT", Decimal(30), "nat_data", "1 M x 10 KB to OpenAI and 20 KB from it"),
    ("firewall", Decimal(1), "firewall_requests", "every request"),
    ("logs", Decimal("1.9"), "log_ingestion", "1 M x 0.7 KB, and metrics of three tasks each 10 s"),
)


@cache
def _ledger() -> list[tuple[str, Decimal, str, str]]:
    """Units of the ledger and the budgets' watcher for a million requests in an even month, counted in an hour."""
    counted = asyncio.run(cost_per_million(SMALL_SECONDS, SMALL_PER_SECOND, SMALL_TASKS))
    rows = []
    for units, price, what in zip(counted[:2], ("table_writes", "table_reads"), ("write", "read"), strict=True):
        million = units.quantize(Decimal("0.1"), ROUND_HALF_UP)
        assumed = f"{million} {what} units a request at this pace, {SMALL_TASKS} tasks"
        rows.append((f"spend ledger and budgets, {what}s", million, price, assumed))
    return rows


def _amount(value: Decimal) -> str:
    return str(value.quantize(CENT, ROUND_HALF_UP))


def _table(head: tuple[str, ...], *rows: tuple[str, ...]) -> list[str]:
    rule = tuple("---" for _ in head)
    return [*("| " + " | ".join(cell or " " for cell in row) + " |" for row in (head, rule, *rows)), ""]


if __name__ == "__main__":
    PAGE.write_text(render())
