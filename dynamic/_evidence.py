"""What is known about a failed deployment, in a few lines without keys: events, stopped tasks, last log lines."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

EVENTS = 5
TASKS = 3
LOG_LINES = 20
LINE_CHARACTERS = 300

# OpenAI's keys, this project's own, whatever was sent as a credential, and AWS access keys.
_KEYS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}|\bprodkit_[0-9a-f]{12}_[A-Za-z0-9_-]+|(?i:\bbearer\s+)\S+|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
)


def redacted(text: str) -> str:
    """The text with every key replaced, and cut to one line's length."""
    clean = _KEYS.sub("[redacted]", " ".join(text.split()))
    return clean if len(clean) <= LINE_CHARACTERS else clean[: LINE_CHARACTERS - 1] + "…"


def evidence(
    session: Any, service: Mapping[str, Any], cluster: str, task_definition: str, log_group: str, log_prefix: str
) -> Iterator[str]:
    """Lines to print below a failure; what cannot be read is said, because the failure itself matters more.

    Args:
        session: a boto3 session of the service's region.
        service: the service as DescribeServices answered.
        cluster: name of its cluster.
        task_definition: ARN of the definition that failed.
        log_group: where its tasks log.
        log_prefix: what the names of their streams begin with; the task's id follows.
    """
    events = [redacted(event["message"]) for event in service.get("events", [])[:EVENTS]]
    if events:
        yield "latest events of the service:"
        yield from (f"  {event}" for event in events)
    try:
        tasks = _tasks(session.client("ecs"), service["serviceName"], cluster, task_definition)
    except ClientError as error:
        yield f"its tasks cannot be read: {redacted(str(error))}"
        return
    if tasks:
        yield "tasks:"
        yield from (f"  {redacted(_end(task))}" for task in tasks)
        yield from _log(session.client("logs"), log_group, log_prefix, _id(tasks[0]))
    else:
        yield f"none of its tasks is left to ask; look into log group {log_group}"


def _tasks(ecs: Any, service: str, cluster: str, task_definition: str) -> list[Mapping[str, Any]]:
    """The latest tasks of the definition, those that stopped first; ECS forgets them after about an hour."""
    found: list[Mapping[str, Any]] = []
    for status in ("STOPPED", "RUNNING"):
        arns = ecs.list_tasks(cluster=cluster, serviceName=service, desiredStatus=status).get("taskArns", [])
        if arns:
            tasks = ecs.describe_tasks(cluster=cluster, tasks=arns[:100])["tasks"]
            ours = [task for task in tasks if task["taskDefinitionArn"] == task_definition]
            when = "stoppedAt" if status == "STOPPED" else "createdAt"
            found += sorted(ours, key=lambda task: str(task.get(when, "")), reverse=True)
    return found[:TASKS]


def _id(task: Mapping[str, Any]) -> str:
    return str(task["taskArn"]).rpartition("/")[2]


def _end(task: Mapping[str, Any]) -> str:
    """How a task ended, by its own word and its containers'."""
    said = [f"{_id(task)} {str(task.get('lastStatus', '')).lower()}"]
    if task.get("stoppedReason"):
        said.append(str(task["stoppedReason"]))
    for container in task.get("containers", []):
        if "exitCode" in container:
            said.append(f"container {container['name']} ended with {container['exitCode']}")
        if container.get("reason"):
            said.append(str(container["reason"]))
    return "; ".join(said)


def _log(logs: Any, group: str, prefix: str, task: str) -> Iterator[str]:
    stream = f"{prefix}/{task}"
    try:
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=LOG_LINES, startFromHead=False)
    except ClientError as error:
        yield f"log {group} {stream} cannot be read: {redacted(str(error))}"
        return
    lines = [redacted(event["message"]) for event in events["events"][-LOG_LINES:]]
    yield f"last lines of log {group} {stream}:" if lines else f"log {group} {stream} is empty"
    yield from (f"  {line}" for line in lines)
