"""Starts a job of a stack now, instead of when its schedule does, and waits for its end."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

POLL_SECONDS: Final = 3.0
WAIT_SECONDS: Final = 900.0
_LINES_SHOWN: Final = 20


class JobError(Exception):
    """The job did not start, or did not end in time; the text says why."""


def run_job(
    ecs: Any,
    logs: Any,
    job: Mapping[str, Any],
    *,
    say: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Runs a task as the output `job` describes it, saying how far it is; the container's exit status.

    Args:
        ecs: client of ECS.
        logs: client of CloudWatch Logs, where the job's last lines are read.
        job: `cluster`, `task_definition`, `subnets`, `security_group`, `assign_public_ip`; `container` and the
            `command` it runs; `log_group`, and `log_stream` without the task's id.

    Raises JobError, and what AWS refuses.
    """
    started = ecs.run_task(
        cluster=job["cluster"],
        taskDefinition=job["task_definition"],
        launchType="FARGATE",
        count=1,
        enableECSManagedTags=True,
        propagateTags="TASK_DEFINITION",
        startedBy="by hand",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": list(job["subnets"]),
                "securityGroups": [job["security_group"]],
                "assignPublicIp": "ENABLED" if job["assign_public_ip"] else "DISABLED",
            }
        },
        overrides={"containerOverrides": [{"name": job["container"], "command": list(job["command"])}]},
    )
    if not started["tasks"]:
        reasons = ", ".join(str(failure.get("reason")) for failure in started["failures"])
        raise JobError(f"ECS did not start the task: {reasons or 'it gave no reason'}")
    arn = started["tasks"][0]["taskArn"]
    task = _ended(ecs, job["cluster"], arn, say, sleep)
    (container,) = [one for one in task["containers"] if one["name"] == job["container"]]
    status = container.get("exitCode")
    if status != 0:
        for line in _last_lines(logs, job, arn):
            say(line)
    if status is None:
        reason = container.get("reason") or task.get("stoppedReason")
        raise JobError(f"the task ended before its command did: {reason or 'ECS gave no reason'}")
    return int(status)


def _ended(
    ecs: Any, cluster: str, arn: str, say: Callable[[str], object], sleep: Callable[[float], object]
) -> dict[str, Any]:
    """The task once it has stopped; each new status is said."""
    last = ""
    for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
        found = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
        # A task that was just started may not be found for a moment.
        task: dict[str, Any] = found[0] if found else {"lastStatus": "PENDING"}
        if task["lastStatus"] != last:
            last = task["lastStatus"]
            say(f"task {arn.rpartition('/')[2]}: {last.lower()}")
        if last == "STOPPED":
            return task
        sleep(POLL_SECONDS)
    raise JobError(f"the task has not ended after {WAIT_SECONDS:g} s; it goes on as {arn}")


def _last_lines(logs: Any, job: Mapping[str, Any], arn: str) -> list[str]:
    """What the job wrote last; nothing when its container never ran."""
    group, stream = job["log_group"], f"{job['log_stream']}/{arn.rpartition('/')[2]}"
    try:
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=_LINES_SHOWN)["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [str(event["message"]) for event in events]
