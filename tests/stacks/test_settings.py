"""Settings are typed, have one default each, and what is impossible is refused before anything registers."""

import contextlib
import re
from dataclasses import FrozenInstanceError, fields
from enum import Enum
from typing import Any, get_origin, get_type_hints

import pulumi
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components._fargate import SIZES, Architecture
from components.cache import CacheMode
from components.network import Nat
from preflight.project import ROOT, Project
from preflight.record import record
from stacks.keys import AWS_KEYS, setting_key
from stacks.settings import Settings, SettingsError, parse

PROJECT = Project.load()
SCHEMA: dict[str, Any] = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
CONFIG_FIELDS = [field.name for field in fields(Settings) if field.name != "stack" and field.name not in AWS_KEYS]


def values(stack: str = "dev", **changes: str) -> dict[str, str]:
    """A stack's configuration as text, with changes by camelCase key."""
    known = {key: setting.value for key, setting in PROJECT.settings(stack).items()}
    return {**known, **{f"prodkit:{key}": value for key, value in changes.items()}}


def refusal(given: dict[str, str]) -> str:
    """The text of the refusal of these values."""
    with pytest.raises(SettingsError) as caught:
        parse("dev", given)
    return str(caught.value)


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_every_committed_stack_is_accepted(stack: str) -> None:
    assert parse(stack, values(stack)).stack == stack


def test_values_become_typed() -> None:
    settings = parse("dev", values())
    assert settings.nat is Nat.NONE
    assert settings.cache_mode is CacheMode.SERVERLESS
    assert settings.architecture is Architecture.ARM64
    assert settings.web_min_tasks == 1
    assert settings.allow_plain_http is True
    assert settings.account_ids == ("123456789012",)
    assert settings.tags == {"project": "prodkit", "prodkit:stack": "dev"}


def test_quoted_numbers_and_booleans_are_accepted() -> None:
    settings = parse("dev", values(workerMaxTasks=" 7 ", waf="True"))
    assert (settings.worker_max_tasks, settings.waf) == (7, True)


def test_settings_cannot_be_changed() -> None:
    settings = parse("dev", values())
    with pytest.raises(FrozenInstanceError):
        settings.nat = Nat.SINGLE  # type: ignore[misc]  # what is refused at run time


def test_every_key_of_the_schema_has_a_field_a_type_a_description_and_a_default() -> None:
    kinds = {int: "integer", bool: "boolean", str: "string"}
    hints = get_type_hints(Settings)
    assert {f"prodkit:{key}" for key in SCHEMA} == {setting_key(field) for field in CONFIG_FIELDS}
    for field in CONFIG_FIELDS:
        entry, hint = SCHEMA[setting_key(field).removeprefix("prodkit:")], hints[field]
        is_enum = isinstance(hint, type) and issubclass(hint, Enum)
        expected = "array" if get_origin(hint) is tuple else "string" if is_enum else kinds[hint]
        assert entry["type"] == expected, field
        assert entry["description"].endswith("."), field
        assert entry["default"] is not None, field


def test_every_field_says_what_it_means() -> None:
    source = (ROOT / "stacks" / "settings.py").read_text()
    body = source[source.index("class Settings:") : source.index("@property")]
    documented = re.findall(r'^    (\w+): .+\n    """.+', body, flags=re.MULTILINE)
    assert documented == [field.name for field in fields(Settings)]


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_a_stack_file_holds_only_what_differs(stack: str) -> None:
    in_file = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text())["config"]
    defaults = {f"prodkit:{key}": entry["default"] for key, entry in SCHEMA.items()}
    assert [key for key, value in in_file.items() if defaults.get(key) == value] == []


def test_dev_is_cheap_and_prod_is_highly_available() -> None:
    dev, prod = parse("dev", values("dev")), parse("prod", values("prod"))
    assert (dev.nat, dev.waf, dev.separate_keys, dev.web_min_tasks) == (Nat.NONE, False, False, 1)
    assert dev.worker_spot_percent == 100
    assert (prod.nat, prod.waf, prod.separate_keys, prod.zone_count) == (Nat.PER_AZ, True, True, 3)
    assert prod.protect
    assert prod.web_min_tasks >= prod.zone_count
    assert not prod.allow_plain_http
    assert prod.domain_name


ARN = "arn:aws:acm:us-east-1:123456789012:certificate/0123-4567"
REFUSED = {
    "unknown key": ({"webMinTask": "2"}, "prodkit:webMinTask is unknown; did you mean 'prodkit:webMinTasks'?"),
    "words for a number": ({"webMinTasks": "two"}, "prodkit:webMinTasks='two' is not a whole number; write digits"),
    "fraction": ({"webMinTasks": "1.5"}, "prodkit:webMinTasks='1.5' is not a whole number"),
    "word for a boolean": ({"waf": "yes"}, "prodkit:waf='yes' is neither true nor false"),
    "text for a list": ({"alertEmails": "a@b.co"}, "prodkit:alertEmails='a@b.co' is not a list; write it as"),
    "object for a list": ({"alertEmails": '[{"a": 1}]'}, "is not a list"),
    "unknown choice": ({"nat": "singel"}, "prodkit:nat='singel' is not a choice; did you mean 'single'?"),
    "impossible Fargate pair": (
        {"webCpu": "512", "webMemoryMib": "8192"},
        "prodkit:webCpu=512, prodkit:webMemoryMib=8192: cpu=512 does not allow memory_mib=8192; choose 1024, 2048",
    ),
    "impossible cpu": ({"workerCpu": "300"}, "prodkit:workerCpu=300, prodkit:workerMemoryMib=512: cpu=300 is not"),
    "min above max": (
        {"webMinTasks": "5", "webMaxTasks": "2"},
        "prodkit:webMinTasks=5 is more than prodkit:webMaxTasks=2; raise the second or lower the first",
    ),
    "worker min above max": ({"workerMinTasks": "9"}, "prodkit:workerMinTasks=9 is more than prodkit:workerMaxTasks=2"),
    "no web task": ({"webMinTasks": "0"}, "prodkit:webMinTasks=0 is out of range; choose 1 to 1000 tasks"),
    "spot over the top": ({"workerSpotPercent": "101"}, "choose 0 to 100 percent"),
    "one zone": ({"zoneCount": "1"}, "prodkit:zoneCount=1 is out of range; choose 2 to 3 zones"),
    "stream too long": (
        {"maxStreamSeconds": "3601"},
        "prodkit:maxStreamSeconds=3601: max_stream_seconds=3601 is not in",
    ),
    "more tasks than the quota feeds": (
        {"webMaxTasks": "3"},
        "prodkit:webMaxTasks=3 is more than the OpenAI quota can feed: a task carries 40 requests in flight x 60 / "
        "20 s = 120 requests a minute, x 1500 = 180000 tokens a minute; lower it to 2, or set what OpenAI grants you "
        "if that is at least prodkit:requestsPerMinute=241 and prodkit:tokensPerMinute=360001",
    ),
    "no quota": ({"requestsPerMinute": "0"}, "prodkit:requestsPerMinute=0 is out of range; choose 1 to"),
    "no tokens": ({"tokensPerMinute": "0"}, "prodkit:tokensPerMinute=0 is out of range; choose 1 to"),
    "no time": ({"planRequestSeconds": "0"}, "prodkit:planRequestSeconds=0 is out of range; choose 1 to 3600 seconds"),
    "a mean above the longest": (
        {"planRequestSeconds": "61", "maxStreamSeconds": "60"},
        "prodkit:planRequestSeconds=61 is more than prodkit:maxStreamSeconds=60, and a mean is never more than",
    ),
    "no tokens a request": ({"planTokensPerRequest": "0"}, "prodkit:planTokensPerRequest=0 is out of range"),
    "endpoints by name": ({"interfaceEndpoints": '["logs"]'}, "is not a choice; choose from all, auto, none"),
    "unknown rollout": ({"rollout": "canari"}, "prodkit:rollout='canari' is not a choice; did you mean 'canary'?"),
    "too small a step": (
        {"rollout": "linear", "rolloutPercent": "2"},
        "prodkit:rolloutBakeMinutes=5: rollout_percent=2 is not allowed with linear; choose 3 to 50 percent",
    ),
    "too large a canary": ({"rolloutPercent": "51"}, "prodkit:rolloutPercent=51 is out of range; choose 1 to 50"),
    "a rollout of half a day": (
        {"rollout": "linear", "rolloutPercent": "5", "rolloutStepMinutes": "30"},
        "rollout=linear would take 575 minutes besides starting tasks; larger steps or shorter waits bring it under",
    ),
    "bake of days": (
        {"rolloutBakeMinutes": "1441"},
        "prodkit:rolloutBakeMinutes=1441 is out of range; choose 0 to 1440",
    ),
    "no network": ({"vpcCidr": "ten"}, "prodkit:vpcCidr=ten is not an IPv4 network; write it like 10.0.0.0/16"),
    "host bits": (
        {"vpcCidr": "10.0.0.1/16"},
        "prodkit:vpcCidr=10.0.0.1/16 is not the start of a network; write 10.0.0.0",
    ),
    "small network": ({"vpcCidr": "10.0.0.0/24"}, "prodkit:vpcCidr=10.0.0.0/24 does not fit; choose"),
    "public network": ({"vpcCidr": "8.8.0.0/16"}, "prodkit:vpcCidr=8.8.0.0/16 is not private"),
    "overlap": ({"reservedCidrs": '["10.0.128.0/20"]'}, "prodkit:vpcCidr=10.0.0.0/16"),
    "no address": ({"alertEmails": "[]"}, "prodkit:alertEmails=[] is empty; name at least one address"),
    "empty address": ({"alertEmails": '[""]'}, "prodkit:alertEmails=[''] has the wrong form at ''; write addresses"),
    "half an address": ({"alertEmails": '["ops@"]'}, "has the wrong form at 'ops@'"),
    "no https address": ({"alertWebhooks": '["http://a.co/x"]'}, "has the wrong form at 'http://a.co/x'; write https"),
    "secret in an address": ({"alertWebhooks": '["https://a.co/?token=x"]'}, "has the wrong form at 'https://a.co/?"),
    "no zone": ({"budgetTimeZone": "Mars/Olympus"}, "prodkit:budgetTimeZone=Mars/Olympus is not a time zone; write an"),
    "a folder of zones": ({"budgetTimeZone": "America"}, "is not a time zone"),
    "address twice": ({"alertEmails": '["a@b.co", "a@b.co"]'}, "says something twice"),
    "odd log period": (
        {"logRetentionDays": "31"},
        "prodkit:logRetentionDays=31 is not a period CloudWatch has; the nearest is 30",
    ),
    "image by tag": (
        {"imageUri": "repo:latest"},
        "prodkit:imageUri=repo:latest has the wrong form; write an image by digest",
    ),
    "broken OpenAI address": (
        {"openaiBaseUrl": "https://["},
        "prodkit:openaiBaseUrl=https://[ is not an https address",
    ),
    "collector on a port that tasks do not reach": (
        {"otlpEndpoint": "https://collector.example.com:4318"},
        "prodkit:otlpEndpoint=",
    ),
    "plain OpenAI address": ({"openaiBaseUrl": "http://api.openai.com/v1"}, "prodkit:openaiBaseUrl="),
    "OpenAI address with a slash": (
        {"openaiBaseUrl": "https://api.openai.com/v1/"},
        "without user, query and final slash",
    ),
    "rotation of no account": (
        {"rotationDays": "30", "openaiProjectId": "proj_1"},
        "prodkit:rotationDays=30 needs prodkit:openaiServiceAccountId",
    ),
    "rotation of no project": (
        {"rotationDays": "30", "openaiServiceAccountId": "svc_acct_1"},
        "prodkit:rotationDays=30 needs prodkit:openaiProjectId",
    ),
    "rotation too seldom": ({"rotationDays": "91"}, "prodkit:rotationDays=91 is out of range; choose 0 to 90 days"),
    "project by name": ({"openaiProjectId": "my project"}, "prodkit:openaiProjectId=my project has the wrong form"),
    "account by name": ({"openaiServiceAccountId": "my app"}, "has the wrong form; write a service account id"),
    "no money": ({"monthlyBudgetUsd": "0"}, "prodkit:monthlyBudgetUsd=0 is out of range"),
    "no encryption unsaid": (
        {"allowPlainHttp": "false"},
        "prodkit:domainName='' means no TLS; set a domain, or accept that keys and prompts cross the internet in clear",
    ),
    "domain without proof": (
        {"allowPlainHttp": "false", "domainName": "ai.example.com"},
        "prodkit:domainName=ai.example.com needs exactly one of prodkit:hostedZoneId, prodkit:createHostedZone and "
        "prodkit:certificateArn, found none; set one",
    ),
    "domain with two proofs": (
        {"allowPlainHttp": "false", "domainName": "ai.example.com", "createHostedZone": "true", "certificateArn": ARN},
        f"found prodkit:certificateArn={ARN} and prodkit:createHostedZone=true",
    ),
    "domain and plain HTTP": (
        {"domainName": "ai.example.com", "createHostedZone": "true"},
        "prodkit:allowPlainHttp=true contradicts prodkit:domainName",
    ),
    "proof without domain": ({"createHostedZone": "true"}, "prodkit:createHostedZone=true needs prodkit:domainName"),
    "shouted domain": ({"domainName": "AI.example.com"}, "prodkit:domainName=AI.example.com has the wrong form"),
    "subnets without a VPC": ({"publicSubnetIds": '["subnet-01234567"]'}, "needs prodkit:vpcId"),
    "one public subnet": (
        {"vpcId": "vpc-01234567", "publicSubnetIds": '["subnet-01234567"]'},
        "is too few; a balancer needs two subnets in two zones",
    ),
    "private subnets without NAT": (
        {
            "vpcId": "vpc-01234567",
            "publicSubnetIds": '["subnet-01234567", "subnet-01234568"]',
            "privateSubnetIds": '["subnet-01234569", "subnet-0123456a"]',
        },
        "prodkit:nat=none with prodkit:privateSubnetIds: a private subnet without NAT cannot reach OpenAI",
    ),
    "NAT of an existing VPC without private subnets": (
        {
            "nat": "single",
            "vpcId": "vpc-01234567",
            "publicSubnetIds": '["subnet-01234567", "subnet-01234568"]',
        },
        "prodkit:nat=single with an existing VPC needs prodkit:privateSubnetIds",
    ),
    "bad VPC id": ({"vpcId": "my-vpc"}, "prodkit:vpcId=my-vpc has the wrong form; write a VPC id"),
    "replicated cache without nodes": (
        {"cacheMode": "replicated", "cacheNodeType": ""},
        "prodkit:cacheNodeType='' is empty",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_with_its_key_value_and_fix(case: str) -> None:
    changes, text = REFUSED[case]
    assert text in refusal(values(**changes))


@pytest.mark.parametrize(
    ("region", "zones", "text"),
    [
        ("us-west-1", "3", "prodkit:zoneCount=3 is more than the 2 zones of us-west-1; set it to 2"),
        ("eu-west-1", "2", "aws:region=eu-west-1 is outside the US, where the OpenAI API is served"),
        ("mars", "2", "aws:region=mars has the wrong form; write an AWS region such as us-east-1"),
    ],
)
def test_a_bad_region_is_refused(region: str, zones: str, text: str) -> None:
    assert text in refusal({**values(zoneCount=zones), "aws:region": region})


def test_the_refusal_of_a_foreign_region_names_latency_and_residency() -> None:
    text = refusal({**values(), "aws:region": "eu-west-1"})
    assert "ms more a round trip" in text
    assert "leave the region where your data resides" in text
    assert "prodkit:allowNonUsRegion=true" in text


def test_a_foreign_region_is_accepted_when_its_cost_is() -> None:
    assert parse("dev", {**values(allowNonUsRegion="true"), "aws:region": "eu-west-1"}).region == "eu-west-1"


@pytest.mark.parametrize("region", ["us-east-1", "us-east-2", "us-west-1", "us-west-2"])
def test_every_us_region_is_accepted(region: str) -> None:
    assert parse("dev", {**values(), "aws:region": region}).region == region


@pytest.mark.parametrize(("accounts", "text"), [("[]", "is empty"), ('["12"]', "has the wrong form at '12'")])
def test_a_stack_names_the_accounts_it_may_go_to(accounts: str, text: str) -> None:
    assert text in refusal({**values(), "aws:allowedAccountIds": accounts})


def test_a_missing_key_is_refused_with_the_command_that_sets_it() -> None:
    given = values()
    del given["aws:region"]
    assert "aws:region is not set; set it with: pulumi config set aws:region VALUE -s dev" in refusal(given)


def test_every_problem_is_named_at_once() -> None:
    text = refusal(values(webMinTask="2", webMinTasks="0", zoneCount="9", alertEmails="[]"))
    assert text.startswith("4 settings are wrong, nothing was registered:")
    assert len(text.splitlines()) == 5


def test_a_bad_setting_stops_the_program_before_anything_registers() -> None:
    with pytest.raises(pulumi.RunError, match="prodkit:webMinTask is unknown"):
        record("dev", {"webMinTask": "2"})


def test_a_larger_quota_is_accepted_with_the_tasks_it_was_asked_for() -> None:
    granted = values(webMaxTasks="3", requestsPerMinute="241", tokensPerMinute="360001")
    assert parse("dev", granted).web_max_tasks == 3
    for short in ({"requestsPerMinute": "240"}, {"tokensPerMinute": "360000"}):
        assert "is more than the OpenAI quota can feed" in refusal(granted | values(webMaxTasks="3", **short))


def test_tasks_for_the_zones_are_not_held_to_the_quota() -> None:
    fewest = values(webMinTasks="3", webMaxTasks="3", tokensPerMinute="1000")
    assert parse("dev", fewest).web_min_tasks == 3
    assert "lower it to 3" in refusal(fewest | {"prodkit:webMaxTasks": "4"})


@given(st.integers(-10, 40_000), st.integers(-10, 140_000))
def test_only_pairs_that_fargate_offers_are_accepted(cpu: int, memory: int) -> None:
    given_values = values(webCpu=str(cpu), webMemoryMib=str(memory))
    if memory in SIZES.get(cpu, ()):
        assert parse("dev", given_values).web_memory_mib == memory
    else:
        assert f"prodkit:webCpu={cpu}" in refusal(given_values)


@given(st.sampled_from(CONFIG_FIELDS), st.text(max_size=12))
def test_no_text_breaks_the_reader(field: str, text: str) -> None:
    key = setting_key(field)
    with contextlib.suppress(SettingsError):
        assert parse("dev", {**values(), key: text}).stack == "dev"
