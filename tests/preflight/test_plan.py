"""The plan shows each resource once, what is unknown or protected, where settings come from, and what it means."""

import json
import subprocess
import sys
from functools import cache

import pytest

from preflight.__main__ import main
from preflight.plan import Plan, lines, plan
from preflight.project import ROOT, Project
from preflight.record import record


@cache
def shown(stack: str) -> Plan:
    return plan(record(stack))


def sentences(stack: str) -> str:
    return "\n".join(shown(stack).statements)


@pytest.mark.parametrize("stack", Project.load().stack_names())
def test_every_resource_is_listed_once_under_its_component(stack: str) -> None:
    recording = record(stack)
    custom = [(item.type, item.name) for item in recording.resources if item.custom]
    assert sorted((item.type, item.name) for item in shown(stack).resources) == sorted(custom)
    assert shown(stack).counts()["resources"] == len(custom)
    groups = {group.name: group.type.rpartition(":")[2] for group in shown(stack).groups}
    assert groups["web"] == "ContainerService"
    assert groups["stack"] == ""
    in_storage = next(group for group in shown(stack).groups if group.name == "storage")
    assert all(item.name.startswith("storage-") for item in in_storage.resources)


def test_the_text_says_what_the_document_says() -> None:
    text, counts = "\n".join(lines(shown("prod"))), shown("prod").counts()
    assert f"stack prod in us-east-1: {counts['resources']} resources" in text
    assert f"{counts['protected']} protected" in text
    assert all(item.name in text for item in shown("prod").resources)
    assert all(sentence in text for sentence in shown("prod").statements)
    assert "  s3 Bucket " in text
    assert "[protected]" in text


def test_protected_and_unknown_are_counted() -> None:
    prod = shown("prod")
    table = next(item for item in prod.resources if item.name == "storage-state")
    assert table.protected
    assert any(path.startswith("serverSideEncryption") for path in table.unknowns)
    assert prod.counts()["protected"] >= 5
    assert shown("dev").counts()["protected"] == 0


def test_settings_name_their_origin() -> None:
    settings = {item["key"]: (item["value"], item["source"]) for item in shown("prod").settings}
    assert settings["prodkit:nat"] == ("per_az", "stacks/Pulumi.prod.yaml")
    assert settings["prodkit:cacheMode"] == ("serverless", "default")
    assert settings["aws:region"] == ("us-east-1", "stacks/Pulumi.prod.yaml")


def test_dev_is_told_its_risks() -> None:
    text = sentences("dev")
    assert "traffic is unencrypted (allowPlainHttp)" in text
    assert "no web application firewall (waf: false)" in text
    assert "tasks have public addresses in public subnets (nat: none)" in text
    assert "nothing is protected from deletion (protect: false)" in text
    assert "web: 1 to 2 tasks of 0.25 vCPU and 512 MiB" in text
    assert "web: a single task" in text
    assert "worker: 1 to 2 tasks of 0.25 vCPU and 512 MiB, 100 % on Spot" in text


def test_prod_is_told_what_it_has() -> None:
    text = sentences("prod")
    assert "traffic is encrypted: TLS at the balancer" in text
    assert "unencrypted" not in text
    assert "firewall" not in text
    assert "tasks are in private subnets behind 3 NAT gateways" in text
    assert "web: 3 to 6 tasks of 1 vCPU and 2048 MiB" in text
    assert "a DNS zone is made for ai.example.com" in text
    assert "encrypted with 4 KMS keys" in text
    assert "alarms go to oncall@example.com" in text
    assert "AWS budget of 1000 USD a month" in text
    assert "make key STACK=prod" in text


@pytest.mark.parametrize("stack", Project.load().stack_names())
def test_the_plan_names_the_bottleneck_and_shows_the_sums_of_the_program(stack: str) -> None:
    text = sentences(stack)
    assert "the bottleneck is the token quota; requests a minute: the request quota allows" in text
    assert "USD a month" in text
    assert all(sentence in text for sentence in record(stack).outputs["sums"])


def test_one_nat_gateway_is_named_as_a_weak_point() -> None:
    assert "one NAT gateway serves every zone (nat: single)" in sentences("staging")


def test_a_foreign_region_is_told_its_cost() -> None:
    foreign = plan(record("dev", {"aws:region": "eu-west-1", "allowNonUsRegion": "true"}))
    assert any(item.startswith("eu-west-1 is outside the US (allowNonUsRegion)") for item in foreign.statements)


def test_what_only_the_account_knows_is_said_to_be_assumed() -> None:
    adopted = {
        "nat": "single",
        "vpcId": "vpc-01234567",
        "publicSubnetIds": '["subnet-0000000a", "subnet-0000000b"]',
        "privateSubnetIds": '["subnet-0000000c", "subnet-0000000d"]',
    }
    (message,) = plan(record("staging", adopted)).messages
    assert message.startswith("the existing private subnets are assumed to have a route to NAT")


def test_the_command_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--stack", "dev", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stack"] == "dev"
    assert document["counts"] == shown("dev").counts()
    assert document["groups"][0]["resources"][0].keys() == {"type", "name", "protected", "unknowns", "source"}


def test_an_unknown_stack_ends_with_2_and_the_names_of_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--stack", "prdo"]) == 2
    said = capsys.readouterr()
    assert said.err == "prodkit: there is no stack 'prdo'; stacks that exist: dev, prod, staging\n"
    assert said.out == ""


def test_a_bad_setting_ends_with_2_and_its_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preflight.record.record", lambda stack: record(stack, {"zoneCount": "7"}))
    assert main(["plan", "--stack", "dev"]) == 2
    assert "prodkit:zoneCount=7 is out of range; choose 2 to 3 zones" in capsys.readouterr().err


@pytest.mark.process
def test_the_command_needs_no_account_and_no_pulumi() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "preflight", "plan", "--stack", "prod"],
        cwd=ROOT,
        env={"PATH": "/nowhere", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("stack prod in us-east-1: ")
    assert done.stderr == ""


def test_the_plan_says_how_a_new_version_takes_over() -> None:
    prod, staging = sentences("prod"), sentences("staging")
    assert "web: a new version gets 10 % of requests for 10 minutes, then all of them; old tasks stay 15 more" in prod
    assert "web: a new version gets another 25 % of requests every 5 minutes; old tasks stay 5 more" in staging
    assert "a new version" not in sentences("dev")


def test_two_plans_of_a_stack_are_the_same_to_the_letter() -> None:
    assert list(lines(plan(record("prod")))) == list(lines(plan(record("prod"))))
