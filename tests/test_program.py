"""The whole program, for every stack: what it makes, where it hangs, and what both sides of each seam agree on."""

import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from app import metrics as app_metrics
from app import settings as app_settings
from app.jobs import settings as job_settings
from components import _metrics
from preflight.project import Project
from preflight.record import Recording, Resource, record
from preflight.wire import plain, walk
from stacks import checks
from tests.known import known

STACKS = Project.load().stack_names()
TASK_DEFINITION = "aws:ecs/taskDefinition:TaskDefinition"
TARGETS = "aws:lb/targetGroup:TargetGroup"
DYNAMIC = "pulumi-python:dynamic:Resource"
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
    "aws:sqs/queue:Queue": {"dev": 2, "staging": 2, "prod": 3},
    "aws:secretsmanager/secret:Secret": {"dev": 1, "staging": 1, "prod": 2},
    "aws:scheduler/schedule:Schedule": {"dev": 0, "staging": 0, "prod": 1},
    "aws:elasticache/serverlessCache:ServerlessCache": {"dev": 1, "staging": 1, "prod": 1},
    "aws:budgets/budget:Budget": {"dev": 1, "staging": 1, "prod": 1},
    "aws:codebuild/project:Project": {"dev": 1, "staging": 1, "prod": 1},
    DYNAMIC: {"dev": 3, "staging": 3, "prod": 3},
    TARGETS: {"dev": 1, "staging": 2, "prod": 2},
    "aws:lb/listenerRule:ListenerRule": {"dev": 0, "staging": 1, "prod": 1},
}
COMPONENTS = {
    "alarms": "Alarms",
    "api-key": "ApiKey",
    "balancer": "LoadBalancer",
    "cache": "Cache",
    "costs": "CostAlarms",
    "encryption": "Encryption",
    "image": "Image",
    "models": "ModelConfig",
    "network": "Network",
    "queue": "Queue",
    "storage": "Storage",
    "web": "ContainerService",
    "worker": "ContainerService",
}
# What only some stacks have.
MORE_COMPONENTS = {"prod": {"rotation": "ScheduledJob"}}
MORE_OUTPUTS = {"prod": ["rotation", "admin_secret_name"]}


@cache
def previewed(stack: str) -> Recording:
    return record(stack)


@cache
def deployed(stack: str) -> Recording:
    return known(stack)


def container(stack: str, service: str) -> dict[str, Any]:
    """The only container of a service's task definition."""
    definition = deployed(stack).one(TASK_DEFINITION, f"{service}-tasks")
    (found,) = json.loads(definition.inputs["containerDefinitions"])
    assert isinstance(found, dict)
    return found


def environment(stack: str, service: str) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container(stack, service)["environment"]}


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


@pytest.mark.parametrize("service", ["web", "worker"])
@pytest.mark.parametrize("stack", STACKS)
def test_the_service_sets_exactly_what_the_app_reads(stack: str, service: str) -> None:
    assert sorted(environment(stack, service)) == sorted(app_settings.ENVIRONMENT)


@pytest.mark.parametrize("service", ["web", "worker"])
@pytest.mark.parametrize("stack", STACKS)
def test_the_app_accepts_what_the_service_sets(stack: str, service: str) -> None:
    read = app_settings.Settings.from_environment({**environment(stack, service), "AWS_REGION": "us-east-1"})
    assert (read.stack, read.service, read.cache_auth) == (stack, service, "iam")


ROTATING = {"rotationDays": "7", "openaiProjectId": "proj_1", "openaiServiceAccountId": "svc_acct_1"}


@cache
def rotating() -> Recording:
    """The smallest stack, with rotation turned on."""
    return known("dev", **ROTATING)


def rotation_task(recording: Recording) -> dict[str, Any]:
    (made,) = json.loads(recording.one(TASK_DEFINITION, "rotation-tasks").inputs["containerDefinitions"])
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize("recording", [rotating, lambda: deployed("prod")], ids=["dev", "prod"])
def test_the_rotation_is_told_exactly_what_it_reads(recording: Callable[[], Recording]) -> None:
    told = {item["name"]: item["value"] for item in rotation_task(recording())["environment"]}
    assert sorted(told) == sorted(job_settings.ROTATION_ENVIRONMENT)
    read = job_settings.RotationSettings.from_environment({**told, "AWS_REGION": "us-east-1"})
    assert read.service == _metrics.ROTATE_KEY
    assert checks.RANGES["rotation_days"] == (0, job_settings.MAX_ROTATION_DAYS, "days")
    secret = "aws:secretsmanager/secret:Secret"
    assert read.openai_secret_arn == recording().one(secret, "api-key-secret").outputs["arn"]
    assert read.openai_admin_secret_arn == recording().one(secret, "api-key-admin").outputs["arn"]


def test_the_rotation_runs_the_image_and_the_days_of_its_stack() -> None:
    task = rotation_task(rotating())
    assert task["image"] == rotating().outputs["image"]
    assert task["command"] == ["python", "-m", "app", "job", "rotate-key"]
    assert {"name": "PRODKIT_ROTATION_DAYS", "value": "7"} in task["environment"]
    overdue = rotating().one("aws:cloudwatch/metricAlarm:MetricAlarm", "rotation-overdue").inputs
    assert (overdue["metricName"], overdue["threshold"]) == (app_metrics.KEY_AGE_DAYS, 9)


def test_only_the_rotation_may_read_the_admin_key() -> None:
    recording = rotating()
    admin = recording.one("aws:secretsmanager/secret:Secret", "api-key-admin").outputs["arn"]
    policies = recording.of_type("aws:iam/rolePolicy:RolePolicy")
    assert [policy.name for policy in policies if admin in policy.inputs["policy"]] == ["rotation-task-rotate"]
    told = [item.name for item in recording.of_type(TASK_DEFINITION) if admin in item.inputs["containerDefinitions"]]
    assert told == ["rotation-tasks"]


def test_without_rotation_there_is_neither_its_job_nor_its_secret() -> None:
    more = {item.urn for item in rotating().resources} - {item.urn for item in deployed("dev").resources}
    assert {urn.rpartition("::")[2].split("-")[0] for urn in more} == {"rotation", "api"}
    assert not {"rotation", "admin_secret_name"} & set(deployed("dev").outputs)


def test_starting_the_rotation_by_hand_takes_what_is_exported() -> None:
    recording = rotating()
    job = plain(recording.outputs["rotation"])
    assert job["command"] == [*rotation_task(recording)["command"], "--now"]
    assert job["container"] == rotation_task(recording)["name"]
    options = rotation_task(recording)["logConfiguration"]["options"]
    assert job["log_group"] == options["awslogs-group"]
    assert job["log_stream"] == f"{options['awslogs-stream-prefix']}/{job['container']}"
    assert job["task_definition"] == recording.one(TASK_DEFINITION, "rotation-tasks").outputs["arn"]


@pytest.mark.parametrize("service", ["web", "worker"])
def test_a_task_gets_what_the_stack_made(service: str) -> None:
    recording, told = deployed("prod"), environment("prod", service)
    assert told["PRODKIT_STATE_TABLE"] == recording.outputs["state_table"]
    assert told["PRODKIT_LEDGER_TABLE"] == recording.outputs["ledger_table"]
    assert told["PRODKIT_DOCUMENTS_BUCKET"] == recording.outputs["documents_bucket"]
    assert told["PRODKIT_QUEUE_URL"] == recording.outputs["queue_url"]
    assert told["PRODKIT_CACHE_ENDPOINT"] == recording.outputs["cache_endpoint"]
    assert (
        told["PRODKIT_OPENAI_SECRET_ARN"]
        == recording.one("aws:secretsmanager/secret:Secret", "api-key-secret").outputs["arn"]
    )
    assert container("prod", service)["command"] == ["python", "-m", "app", service]
    assert not container("prod", service).get("secrets")


@pytest.mark.parametrize("stack", STACKS)
def test_both_services_run_the_image_that_was_built_by_its_digest(stack: str) -> None:
    images = {container(stack, service)["image"] for service in ("web", "worker")}
    assert images == {deployed(stack).outputs["image"]}
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", images.pop())


@pytest.mark.parametrize("stack", STACKS)
def test_the_balancer_the_task_and_the_app_agree_on_how_long_to_wait(stack: str) -> None:
    recording, told = deployed(stack), environment(stack, "web")
    seconds = {key.removesuffix("_SECONDS"): int(value) for key, value in told.items() if key.endswith("_SECONDS")}
    balancer = recording.one("aws:lb/loadBalancer:LoadBalancer").inputs
    (delay,) = {int(item.inputs["deregistrationDelay"]) for item in recording.of_type(TARGETS)}
    assert 2 * seconds["PRODKIT_HEARTBEAT"] <= balancer["idleTimeout"] < seconds["PRODKIT_KEEP_ALIVE"]
    assert seconds["PRODKIT_REQUEST_TIMEOUT"] < balancer["idleTimeout"]
    assert seconds["PRODKIT_MAX_STREAM"] <= delay
    stop = container(stack, "web")["stopTimeout"]
    assert seconds["PRODKIT_READINESS_GRACE"] + seconds["PRODKIT_DRAIN"] < stop <= 120


def test_an_image_given_by_digest_is_adopted_and_nothing_is_built() -> None:
    digest = f"registry.example.com/app@sha256:{'0' * 64}"
    recording = known("dev", imageUri=digest)
    (definition, _) = recording.of_type(TASK_DEFINITION)
    assert json.loads(definition.inputs["containerDefinitions"])[0]["image"] == digest
    for token in ("aws:codebuild/project:Project", "aws:ecr/repository:Repository"):
        assert recording.of_type(token) == []
    assert "image-build" not in [item.name for item in recording.of_type(DYNAMIC)]


def test_an_image_of_another_repository_may_be_pulled_by_whoever_starts_tasks() -> None:
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    recording = known("dev", imageUri=f"{registry}/shared@sha256:{'0' * 64}")
    policy = recording.one("aws:iam/rolePolicy:RolePolicy", "web-execution-pull").inputs["policy"]
    (_, pull) = json.loads(policy)["Statement"]
    assert pull["Resource"] == "arn:aws:ecr:us-east-1:123456789012:repository/shared"


def test_a_promoted_image_is_run_from_the_stack_s_own_repository_and_nothing_is_built() -> None:
    promoted = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/prodkit-dev/image@sha256:{'0' * 64}"
    recording = known("dev", imageUri=promoted)
    assert recording.outputs["image"] == promoted
    assert recording.one("aws:ecr/repository:Repository").inputs["name"] == "prodkit-dev/image"
    assert "image-build" not in [item.name for item in recording.of_type(DYNAMIC)]
    assert recording.one("aws:iam/rolePolicy:RolePolicy", "web-execution-pull")


@pytest.mark.parametrize("service", ["web", "worker"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_deployment_succeeds_when_its_rollout_does_and_is_waited_for_once(stack: str, service: str) -> None:
    recording = deployed(stack)
    ecs = recording.one("aws:ecs/service:Service", f"{service}-service")
    waited = recording.one(DYNAMIC, f"{service}-rollout").inputs
    assert ecs.inputs["waitForSteadyState"] is False
    assert waited["service"] == ecs.outputs["name"]
    assert waited["task_definition_arn"] == ecs.inputs["taskDefinition"]
    assert waited["log_prefix"] == f"{service}/{container(stack, service)['name']}"
    assert waited["log_group"] == container(stack, service)["logConfiguration"]["options"]["awslogs-group"]
    longest_drain = recording.one(TARGETS, "balancer-tg").inputs["deregistrationDelay"]
    assert waited["timeout_seconds"] > longest_drain


def test_each_stack_deploys_as_its_settings_say() -> None:
    strategies = {
        stack: deployed(stack).one("aws:ecs/service:Service", "web-service").inputs["deploymentConfiguration"]
        for stack in STACKS
    }
    assert {stack: one["strategy"] for stack, one in strategies.items()} == {
        "dev": "ROLLING",
        "staging": "LINEAR",
        "prod": "CANARY",
    }
    for stack in STACKS:
        worker = deployed(stack).one("aws:ecs/service:Service", "worker-service")
        assert worker.inputs["deploymentConfiguration"] == {"strategy": "ROLLING"}


def test_the_metrics_that_are_read_are_the_ones_that_are_written() -> None:
    assert frozenset(app_metrics.UNITS) == _metrics.NAMES
    assert app_metrics.NAMESPACE == _metrics.NAMESPACE
    assert app_metrics.DIMENSIONS == (_metrics.STACK_DIMENSION, _metrics.SERVICE_DIMENSION)
    assert app_metrics.EMIT_SECONDS == _metrics.INTERVAL_SECONDS


@pytest.mark.parametrize("stack", STACKS)
def test_every_alarm_on_our_own_metric_reads_one_that_the_app_writes(stack: str) -> None:
    seen = set()
    for alarm in deployed(stack).of_type("aws:cloudwatch/metricAlarm:MetricAlarm"):
        for stat in [alarm.inputs, *(query.get("metric") or {} for query in alarm.inputs.get("metricQueries") or [])]:
            if stat.get("namespace") == app_metrics.NAMESPACE:
                seen.add(stat["metricName"])
                assert set(stat["dimensions"]) == set(app_metrics.DIMENSIONS), alarm.name
    assert seen
    assert seen <= set(app_metrics.UNITS)


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


@pytest.mark.parametrize("stack", STACKS)
def test_only_workers_may_hold_themselves_and_only_in_their_cluster(stack: str) -> None:
    recording = deployed(stack)
    (policy,) = [
        json.loads(item.inputs["policy"])["Statement"][0]
        for item in recording.of_type("aws:iam/rolePolicy:RolePolicy")
        if "TaskProtection" in str(item.inputs["policy"])
    ]
    cluster = recording.one("aws:ecs/cluster:Cluster").outputs["arn"]
    assert recording.one("aws:iam/rolePolicy:RolePolicy", "worker-task-protection").inputs["role"]
    assert (policy["Action"], policy["Resource"]) == (
        ["ecs:UpdateTaskProtection"],
        cluster.replace(":cluster/", ":task/") + "/*",
    )


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
