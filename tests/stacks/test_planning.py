"""The plan shows its sums, and what it assumes is what the app does."""

import pytest

from app.aws import READ_SECONDS
from components._break_even import SERVICES
from preflight.project import Project
from stacks.planning import MINUTES_A_MONTH, TRAFFIC, requests_a_month, sums, traffic_gb
from stacks.settings import Settings, parse

PROJECT = Project.load()


def settings(stack: str, **changes: str) -> Settings:
    known = {key: setting.value for key, setting in PROJECT.settings(stack).items()}
    return parse(stack, known | {f"prodkit:{key}": value for key, value in changes.items()})


def test_the_scarcest_comes_first_with_every_number_behind_it() -> None:
    first, then, *_ = sums(settings("dev"))
    assert first == (
        "the bottleneck is the token quota; requests a minute: the request quota allows 500, the token quota "
        "200,000 / 1,500 a request = 133, 2 web tasks x 40 in flight x 60 / 20 s = 240"
    )
    assert then == (
        "to serve more than 133 requests a minute, lower the output cap, or ask OpenAI for more and set tokensPerMinute"
    )


@pytest.mark.parametrize(
    ("changes", "scarce", "fix"),
    [
        ({"planTokensPerRequest": "10", "requestsPerMinute": "200"}, "request quota", "then set requestsPerMinute"),
        ({"tokensPerMinute": "9000000"}, "web tasks", "the quota feeds up to 5 tasks: raise webMaxTasks"),
    ],
)
def test_each_bottleneck_names_what_widens_it(changes: dict[str, str], scarce: str, fix: str) -> None:
    first, then, *_ = sums(settings("dev", **changes))
    assert first.startswith(f"the bottleneck is the {scarce};")
    assert then.endswith(fix)


def test_endpoints_are_weighed_against_nat_with_the_break_even_shown() -> None:
    *_, last = sums(settings("staging"))
    assert "0.01 USD x 730 h x 2 zones = 14.60 USD a month, and saves 0.045 - 0.01 = 0.035 USD a GB" in last
    assert "so it pays from 418 GB; most is planned with logs, 10 GB (4.4 million requests" in last
    assert "none is made, all 6 would be 87.60 USD" in last
    *_, public = sums(settings("dev"))
    assert "saves nothing: without NAT the way to AWS in the same region is free" in public


def test_auto_makes_what_a_large_quota_pays_for() -> None:
    large = settings("prod", requestsPerMinute="100000", tokensPerMinute="150000000", webMaxTasks="800")
    assert "made for logs: 21.90 USD" in sums(large)[-1]
    every = settings("prod", interfaceEndpoints="all")
    assert sums(every)[-1].count("made for appconfigdata, ecr.api, ecr.dkr, logs, secretsmanager, sqs: 131.40 USD") == 1


def test_an_adopted_network_has_its_own_endpoints() -> None:
    adopted = settings("dev", vpcId="vpc-01234567", publicSubnetIds='["subnet-0000000a", "subnet-0000000b"]')
    assert len(sums(adopted)) == 2


def test_the_assumed_traffic_follows_the_load() -> None:
    quiet, busy = settings("staging"), settings("staging", tokensPerMinute="60000000", requestsPerMinute="100000")
    assert requests_a_month(quiet) == int(400 * 0.25 * MINUTES_A_MONTH)
    assert requests_a_month(busy) == int(480 * 0.25 * MINUTES_A_MONTH)
    assert traffic_gb(busy)["logs"] > traffic_gb(quiet)["logs"]
    assert traffic_gb(busy)["sqs"] == traffic_gb(quiet)["sqs"]


def test_every_service_that_the_app_calls_is_foreseen() -> None:
    free = {"s3", "dynamodb"}
    assert set(READ_SECONDS) - free <= set(SERVICES)
    assert set(TRAFFIC) == set(SERVICES)
