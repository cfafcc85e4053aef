"""The stopped task that a failed deployment leaves behind, and what it wrote last. Nothing else runs here.

ListTasks, DescribeTasks    moto's tasks, and those that stopped
"""

import secrets

from moto.ecs.models import ecs_backends
from moto.logs.models import logs_backends

from local.aws.call import Call, Record
from local.aws.registry import api
from local.aws.state import now

SERVICE = "ecs"


def leave_stopped_task(call: Call, service: Record, reason: str, log: list[str]) -> None:
    """Keep a task of the service's task definition that ended with status 1, and its last lines in its log group."""
    identity = secrets.token_hex(16)
    cluster = service["clusterArn"].rsplit("/", 1)[-1]
    definition = ecs_backends[call.account][call.region].describe_task_definition(service["taskDefinition"])
    container = definition.container_definitions[0]
    arn = call.arn(f"task/{cluster}/{identity}")
    call.table("stopped tasks")[arn] = {
        "taskArn": arn,
        "clusterArn": service["clusterArn"],
        "taskDefinitionArn": service["taskDefinition"],
        "group": f"service:{service['serviceName']}",
        "lastStatus": "STOPPED",
        "desiredStatus": "STOPPED",
        "stopCode": "EssentialContainerExited",
        "stoppedReason": "Essential container in task exited",
        "stoppedAt": now(),
        "containers": [{"name": container["name"], "lastStatus": "STOPPED", "exitCode": 1, "reason": reason}],
    }
    options = container.get("logConfiguration", {}).get("options", {})
    if log and {"awslogs-group", "awslogs-stream-prefix"} <= options.keys():
        stream = f"{options['awslogs-stream-prefix']}/{container['name']}/{identity}"
        backend, group = logs_backends[call.account][call.region], options["awslogs-group"]
        at = int(now().timestamp() * 1000)
        backend.create_log_stream(group, stream)
        backend.put_log_events(group, stream, [{"timestamp": at, "message": line} for line in log])


def _is_asked_for(call: Call, task: Record) -> bool:
    name = call.get("serviceName")
    cluster = call.get("cluster", "default").rsplit("/", 1)[-1]
    return (
        call.get("desiredStatus") == "STOPPED"
        and task["clusterArn"].endswith(f"/{cluster}")
        and (name is None or task["group"] == f"service:{name.rsplit('/', 1)[-1]}")
    )


@api(SERVICE, "ListTasks")
def list_tasks(call: Call) -> Record:
    """ListTasks, those that stopped last first."""
    stopped = [arn for arn, task in call.table("stopped tasks").items() if _is_asked_for(call, task)]
    answer = call.moto()
    answer["taskArns"] = [*reversed(stopped), *answer.get("taskArns", [])]
    return answer


@api(SERVICE, "DescribeTasks")
def describe_tasks(call: Call) -> Record:
    """DescribeTasks, by id or ARN."""
    kept = {arn.rsplit("/", 1)[-1]: task for arn, task in call.table("stopped tasks").items()}
    asked = {name: name.rsplit("/", 1)[-1] for name in call["tasks"]}
    others = [name for name, identity in asked.items() if identity not in kept]
    answer = call.moto(tasks=others) if others else {"tasks": [], "failures": []}
    answer["tasks"] = [kept[identity] for identity in asked.values() if identity in kept] + answer.get("tasks", [])
    return answer
