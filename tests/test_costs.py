"""The page about costs counts what the stacks have, at listed prices, and its sums are right."""

import re
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

import pytest

from components._prices import PRICES
from preflight.project import Project
from preflight.record import Recording, record
from tests import costs
from tests.known import known

README = costs.PAGE.parents[1] / "README.md"
STACKS = Project.load().stack_names()
# Services without a price by time: free, or paid by use.
WITHOUT_HOURS = {
    *("acm", "appautoscaling", "appconfig", "budgets", "codebuild", "costexplorer", "dynamodb", "ecr", "iam", "s3"),
    *("scheduler", "sns", "sqs", "vpc"),
}
# Of services that have some with a price, the types that have none.
FREE = {
    *("defaultSecurityGroup", "flowLog", "internetGateway", "route", "routeTable", "routeTableAssociation"),
    *("securityGroup", "subnet", "vpc"),
    *("clusterCapacityProviders", "taskDefinition", "user", "userGroup", "alias", "record", "logGroup"),
    *("listener", "listenerRule", "targetGroup", "webAclAssociation", "webAclLoggingConfiguration"),
}
# Types that a line of the page counts.
PRICED = {
    *("vpcEndpoint", "natGateway", "eip", "loadBalancer", "cluster", "service", "serverlessCache", "webAcl", "key"),
    *("secret", "zone", "metricAlarm", "dashboard"),
}
COUNTED = {
    "load balancers": "aws:lb/loadBalancer:LoadBalancer",
    "NAT gateways": "aws:ec2/natGateway:NatGateway",
    "serverless caches, the least": "aws:elasticache/serverlessCache:ServerlessCache",
    "firewalls": "aws:wafv2/webAcl:WebAcl",
    "KMS keys": "aws:kms/key:Key",
    "secrets": "aws:secretsmanager/secret:Secret",
    "hosted zones": "aws:route53/zone:Zone",
    "dashboards": "aws:cloudwatch/dashboard:Dashboard",
}


@cache
def recorded(stack: str) -> Recording:
    return record(stack)


@cache
def tables() -> dict[str, list[list[str]]]:
    """The rows of each section of the page, by its stack or heading."""
    found: dict[str, list[list[str]]] = {}
    section = ""
    for line in costs.PAGE.read_text().splitlines():
        if line.startswith("#"):
            section = line.strip("# ").split(":")[0]
        elif line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(section, []).append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return found


def rows(stack: str) -> dict[str, list[str]]:
    _, *body, _ = tables()[stack]
    return {row[0]: row for row in body}


def worked_out(each: str) -> Decimal:
    """A sum of products, as a reader multiplies it."""
    total = Decimal(0)
    for part in each.split(" + "):
        product = Decimal(1)
        for factor in part.split(" x "):
            product *= Decimal(factor)
        total += product
    return total


def test_the_page_is_what_the_code_says() -> None:
    assert costs.PAGE.read_text() == costs.render(), "run `make reference`"


@pytest.mark.parametrize("stack", STACKS)
def test_the_numbers_are_those_of_the_recorded_stack(stack: str) -> None:
    page, recording = rows(stack), recorded(stack)
    assert {what: int(page[what][1]) for what in COUNTED} == {
        what: len(recording.of_type(token)) for what, token in COUNTED.items()
    }
    scaling = {item.name.removesuffix("-scale"): item for item in recording.of_type("aws:appautoscaling/target:Target")}
    for service in ("web", "worker"):
        assert int(page[f"{service} tasks, arm"][1]) == scaling[service].inputs["minCapacity"]
    endpoints = [item.inputs["vpcEndpointType"] for item in recording.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")]
    assert int(page["interface endpoints, each zone"][1]) == endpoints.count("Interface") * int(
        recording.settings["prodkit:zoneCount"].value
    )
    rules = [len(item.inputs["rules"]) for item in recording.of_type("aws:wafv2/webAcl:WebAcl")]
    assert int(page["firewall rules"][1]) == sum(rules)
    alarms = len(recording.of_type("aws:cloudwatch/metricAlarm:MetricAlarm"))
    read = int(page["metrics that alarms read"][1]) + int(page["the same, each 10 seconds"][1])
    assert read >= alarms


@pytest.mark.parametrize(("stack", "addresses"), [("dev", 2 + 0 + 2), ("staging", 2 + 1 + 0), ("prod", 3 + 3 + 0)])
def test_every_public_address_is_counted_of_balancers_gateways_and_tasks(stack: str, addresses: int) -> None:
    assert int(rows(stack)["public IPv4 addresses"][1]) == addresses == costs.public_addresses(known(stack))


@pytest.mark.parametrize("stack", STACKS)
def test_every_line_and_every_sum_is_worked_out_again(stack: str) -> None:
    total = Decimal(0)
    for what, number, each, amount in rows(stack).values():
        right = (int(number) * worked_out(each)).quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert Decimal(amount) == right, what
        total += right
    assert Decimal(tables()[stack][-1][-1].strip("*")) == total
    summary = {row[0]: row for row in tables()["What a stack costs"]}
    assert summary[stack][1:] == [str(sum(item.custom for item in recorded(stack).resources)), str(total)]


@pytest.mark.parametrize("stack", STACKS)
def test_the_readme_says_the_same(stack: str) -> None:
    summary = {row[0]: row for row in tables()["What a stack costs"]}
    *_, resources, dollars = summary[stack]
    line = next(line for line in README.read_text().splitlines() if line.startswith(f"| {stack} |"))
    assert line.endswith(f"| {resources} | about {Decimal(dollars):.0f} |")


@pytest.mark.parametrize("stack", STACKS)
def test_every_price_on_the_page_is_a_listed_one(stack: str) -> None:
    listed = {price.usd for price in PRICES.values()}
    for what, _, each, _ in rows(stack).values():
        for part in each.split(" + "):
            assert listed & {Decimal(factor) for factor in part.split(" x ")}, what


def test_what_traffic_costs_is_worked_out_again() -> None:
    _, *usage = tables()["With traffic"]
    assert len(usage) > 4
    for what, number, each, assumed, amount in usage:
        price = Decimal(each.split()[0])
        assert Decimal(amount) == (Decimal(number) * price).quantize(Decimal("0.01"), ROUND_HALF_UP), what
        assert assumed


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_is_free_because_it_was_forgotten(stack: str) -> None:
    kinds = {re.match(r"aws:(\w+)/(\w+):", item.type) for item in recorded(stack).resources}
    named = {(match[1], match[2]) for match in kinds if match}
    unknown = {kind for kind in named if kind[0] not in WITHOUT_HOURS and kind[1] not in FREE | PRICED}
    assert unknown == set(), "give it a line in tests/costs.py, or say here that it is free"
