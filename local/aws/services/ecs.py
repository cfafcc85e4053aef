"""ECS services. moto stores half of a service.

CreateService, UpdateService, DescribeServices, DeleteService
        every member that was sent is answered as sent, with AWS's defaults for the rest: circuit breaker, alarms,
        capacity provider strategy, grace period, managed tags, execute-command, zone rebalancing (aws_ecs_service
        drifts on each of these under stock moto). A deployment that succeeds is over at once, so that waiting for a
        steady state returns; how it ended is told in `ecs_deployments.py`.
"""

import copy

from moto.ecs.models import ecs_backends

from local.aws.call import Call, Record
from local.aws.registry import api
from local.aws.services.ecs_deployments import deploy, served_deployments, settle, settle_all
from local.aws.state import now

SERVICE = "ecs"
REQUEST_ONLY = frozenset(
    {
        "cluster",
        "serviceName",
        "service",
        "forceNewDeployment",
        "clientToken",
        "tags",
        "role",
        "taskDefinition",
        "desiredCount",
        "launchType",
    }
)
"""What moto keeps, or what is no part of a service."""
DEPLOYMENT_ONLY = ("serviceConnectConfiguration", "volumeConfigurations", "vpcLatticeConfigurations")
MOTO_KNOWS = frozenset({"cluster", "service", "desiredCount", "taskDefinition"})
DEPLOYS = frozenset(
    {
        "taskDefinition",
        "forceNewDeployment",
        "networkConfiguration",
        "loadBalancers",
        "platformVersion",
        "capacityProviderStrategy",
        "enableExecuteCommand",
    }
)
"""A change of these replaces tasks; a change of the count, or of how deployments go, does not."""


def _sent(call: Call) -> Record:
    sent = {name: value for name, value in call.params.items() if value is not None and name not in REQUEST_ONLY}
    return copy.deepcopy(sent)


def _defaults(sent: Record) -> Record:
    configuration = {
        "maximumPercent": 200,
        "minimumHealthyPercent": 100,
        "strategy": "ROLLING",
        "bakeTimeInMinutes": 0,
        **sent.get("deploymentConfiguration", {}),
    }
    configuration.setdefault("deploymentCircuitBreaker", {"enable": False, "rollback": False})
    return {
        "availabilityZoneRebalancing": "DISABLED",
        "enableECSManagedTags": False,
        "enableExecuteCommand": False,
        "placementConstraints": [],
        "placementStrategy": [],
        "propagateTags": "NONE",
        "schedulingStrategy": "REPLICA",
        **sent,
        "deploymentConfiguration": configuration,
    }


def _runs_on_fargate(service: Record) -> bool:
    providers = [one["capacityProvider"] for one in service.get("capacityProviderStrategy", ())]
    return service.get("launchType") == "FARGATE" or any(one.startswith("FARGATE") for one in providers)


def _served(call: Call, service: Record) -> Record:
    """moto's service with what was sent laid over it, and its deployments as they ended."""
    kept = dict(call.table("services").get(service["serviceArn"], {}))
    only_deployment = {name: kept.pop(name) for name in DEPLOYMENT_ONLY if name in kept}
    service.update(_defaults(kept))
    if kept.get("capacityProviderStrategy"):
        service.pop("launchType", None)
    if _runs_on_fargate(service):
        service["platformVersion"] = service.get("platformVersion") or "LATEST"
        service["platformFamily"] = "Linux"
    service.update(runningCount=service.get("desiredCount", 0), pendingCount=0)
    served_deployments(call, service, only_deployment)
    return service


@api(SERVICE, "CreateService")
def create_service(call: Call) -> Record:
    """CreateService."""
    answer = call.moto()
    service = answer["service"]
    call.table("services")[service["serviceArn"]] = _sent(call)
    deploy(call, _served(call, service), before=None)
    return {"service": _served(call, service)}


@api(SERVICE, "UpdateService")
def update_service(call: Call) -> Record:
    """UpdateService."""
    backend = ecs_backends[call.account][call.region]
    found, _ = backend.describe_services(call.get("cluster", "default"), [call["service"]])
    if found:
        settle(call, found[0].arn, now())
    before = found[0].task_definition if found else None
    changes: Record = {name: None for name in call.params if name not in MOTO_KNOWS}
    if call.get("taskDefinition"):  # moto keeps the name that was sent
        changes["taskDefinition"] = backend.describe_task_definition(call["taskDefinition"]).arn
    service = call.moto(**changes)["service"]
    kept = call.table("services").setdefault(service["serviceArn"], {})
    sent = _sent(call)
    if "deploymentConfiguration" in sent:
        sent["deploymentConfiguration"] = {**kept.get("deploymentConfiguration", {}), **sent["deploymentConfiguration"]}
    changed = call.get("forceNewDeployment") or service["taskDefinition"] != before
    changed = changed or any(kept.get(name) != sent[name] for name in DEPLOYS & sent.keys())
    kept.update(sent)
    if changed:
        deploy(call, _served(call, service), before=before)
    return {"service": _served(call, service)}


@api(SERVICE, "DescribeServices")
def describe_services(call: Call) -> Record:
    """DescribeServices."""
    settle_all(call)
    answer = call.moto()
    answer["services"] = [_served(call, one) for one in answer.get("services", [])]
    return answer


@api(SERVICE, "DeleteService")
def delete_service(call: Call) -> Record:
    """DeleteService."""
    answer = call.moto()
    call.table("services").pop(answer["service"]["serviceArn"], None)
    call.table("outcomes").pop(answer["service"]["serviceArn"], None)
    call.table("failing").pop(answer["service"]["serviceArn"], None)
    return answer
