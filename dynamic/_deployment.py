"""What ECS says about a service's newest deployment, and what that means for one task definition."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from botocore.exceptions import ClientError

# Who deploys may lack the right to list deployments, and an endpoint the operation: the service itself still tells.
_NO_LIST = frozenset({"AccessDeniedException", "InvalidAction", "UnknownOperationException"})
_UNDER_WAY = frozenset({"PENDING", "IN_PROGRESS"})
_BACKWARDS = {
    "ROLLBACK_REQUESTED": "is being rolled back",
    "ROLLBACK_IN_PROGRESS": "is being rolled back",
    "ROLLBACK_SUCCESSFUL": "was rolled back",
    "ROLLBACK_FAILED": "failed, and rolling it back failed too",
    "STOP_REQUESTED": "is being stopped",
    "STOPPED": "was stopped",
}


class State(Enum):
    """Where a deployment stands."""

    DONE = "done"
    UNDER_WAY = "under way"
    FAILED = "failed"
    ELSEWHERE = "elsewhere"
    """The service is not deploying this task definition, and does not run it."""


@dataclass(frozen=True)
class Verdict:
    """Where the deployment of one task definition stands, in words too; `reason` is ECS's own, often empty."""

    state: State
    text: str
    reason: str = ""
    deployment: str = ""


@dataclass(frozen=True)
class Look:
    """One look at a service: ECS's answers, as they came. `newest` and `target` are None where ECS lists none."""

    service: Mapping[str, Any]
    newest: Mapping[str, Any] | None
    target: str | None
    """Task definition that the newest deployment is to bring."""


class ServiceGoneError(Exception):
    """There is no such service."""


def look(ecs: Any, cluster: str, service: str) -> Look:
    """The service as it is now.

    Raises:
        ServiceGoneError: when it does not exist or is being deleted.
        botocore.exceptions.ClientError: when ECS refuses to say.
    """
    found = ecs.describe_services(cluster=cluster, services=[service]).get("services", [])
    if not found or found[0].get("status") != "ACTIVE":
        raise ServiceGoneError(f"cluster {cluster} has no active service {service}")
    try:
        return Look(found[0], *_newest(ecs, cluster, service))
    except ClientError as error:
        if error.response["Error"]["Code"] in _NO_LIST:
            return Look(found[0], None, None)
        raise


def _newest(ecs: Any, cluster: str, service: str) -> tuple[Mapping[str, Any] | None, str | None]:
    """The newest deployment and its task definition; ECS forgets deployments after 90 days."""
    listed = ecs.list_service_deployments(cluster=cluster, service=service).get("serviceDeployments", [])
    if not listed:
        return None, None
    arn = max(listed, key=lambda one: one["createdAt"])["serviceDeploymentArn"]
    found = ecs.describe_service_deployments(serviceDeploymentArns=[arn]).get("serviceDeployments", [])
    if not found:
        return None, None
    target = found[0]["targetServiceRevision"]["arn"]
    revisions = ecs.describe_service_revisions(serviceRevisionArns=[target]).get("serviceRevisions", [])
    return found[0], str(revisions[0]["taskDefinition"]) if revisions else None


def judge(seen: Look, wanted: str) -> Verdict:
    """Where the deployment of task definition `wanted` (an ARN) stands."""
    if seen.newest is None or seen.target is None:
        return _by_service(seen, wanted)
    status, arn = str(seen.newest["status"]), str(seen.newest["serviceDeploymentArn"])
    if seen.target != wanted:
        return _elsewhere(seen, wanted)
    if status in _UNDER_WAY:
        return Verdict(State.UNDER_WAY, _progress(seen, wanted), deployment=arn)
    if status in _BACKWARDS:
        return Verdict(State.FAILED, _BACKWARDS[status], _reason(seen.newest), arn)
    if seen.service["taskDefinition"] != wanted:
        return _elsewhere(seen, wanted)
    return Verdict(State.DONE, "completed", deployment=arn)


def _by_service(seen: Look, wanted: str) -> Verdict:
    """The verdict from the service's own list of deployments, which has no history."""
    ours = _ours(seen, wanted)
    if not ours:
        return _elsewhere(seen, wanted)
    reason, identity = str(ours.get("rolloutStateReason", "")), str(ours.get("id", ""))
    if ours.get("status") != "PRIMARY" or ours.get("rolloutState") == "FAILED":
        return Verdict(State.FAILED, "failed", reason, identity)
    if ours.get("rolloutState") == "COMPLETED":
        return Verdict(State.DONE, "completed", deployment=identity)
    return Verdict(State.UNDER_WAY, _progress(seen, wanted), deployment=identity)


def _elsewhere(seen: Look, wanted: str) -> Verdict:
    reason = str(_ours(seen, wanted).get("rolloutStateReason", ""))
    return Verdict(State.ELSEWHERE, "is not what the service deploys or runs", reason)


def _ours(seen: Look, wanted: str) -> Mapping[str, Any]:
    """The service's own record of the deployment, empty when it has none."""
    deployments: list[Mapping[str, Any]] = seen.service.get("deployments", [])
    return next((one for one in deployments if one.get("taskDefinition") == wanted), {})


def _progress(seen: Look, wanted: str) -> str:
    ours, newest = _ours(seen, wanted), seen.newest or {}
    target = newest.get("targetServiceRevision", {})
    running = ours.get("runningCount", target.get("runningTaskCount", 0))
    asked = ours.get("desiredCount", target.get("requestedTaskCount", 0))
    parts = [f"{running} of {asked} new tasks run"]
    if ours.get("failedTasks"):
        parts.append(f"{ours['failedTasks']} failed")
    weight = target.get("requestedProductionTrafficWeight")
    if weight is not None:
        parts.append(f"{weight:g} % of requests")
    if newest.get("lifecycleStage"):
        parts.append(str(newest["lifecycleStage"]).lower().replace("_", " "))
    return ", ".join(parts)


def _reason(deployment: Mapping[str, Any]) -> str:
    """Everything a service deployment says about why it went back, without repetition."""
    alarms = deployment.get("alarms", {}).get("triggeredAlarmNames", [])
    said = [
        deployment.get("statusReason", ""),
        deployment.get("rollback", {}).get("reason", ""),
        f"alarms that fired: {', '.join(alarms)}" if alarms else "",
    ]
    return "; ".join(dict.fromkeys(part for part in said if part))
