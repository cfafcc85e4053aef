"""ECS deployments. moto has none; here each change of a service is one, which is over at once when it succeeds.

ListServiceDeployments, DescribeServiceDeployments, DescribeServiceRevisions    one record for each change
DescribeServices (in `ecs.py`)    the deployment in force, and the service's events

A test arms a failure (POST /_emulator/ecs/fail-next-deployment). The next deployment then is in progress for some
seconds, so that whoever asked for it sees the service with the new task definition, and ends as AWS words it: with a
circuit breaker or alarms that roll back, and a deployment before it, the service runs the old task definition again;
else the new one stays primary, FAILED, and no task runs. A failed deployment leaves a stopped task (`ecs_tasks.py`).
"""

import datetime
import secrets

from moto.ecs.models import ecs_backends

from local.aws.call import Call, Record
from local.aws.registry import api
from local.aws.services.ecs_tasks import leave_stopped_task
from local.aws.state import now, table

SERVICE = "ecs"
TASKS_FAILED = "tasks failed to start."
ALARM_DETECTED = "alarm detected."
FAILURES_COUNTED = 3
"""The circuit breaker's smallest threshold."""
FAILS_AFTER = datetime.timedelta(seconds=3)
"""On AWS it takes minutes."""
_BRIEF = (
    "serviceDeploymentArn",
    "serviceArn",
    "clusterArn",
    "createdAt",
    "startedAt",
    "finishedAt",
    "status",
    "statusReason",
)
_REVISION = (
    "serviceArn",
    "clusterArn",
    "taskDefinition",
    "capacityProviderStrategy",
    "launchType",
    "platformVersion",
    "loadBalancers",
    "networkConfiguration",
)


def _armed() -> list[Record]:
    failures: list[Record] = table("*", "*", SERVICE, "armed").setdefault("failures", [])
    return failures


def fail_next(body: Record) -> Record:
    """Arm failures: `reason`, `alarms` that fired, `log` lines of a task, `times` (1), and `service`: its name, or the
    name before the suffix that Pulumi gives it; any service when absent."""
    _armed().extend([body] * int(body.get("times", 1)))
    return {"armed": len(_armed())}


def _due(service: str) -> Record | None:
    for place, failure in enumerate(_armed()):
        if failure.get("service") in (None, service, service.rpartition("-")[0]):
            return _armed().pop(place)
    return None


def deploy(call: Call, service: Record, before: str | None) -> None:
    """Record a deployment of the service as it is now; `before` is the task definition that ran until now."""
    path, number = service["serviceArn"].split(":service/", 1)[-1], len(call.table("deployments")) + 1
    revision = {
        "serviceRevisionArn": call.arn(f"service-revision/{path}/{number:019d}"),
        "createdAt": now(),
        **{name: service[name] for name in _REVISION if service.get(name)},
    }
    settle(call, service["serviceArn"], now())
    failure = _due(service["serviceName"])
    count = service["desiredCount"]
    deployment = {
        "serviceDeploymentArn": call.arn(f"service-deployment/{path}/{number:021d}"),
        "serviceArn": service["serviceArn"],
        "clusterArn": service["clusterArn"],
        "createdAt": now(),
        "startedAt": now(),
        "updatedAt": now(),
        "status": "IN_PROGRESS",
        "targetServiceRevision": {
            "arn": revision["serviceRevisionArn"],
            "requestedTaskCount": count,
            "runningTaskCount": 0 if failure else count,
            "pendingTaskCount": 0,
        },
        "deploymentConfiguration": service["deploymentConfiguration"],
    }
    call.table("revisions")[revision["serviceRevisionArn"]] = revision
    call.table("deployments")[deployment["serviceDeploymentArn"]] = deployment
    outcome = _outcome(call, service)
    outcome["deployment"] = deployment["serviceDeploymentArn"]
    if failure is None:
        deployment.update(status="SUCCESSFUL", finishedAt=now())
        _succeed(service, outcome)
        outcome["revision"] = revision["serviceRevisionArn"]
        return
    outcome.update(id=_new_id(), state="IN_PROGRESS", reason="ECS deployment is in progress.")
    call.table("failing")[service["serviceArn"]] = (service, deployment, failure, before)


def settle(call: Call, service_arn: str, at: datetime.datetime | None = None) -> None:
    """End the service's failing deployment when its time has come; `at` says that it has."""
    if service_arn not in call.table("failing"):
        return
    service, deployment, failure, before = call.table("failing")[service_arn]
    if at is None and now() < deployment["createdAt"] + FAILS_AFTER:
        return
    del call.table("failing")[service_arn]
    outcome = _outcome(call, service)
    deployment["finishedAt"] = now()
    previous = outcome["revision"]
    _fail(call, service, outcome, deployment, failure, before)
    if outcome["state"] == "FAILED":
        outcome["revision"] = deployment["targetServiceRevision"]["arn"]
    elif previous:
        deployment["rollback"]["serviceRevisionArn"] = previous


def settle_all(call: Call) -> None:
    """End every failing deployment whose time has come."""
    for service_arn in list(call.table("failing")):
        settle(call, service_arn)


def _outcome(call: Call, service: Record) -> Record:
    """How the service's latest deployment ended."""
    fresh: Record = {"events": [], "revision": None, "state": "COMPLETED"}
    found: Record = call.table("outcomes").setdefault(service["serviceArn"], fresh)
    return found


def _new_id() -> str:
    return f"ecs-svc/{secrets.randbelow(10**19):019d}"


def _event(service: Record, outcome: Record, text: str) -> None:
    event = {"id": secrets.token_hex(16), "createdAt": now(), "message": f"(service {service['serviceName']}) {text}"}
    outcome["events"].insert(0, event)


def _succeed(service: Record, outcome: Record) -> None:
    identity = _new_id()
    outcome.update(id=identity, state="COMPLETED", reason=f"ECS deployment {identity} completed.")
    _event(service, outcome, f"(deployment {identity}) deployment completed.")
    _event(service, outcome, "has reached a steady state.")


def _fail(
    call: Call, service: Record, outcome: Record, deployment: Record, failure: Record, before: str | None
) -> None:
    identity, alarms = outcome["id"], failure.get("alarms", [])
    reason = failure.get("reason") or (ALARM_DETECTED if alarms else TASKS_FAILED)
    watcher = "ECS deployment" if alarms else "ECS deployment circuit breaker"
    told = f"{watcher}: {reason}"
    _event(service, outcome, f"(deployment {identity}) deployment failed: {reason}")
    leave_stopped_task(call, service, reason, failure.get("log", []))
    configuration = service["deploymentConfiguration"]
    guard = configuration.get("alarms" if alarms else "deploymentCircuitBreaker", {})
    if alarms:
        deployment["alarms"] = {"status": "TRIGGERED", "alarmNames": alarms, "triggeredAlarmNames": alarms}
    else:
        counts = {"failureCount": FAILURES_COUNTED, "threshold": FAILURES_COUNTED}
        deployment["deploymentCircuitBreaker"] = {"status": "TRIGGERED", **counts}
    deployment["statusReason"] = told
    if not (guard.get("enable") and guard.get("rollback") and before):
        deployment["status"] = "STOPPED"
        outcome.update(id=identity, state="FAILED", reason=told)
        return
    restored = _new_id()
    deployment["status"] = "ROLLBACK_SUCCESSFUL"
    deployment["rollback"] = {"reason": told, "startedAt": now()}
    outcome.update(id=restored, state="COMPLETED", reason=f"{watcher}: rolling back to deploymentId {restored}.")
    _event(service, outcome, f"rolling back to deployment {restored}.")
    _event(service, outcome, f"(deployment {restored}) deployment completed.")
    _event(service, outcome, "has reached a steady state.")
    _restore(call, service, before)


def _restore(call: Call, service: Record, before: str) -> None:
    backend = ecs_backends[call.account][call.region]
    kept, _ = backend.describe_services(service["clusterArn"].rsplit("/", 1)[-1], [service["serviceName"]])
    kept[0].task_definition = service["taskDefinition"] = before


def served_deployments(call: Call, service: Record, only_deployment: Record) -> None:
    """Lay the latest outcome over moto's only deployment, which knows neither an end nor the service's settings."""
    outcome = call.table("outcomes").get(service["serviceArn"])
    if outcome is None:
        return
    running = service["desiredCount"] if outcome["state"] == "COMPLETED" else 0
    others = service["desiredCount"] if outcome["state"] == "IN_PROGRESS" and outcome["revision"] else 0
    service.update(runningCount=running + others, events=outcome["events"])
    service["currentServiceDeployment"] = outcome.get("deployment", "")
    for deployment in service.get("deployments", [])[:1]:
        deployment.update(
            id=outcome["id"],
            desiredCount=service["desiredCount"],
            runningCount=running,
            pendingCount=0,
            failedTasks=FAILURES_COUNTED if outcome["state"] == "FAILED" else 0,
            rolloutState=outcome["state"],
            rolloutStateReason=outcome["reason"],
            taskDefinition=service["taskDefinition"],
            **only_deployment,
        )
        if service.get("capacityProviderStrategy"):
            deployment.pop("launchType", None)
            deployment["capacityProviderStrategy"] = service["capacityProviderStrategy"]


@api(SERVICE, "ListServiceDeployments")
def list_deployments(call: Call) -> Record:
    """ListServiceDeployments, newest first."""
    settle_all(call)
    name, cluster = (call.get(one, "default").rsplit("/", 1)[-1] for one in ("service", "cluster"))
    found = [
        {
            **{key: one[key] for key in _BRIEF if key in one},
            "targetServiceRevisionArn": one["targetServiceRevision"]["arn"],
        }
        for one in reversed(call.table("deployments").values())
        if one["serviceArn"].endswith(f"/{name}")
        and one["clusterArn"].endswith(f"/{cluster}")
        and one["status"] in (call.get("status") or [one["status"]])
    ]
    return {"serviceDeployments": found}


def _by_arn(call: Call, name: str, arns: list[str]) -> tuple[list[Record], list[Record]]:
    kept = call.table(name)
    missing = [{"arn": arn, "reason": "MISSING"} for arn in arns if arn not in kept]
    return [kept[arn] for arn in arns if arn in kept], missing


@api(SERVICE, "DescribeServiceDeployments")
def describe_deployments(call: Call) -> Record:
    """DescribeServiceDeployments."""
    settle_all(call)
    found, failures = _by_arn(call, "deployments", call["serviceDeploymentArns"])
    return {"serviceDeployments": found, "failures": failures}


@api(SERVICE, "DescribeServiceRevisions")
def describe_revisions(call: Call) -> Record:
    """DescribeServiceRevisions."""
    found, failures = _by_arn(call, "revisions", call["serviceRevisionArns"])
    return {"serviceRevisions": found, "failures": failures}
