"""Rollout: waits until ECS has deployed a task definition, and fails with the reason when ECS put the old one back.

A service that was rolled back is steady, so whoever waits for that alone calls a failed deployment a success. This one
asks ECS which deployment is the newest, what it was to bring and how it ended. It asks again at every `up` and preview,
so that it goes on failing for as long as the service is not what the program says.
"""

import time
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

from dynamic._deployment import Look, ServiceGoneError, State, Verdict, judge, look
from dynamic._evidence import evidence, redacted

POLL_SECONDS = 5
# Right after an update ECS may still describe the deployment before: an end counts when two looks in a row agree, and
# the absence of a deployment when half a minute of looks does.
LOOKS = {State.DONE: 2, State.FAILED: 2, State.ELSEWHERE: 6}
QUIET_SECONDS = 60


class RolloutArgs(TypedDict):
    """What a Rollout is made from."""

    cluster: pulumi.Input[str]
    """Name of the service's ECS cluster."""
    service: pulumi.Input[str]
    """Name of the service, once it was created or updated."""
    task_definition_arn: pulumi.Input[str]
    """The task definition that the service is to run."""
    log_group: pulumi.Input[str]
    """Where its tasks log; the last lines of a failed one are shown."""
    log_prefix: pulumi.Input[str]
    """What the names of their log streams begin with, before the task's id, such as `web/app`."""
    timeout_seconds: pulumi.Input[int]
    """Seconds after which a deployment has failed."""
    region: pulumi.Input[str]
    """AWS region of the service."""
    poll_seconds: NotRequired[pulumi.Input[float]]
    """Seconds between two looks at a running deployment; default 5."""


class RolloutError(Exception):
    """The service does not run what it should; the text says why, with what ECS and the tasks said."""


def wait_for_rollout(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs for these inputs, once the service runs the task definition.

    Raises:
        RolloutError: when the deployment failed, is not to be found, or takes longer than it may.
    """
    import boto3  # the provider runs in a process of its own; the program that only registers needs no client

    session = boto3.session.Session(region_name=str(inputs["region"]))
    ecs = session.client("ecs")
    wanted, poll = str(inputs["task_definition_arn"]), float(inputs.get("poll_seconds") or POLL_SECONDS)
    started, shown, agreeing, before = time.monotonic(), _Shown(str(inputs["service"])), 0, State.UNDER_WAY
    while True:
        seen = _look(ecs, inputs)
        verdict = judge(seen, wanted)
        agreeing = agreeing + 1 if verdict.state is before else 1
        before, waited = verdict.state, time.monotonic() - started
        shown.line(verdict.text, waited)
        if agreeing >= LOOKS.get(verdict.state, agreeing + 1):
            if verdict.state is State.DONE:
                return {**inputs, "deployment": verdict.deployment}
            raise RolloutError(failure(session, inputs, seen, verdict))
        if waited > float(inputs["timeout_seconds"]):
            late = Verdict(State.FAILED, f"did not end within {waited:.0f} s", verdict.text, verdict.deployment)
            raise RolloutError(failure(session, inputs, seen, late))
        time.sleep(poll)


def _look(ecs: Any, inputs: Mapping[str, Any]) -> Look:
    try:
        return look(ecs, str(inputs["cluster"]), str(inputs["service"]))
    except ServiceGoneError as gone:
        raise RolloutError(f"{gone}; run: pulumi up --refresh") from None


def failure(session: Any, inputs: Mapping[str, Any], seen: Look, verdict: Verdict) -> str:
    """What went wrong, what ECS and the tasks said about it, and what to do."""
    service, wanted = str(inputs["service"]), str(inputs["task_definition_arn"])
    runs = _short(str(seen.service["taskDefinition"]))
    now = f"; the service runs {runs}" if runs != _short(wanted) else ""
    lines = [f"{service}: the deployment of {_short(wanted)} {verdict.text}{now}"]
    lines.append(f"reason: {redacted(verdict.reason) or 'ECS gave none'}")
    group, prefix = str(inputs["log_group"]), str(inputs["log_prefix"])
    lines += evidence(session, seen.service, str(inputs["cluster"]), wanted, group, prefix)
    if verdict.state is State.FAILED and seen.newest and seen.newest["status"] in ("PENDING", "IN_PROGRESS"):
        stop = "aws ecs stop-service-deployment --stop-type ROLLBACK --service-deployment-arn"
        lines.append(f"it goes on; end it: {stop} {verdict.deployment}")
    lines.append("mend the cause and deploy again; the same version is tried once more by: pulumi up --refresh")
    return "\n  ".join(lines)


def _short(arn: str) -> str:
    """`family:revision` of a task definition's ARN."""
    return arn.rpartition("/")[2]


class _Shown:
    """Progress lines: each new thing once, and a sign of life when nothing is new. The engine shows what is printed."""

    def __init__(self, service: str) -> None:
        self._service, self._last, self._at = service, "", 0.0

    def line(self, text: str, seconds: float) -> None:
        if text != self._last or seconds - self._at >= QUIET_SECONDS:
            print(f"{self._service}: {text} ({seconds:.0f} s)", flush=True)
            self._last, self._at = text, seconds


class _Provider(ResourceProvider):
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(id_=f"{props['cluster']}/{props['service']}", outs=wait_for_rollout(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        watched = RolloutArgs.__annotations__.keys() - {"poll_seconds"}
        changed = any(_olds.get(key) != _news.get(key) for key in watched)
        return DiffResult(changes=changed or not _runs(_news))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(outs=wait_for_rollout(_news))


def _runs(inputs: Mapping[str, Any]) -> bool:
    """Whether the service runs the task definition now, whatever was found when it was deployed."""
    import boto3

    ecs = boto3.session.Session(region_name=str(inputs["region"])).client("ecs")
    try:
        return judge(_look(ecs, inputs), str(inputs["task_definition_arn"])).state is State.DONE
    except RolloutError:
        return False


class Rollout(Resource):
    """The outcome of a service's deployment: an `up` succeeds when the service runs this task definition.

    What fails is not stored, so the next `up` looks again. Deleting it deletes nothing.
    """

    deployment: pulumi.Output[str]
    """ARN of the deployment that brought the task definition, or its id where ECS lists no deployments."""

    def __init__(self, name: str, args: RolloutArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(_Provider(), name, {**args, "deployment": None}, opts)
