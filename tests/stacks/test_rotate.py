"""Rotating the key now: the job of the stack's outputs is started on ECS and watched to its end."""

import time
from typing import Any

import boto3
import pytest
from moto.ecs.models import Container

from stacks import __main__ as commands
from stacks import run_job as running
from stacks.run_job import JobError, run_job

pytestmark = pytest.mark.usefixtures("aws")

REGION = "us-east-1"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "POLL_SECONDS", 0.001)


@pytest.fixture
def job(aws: None) -> dict[str, Any]:
    """The output of a stack whose job exists."""
    ec2, ecs = boto3.client("ec2", REGION), boto3.client("ecs", REGION)
    ecs.create_cluster(clusterName="web-cluster")
    definition = ecs.register_task_definition(
        family="prod-rotation",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "app", "image": "repository@sha256:0", "memory": 512}],
    )
    boto3.client("logs", REGION).create_log_group(logGroupName="rotation-log")
    return {
        "cluster": "web-cluster",
        "task_definition": definition["taskDefinition"]["taskDefinitionArn"],
        "subnets": [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]],
        "security_group": ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"],
        "assign_public_ip": True,
        "container": "app",
        "command": ["python", "-m", "app", "job", "rotate-key", "--now"],
        "log_group": "rotation-log",
        "log_stream": "rotate-key/app",
    }


def ends_with(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    """Lets the container of the next task end with an exit status."""
    made = Container.__init__

    def container(self: Container, definition: Any) -> None:
        made(self, definition)
        self.exitCode = status
        self.reason = None if status is not None else "CannotPullContainerError"

    monkeypatch.setattr(Container, "__init__", container)


def run(job: dict[str, Any], said: list[str] | None = None) -> int:
    lines: list[str] = [] if said is None else said
    return run_job(boto3.client("ecs", REGION), boto3.client("logs", REGION), job, say=lines.append)


def test_the_job_runs_in_its_network_with_the_command_that_does_not_wait(job: dict[str, Any]) -> None:
    assert run(job) == 0
    ecs = boto3.client("ecs", REGION)
    (arn,) = (
        ecs.list_tasks(cluster="web-cluster", desiredStatus="STOPPED")["taskArns"]
        or ecs.list_tasks(cluster="web-cluster")["taskArns"]
    )
    (task,) = ecs.describe_tasks(cluster="web-cluster", tasks=[arn])["tasks"]
    assert task["taskDefinitionArn"] == job["task_definition"]
    assert task["overrides"]["containerOverrides"] == [{"name": "app", "command": job["command"]}]
    (network,) = task["attachments"]
    assert {"name": "subnetId", "value": job["subnets"][0]} in network["details"]


def test_each_step_is_said_once(job: dict[str, Any]) -> None:
    said: list[str] = []
    run(job, said)
    assert [line.rpartition(": ")[2] for line in said] == sorted(
        {line.rpartition(": ")[2] for line in said}, key=ORDER.index
    )
    assert said[-1].endswith("stopped")


ORDER = ["running", "deactivating", "stopping", "deprovisioning", "stopped"]


def test_a_failed_job_shows_its_last_lines(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, 1)
    logs = boto3.client("logs", REGION)
    say_first: list[str] = []

    def say(line: str) -> None:
        if not say_first:
            stream = f"rotate-key/app/{line.split()[1].rstrip(':')}"
            logs.create_log_stream(logGroupName="rotation-log", logStreamName=stream)
            event: Any = {"timestamp": int(time.time() * 1000), "message": "OpenAI made no new key"}
            logs.put_log_events(logGroupName="rotation-log", logStreamName=stream, logEvents=[event])
        say_first.append(line)

    assert run_job(boto3.client("ecs", REGION), logs, job, say=say) == 1
    assert say_first[-1] == "OpenAI made no new key"


def test_a_container_that_never_ran_is_told_with_the_reason(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, None)
    with pytest.raises(JobError, match="ended before its command did: CannotPullContainerError"):
        run(job)


def test_a_task_that_does_not_end_is_left_running_and_named(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WAIT_SECONDS", 0.002)
    with pytest.raises(JobError, match="it goes on as arn:aws:ecs:"):
        run(job)


class NoCapacity:
    """An ECS that starts nothing."""

    def run_task(self, **_: Any) -> dict[str, Any]:
        return {"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time"}]}


def test_a_task_that_ecs_does_not_start_is_told_with_the_reason(job: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="did not start the task: Capacity is unavailable"):
        run_job(NoCapacity(), None, job, say=print)


@pytest.fixture
def deployed(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The outputs of a deployed stack."""
    outputs: dict[str, Any] = {"rotation": job}
    monkeypatch.setattr(commands, "_ready", lambda _stack: "pulumi")
    monkeypatch.setattr(commands, "_outputs", lambda _pulumi, _stack: outputs)
    return outputs


def test_the_command_rotates_and_says_what_follows(
    deployed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["rotate", "prod"]) == 0
    assert "The key was replaced." in capsys.readouterr().out


def test_the_command_s_status_is_the_job_s(
    deployed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(monkeypatch, 1)
    assert commands.main(["rotate", "prod"]) == 1
    assert "its log is rotation-log" in capsys.readouterr().err


def test_a_stack_without_rotation_is_refused_with_the_setting(
    deployed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del deployed["rotation"]
    assert commands.main(["rotate", "prod"]) == 2
    assert "set prodkit:rotationDays and make up STACK=prod" in capsys.readouterr().err


def test_what_aws_refuses_is_told(deployed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    deployed["rotation"]["cluster"] = "gone"
    assert commands.main(["rotate", "prod"]) == 2
    assert "the rotation was not run to its end" in capsys.readouterr().err
