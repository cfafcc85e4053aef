"""Reads out of a recording how the stack runs."""

import json
from typing import Any

from local.twin import Balancing, HealthCheck, Task, Twin
from preflight.record import Recording, Resource
from preflight.wire import plain

TASK_DEFINITION = "aws:ecs/taskDefinition:TaskDefinition"
SERVICE = "aws:ecs/service:Service"
LOAD_BALANCER = "aws:lb/loadBalancer:LoadBalancer"
TARGET_GROUP = "aws:lb/targetGroup:TargetGroup"


def read(recording: Recording) -> Twin:
    """The twin of a recorded stack: the one service behind a target group is web, the other one the worker.

    Raises LookupError when the stack has another shape.
    """
    definitions = {resource.outputs["arn"]: resource for resource in recording.of_type(TASK_DEFINITION)}
    tasks: dict[bool, Task] = {}
    for service in recording.of_type(SERVICE):
        task = _recorded_task(definitions[_value(service, "taskDefinition")], bool(_value(service, "loadBalancers")))
        if task.behind_balancer in tasks:
            raise LookupError(
                f"{service.name}: a second service {'' if task.behind_balancer else 'not '}behind the balancer"
            )
        tasks[task.behind_balancer] = task
    if len(tasks) != 2:
        raise LookupError(
            f"expected a web service behind a balancer and a worker, found {[task.name for task in tasks.values()]}"
        )
    return Twin(tasks[True], tasks[False], _balancing(recording))


def _value(resource: Resource, name: str, default: Any = None) -> Any:
    value = plain(resource.inputs.get(name))
    return default if value is None else value


def _recorded_task(definition: Resource, behind_balancer: bool) -> Task:
    containers = json.loads(_value(definition, "containerDefinitions"))
    (container,) = [one for one in containers if one.get("essential", True)]
    if container.get("secrets"):
        raise LookupError(
            f"{definition.name}: secrets of a task definition are not played locally; read them at run time"
        )
    return Task(
        family=_value(definition, "family"),
        behind_balancer=behind_balancer,
        command=tuple(container["command"]),
        environment={one["name"]: one["value"] for one in container.get("environment", ())},
        port=int(container["portMappings"][0]["containerPort"]),
        cpu_units=int(_value(definition, "cpu")),
        memory_mib=int(_value(definition, "memory")),
        stop_timeout_seconds=int(container.get("stopTimeout", 30)),  # ECS's default
    )


def _target_group(recording: Recording) -> Resource:
    """The target group that the web service names; the other one of a canary or linear rollout is made the same."""
    targets = [target for service in recording.of_type(SERVICE) for target in _value(service, "loadBalancers", ())]
    named = {target["targetGroupArn"] for target in targets}
    groups = [group for group in recording.of_type(TARGET_GROUP) if group.outputs["arn"] in named]
    if len(groups) != 1:
        raise LookupError(f"expected one target group with tasks, found {[group.name for group in groups]}")
    return groups[0]


def _balancing(recording: Recording) -> Balancing:
    balancer, group = recording.one(LOAD_BALANCER), _target_group(recording)
    check = _value(group, "healthCheck", {})
    return Balancing(  # the defaults are AWS's
        algorithm=_value(group, "loadBalancingAlgorithmType", "round_robin"),
        idle_timeout_seconds=float(_value(balancer, "idleTimeout", 60)),
        client_keep_alive_seconds=float(_value(balancer, "clientKeepAlive", 3600)),
        deregistration_delay_seconds=float(_value(group, "deregistrationDelay", 300)),
        health_check=HealthCheck(
            path=check.get("path", "/"),
            interval_seconds=float(check.get("interval", 30)),
            timeout_seconds=float(check.get("timeout", 5)),
            healthy_threshold=int(check.get("healthyThreshold", 5)),
            unhealthy_threshold=int(check.get("unhealthyThreshold", 2)),
            matcher=check.get("matcher", "200"),
        ),
    )
