"""The whole program, for every stack: what it makes, where it hangs, who reaches it and what protects it."""

import importlib
import inspect
import json
import re
from collections import Counter
from typing import Any

import pytest

from preflight.record import Resource
from preflight.wire import plain, walk
from tests.known import known
from tests.program import COMPONENTS, DYNAMIC, STACKS, TARGETS, deployed, previewed

SECURITY_GROUP = "aws:ec2/securityGroup:SecurityGroup"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
# One row says what a stack is: how many of the things that make it cheap, safe or highly available.
SHAPE = {
    "aws:ec2/natGateway:NatGateway": {"dev": 0, "staging": 1, "prod": 3},
    "aws:ec2/subnet:Subnet": {"dev": 2, "staging": 4, "prod": 6},
    "aws:kms/key:Key": {"dev": 1, "staging": 1, "prod": 4},
    "aws:wafv2/webAcl:WebAcl": {"dev": 0, "staging": 1, "prod": 1},
    "aws:route53/zone:Zone": {"dev": 0, "staging": 1, "prod": 1},
    "aws:acm/certificate:Certificate": {"dev": 0, "staging": 1, "prod": 1},
    "aws:lb/loadBalancer:LoadBalancer": {"dev": 1, "staging": 1, "prod": 1},
    "aws:lb/listener:Listener": {"dev": 1, "staging": 2, "prod": 2},
    "aws:ecs/cluster:Cluster": {"dev": 1, "staging": 1, "prod": 1},
    "aws:ecs/service:Service": {"dev": 2, "staging": 2, "prod": 2},
    "aws:appautoscaling/target:Target": {"dev": 2, "staging": 2, "prod": 2},
    "aws:dynamodb/table:Table": {"dev": 2, "staging": 2, "prod": 2},
    "aws:s3/bucket:Bucket": {"dev": 3, "staging": 3, "prod": 3},
    "aws:sqs/queue:Queue": {"dev": 2, "staging": 2, "prod": 4},
    "aws:secretsmanager/secret:Secret": {"dev": 1, "staging": 1, "prod": 2},
    "aws:scheduler/schedule:Schedule": {"dev": 0, "staging": 0, "prod": 2},
    "aws:elasticache/serverlessCache:ServerlessCache": {"dev": 1, "staging": 1, "prod": 1},
    "aws:budgets/budget:Budget": {"dev": 1, "staging": 1, "prod": 1},
    "aws:codebuild/project:Project": {"dev": 1, "staging": 1, "prod": 1},
    DYNAMIC: {"dev": 3, "staging": 3, "prod": 3},
    TARGETS: {"dev": 1, "staging": 2, "prod": 2},
    "aws:lb/listenerRule:ListenerRule": {"dev": 0, "staging": 1, "prod": 1},
}
# What only some stacks have.
MORE_COMPONENTS = {"prod": {"rotation": "ScheduledJob", "suspense": "ScheduledJob"}}
MORE_OUTPUTS = {"prod": ["rotation", "admin_secret_name"]}


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_has_its_shape(stack: str) -> None:
    counts = Counter(resource.type for resource in previewed(stack).resources)
    assert {token: counts[token] for token in SHAPE} == {token: row[stack] for token, row in SHAPE.items()}


@pytest.mark.parametrize("stack", STACKS)
def test_a_preview_and_a_deployment_register_the_same(stack: str) -> None:
    assert {item.urn for item in previewed(stack).resources} == {item.urn for item in deployed(stack).resources}


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_is_unknown_once_everything_exists(stack: str) -> None:
    assert {item.name: item.unknowns for item in deployed(stack).resources if item.unknowns} == {}


@pytest.mark.parametrize("stack", STACKS)
def test_every_resource_sits_under_a_component(stack: str) -> None:
    recording = previewed(stack)
    tops = [item for item in recording.resources if item.parent.endswith(f"::prodkit-{stack}")]
    components = {item.name: item.type for item in tops if not item.custom}
    expected = {**COMPONENTS, **MORE_COMPONENTS.get(stack, {})}
    assert components == {name: f"prodkit:index:{noun}" for name, noun in expected.items()}
    # A dynamic resource cannot live in a component that other languages use.
    assert sorted(item.name for item in tops if item.custom) == ["image-build", "web-rollout", "worker-rollout"]


def taggable(resource: Resource) -> bool:
    package, module, name = resource.type.split(":")
    if package != "aws":
        return False
    kind = getattr(importlib.import_module(f"pulumi_aws.{module.split('/')[0]}"), name)
    return "tags" in inspect.signature(kind._internal_init).parameters


@pytest.mark.parametrize("stack", STACKS)
def test_the_tags_reach_every_taggable_child(stack: str) -> None:
    expected = {"project": "prodkit", "prodkit:stack": stack}
    candidates = [item for item in deployed(stack).resources if taggable(item)]
    assert len(candidates) > 50
    untagged = [item.name for item in candidates if not expected.items() <= (item.inputs.get("tags") or {}).items()]
    assert untagged == []


@pytest.mark.parametrize("stack", STACKS)
def test_no_secret_is_in_clear(stack: str) -> None:
    looks_like_a_key = re.compile(r"\bsk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN")
    credential = re.compile(r"password|secretString|authToken|privateKey|apiKey", re.IGNORECASE)
    recording = deployed(stack)
    for item in recording.resources:
        for path, value in walk(item.inputs):
            assert not credential.search(path.split(".")[-1]), f"{item.name} has an input {path}"
            assert not (isinstance(value, str) and looks_like_a_key.search(value)), f"{item.name}.{path}"
    assert not looks_like_a_key.search(json.dumps({key: str(plain(value)) for key, value in recording.outputs.items()}))
    assert recording.of_type("aws:secretsmanager/secretVersion:SecretVersion") == []


@pytest.mark.parametrize("stack", STACKS)
def test_only_the_balancer_is_open_to_the_world(stack: str) -> None:
    recording = deployed(stack)
    balancer = recording.one("prodkit:index:LoadBalancer")
    rules = recording.of_type(INGRESS)
    assert rules
    for rule in rules:
        if rule.parent == balancer.urn:
            continue
        assert "cidrIpv4" not in rule.inputs, rule.name
        assert "cidrIpv6" not in rule.inputs, rule.name
        assert rule.inputs["referencedSecurityGroupId"], rule.name
    for group in recording.of_type(SECURITY_GROUP):
        assert not group.inputs.get("ingress"), group.name


@pytest.mark.parametrize("stack", STACKS)
def test_only_the_balancer_reaches_web_tasks_and_nobody_reaches_workers(stack: str) -> None:
    recording = deployed(stack)
    groups = {
        name: next(item.id for item in recording.of_type(SECURITY_GROUP) if item.parent == parent.urn)
        for name in ("balancer", "web", "worker")
        for parent in recording.resources
        if parent.name == name
    }
    into = {
        rule.inputs["securityGroupId"]: rule.inputs["referencedSecurityGroupId"]
        for rule in recording.of_type(INGRESS)
        if "referencedSecurityGroupId" in rule.inputs
    }
    assert into[groups["web"]] == groups["balancer"]
    assert groups["worker"] not in into


def statements(policy: Resource) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(policy.inputs["policy"])["Statement"]
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_a_key_lets_in_every_service_through_which_a_role_may_use_it(stack: str) -> None:
    recording = deployed(stack)
    through = {
        key.outputs["arn"]: {
            service
            for one in statements(key)
            for service in one.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", [])
        }
        for key in recording.of_type("aws:kms/key:Key")
    }
    used = [
        (one["Resource"], set(one["Condition"]["StringEquals"]["kms:ViaService"]))
        for policy in recording.of_type("aws:iam/rolePolicy:RolePolicy")
        for one in statements(policy)
        if one.get("Sid") == "UseKey"
    ]
    assert len(used) >= 5
    for key, services in used:
        assert services <= through[key], key


def test_what_holds_data_is_protected_in_prod_and_not_in_dev() -> None:
    assert not any(item.protect for item in previewed("dev").resources)
    protected = {item.type for item in previewed("prod").resources if item.protect}
    assert {"aws:s3/bucket:Bucket", "aws:dynamodb/table:Table"} <= protected


def test_traffic_is_encrypted_where_there_is_a_domain() -> None:
    for stack in ("staging", "prod"):
        listeners = {item.inputs["protocol"]: item for item in deployed(stack).of_type("aws:lb/listener:Listener")}
        assert [action["type"] for action in listeners["HTTPS"].inputs["defaultActions"]] == ["forward"]
        assert [action["type"] for action in listeners["HTTP"].inputs["defaultActions"]] == ["redirect"]
    assert str(deployed("prod").outputs["url"]) == "https://ai.example.com"
    assert str(deployed("dev").outputs["url"]).startswith("http://")


@pytest.mark.parametrize("stack", STACKS)
def test_an_operator_gets_what_is_needed_and_no_secret(stack: str) -> None:
    assert sorted(previewed(stack).outputs) == sorted(
        [
            *("sums", "url", "name_servers", "dashboard_url", "secret_name", "image", "topic", "budget"),
            *("cluster", "web_service", "worker_service", "web_log_group", "worker_log_group"),
            *("state_table", "ledger_table", "documents_bucket", "queue_url", "dead_letter_queue", "cache_endpoint"),
            *MORE_OUTPUTS.get(stack, []),
        ]
    )


def test_an_existing_network_and_a_given_certificate_are_used() -> None:
    recording = known(
        "dev",
        vpcId="vpc-01234567",
        publicSubnetIds='["subnet-0000000a", "subnet-0000000b"]',
        allowPlainHttp="false",
        domainName="ai.example.com",
        certificateArn="arn:aws:acm:us-east-1:123456789012:certificate/0123-4567",
        cacheMode="replicated",
        anomalyMonitorArn="arn:aws:ce::123456789012:anomalymonitor/0123-4567",
    )
    assert recording.of_type("aws:ec2/vpc:Vpc") == []
    assert recording.of_type("aws:acm/certificate:Certificate") == []
    assert recording.of_type("aws:costexplorer/anomalyMonitor:AnomalyMonitor") == []
    assert recording.one("aws:elasticache/replicationGroup:ReplicationGroup").inputs["nodeType"] == "cache.t4g.small"
    service = recording.one("aws:ecs/service:Service", "web-service")
    assert service.inputs["networkConfiguration"]["subnets"] == ["subnet-0000000a", "subnet-0000000b"]


def test_a_given_hosted_zone_proves_the_certificate() -> None:
    recording = known("dev", allowPlainHttp="false", domainName="ai.example.com", hostedZoneId="Z0123456789ABC")
    assert recording.of_type("aws:route53/zone:Zone") == []
    assert {item.inputs["zoneId"] for item in recording.of_type("aws:route53/record:Record")} == {"Z0123456789ABC"}
