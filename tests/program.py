"""The program of every stack as the recorder saw it, and where things are in it."""

import json
from functools import cache
from typing import Any

from preflight.project import Project
from preflight.record import Recording, record
from tests.known import known

STACKS = Project.load().stack_names()
TASK_DEFINITION = "aws:ecs/taskDefinition:TaskDefinition"
TARGETS = "aws:lb/targetGroup:TargetGroup"
DYNAMIC = "pulumi-python:dynamic:Resource"
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
    "topic": "Topic",
    "web": "ContainerService",
    "worker": "ContainerService",
}


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
