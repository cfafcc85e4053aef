"""What the program tells its tasks, how it deploys them, the rotation job, and the metrics that are read."""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from app import settings as app_settings
from app.jobs import settings as job_settings
from app.ledger.evidence import AGREE_SECONDS
from app.observability import metrics as app_metrics
from components import _metrics
from preflight.record import Recording
from preflight.wire import plain
from stacks import checks
from tests.known import known
from tests.program import DYNAMIC, STACKS, TARGETS, TASK_DEFINITION, container, deployed, environment


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


def rotation_task(recording: Recording, job: str = "rotation") -> dict[str, Any]:
    (made,) = json.loads(recording.one(TASK_DEFINITION, f"{job}-tasks").inputs["containerDefinitions"])
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize("recording", [rotating, lambda: deployed("prod")], ids=["dev", "prod"])
def test_the_rotation_is_told_exactly_what_it_reads(recording: Callable[[], Recording]) -> None:
    told = {item["name"]: item["value"] for item in rotation_task(recording())["environment"]}
    assert sorted(told) == sorted(job_settings.RotationSettings.environment())
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


def test_only_the_jobs_may_read_the_admin_key() -> None:
    recording = rotating()
    admin = recording.one("aws:secretsmanager/secret:Secret", "api-key-admin").outputs["arn"]
    policies = recording.of_type("aws:iam/rolePolicy:RolePolicy")
    allowed = [policy.name for policy in policies if admin in policy.inputs["policy"]]
    assert sorted(allowed) == ["rotation-task-rotate", "suspense-task-bill"]
    told = [item.name for item in recording.of_type(TASK_DEFINITION) if admin in item.inputs["containerDefinitions"]]
    assert sorted(told) == ["rotation-tasks", "suspense-tasks"]


@pytest.mark.parametrize("recording", [rotating, lambda: deployed("prod")], ids=["dev", "prod"])
def test_settling_suspense_is_told_exactly_what_it_reads(recording: Callable[[], Recording]) -> None:
    task = rotation_task(recording(), "suspense")
    assert task["command"] == ["python", "-m", "app", "job", job_settings.SETTLE_SUSPENSE]
    told = {item["name"]: item["value"] for item in task["environment"]}
    assert sorted(told) == sorted(job_settings.SettlingSettings.environment())
    read = job_settings.SettlingSettings.from_environment({**told, "AWS_REGION": "us-east-1"})
    assert read.service == _metrics.SETTLE_SUSPENSE
    assert read.ledger_table == recording().outputs["ledger_table"]


def test_settling_suspense_runs_as_often_as_two_looks_at_a_bill_need_and_may_only_use_the_ledger() -> None:
    recording = rotating()
    schedule = recording.one("aws:scheduler/schedule:Schedule", "suspense-schedule").inputs
    assert schedule["scheduleExpression"] == f"rate({AGREE_SECONDS // 3600} hours)"
    policy = json.loads(recording.one("aws:iam/rolePolicy:RolePolicy", "suspense-task-ledger").inputs["policy"])
    (ledger, key) = policy["Statement"]
    assert ledger["Resource"] == recording.one("aws:dynamodb/table:Table", "storage-ledger").outputs["arn"]
    assert not {"dynamodb:DeleteItem", "dynamodb:BatchWriteItem"} & set(ledger["Action"])
    assert key["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    alarms = {item.name for item in recording.of_type("aws:cloudwatch/metricAlarm:MetricAlarm")}
    assert {"suspense-silent", "suspense-failed", "suspense-dead-letters"} <= alarms


def test_without_an_admin_key_there_are_neither_its_jobs_nor_its_secret() -> None:
    more = {item.urn for item in rotating().resources} - {item.urn for item in deployed("dev").resources}
    assert {urn.rpartition("::")[2].split("-")[0] for urn in more} == {"rotation", "suspense", "api"}
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
