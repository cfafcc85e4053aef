"""The container definition of a task, as data."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

CONTAINER_NAME = "app"
# Made by the image's Dockerfile; numeric, because Security Hub's ECS.20 and Kubernetes cannot judge a name.
USER = "10001:10001"
# The root file system is read-only; this is the only place that a task may write.
TMP_VOLUME = "tmp"
TMP_PATH = "/tmp"  # noqa: S108 a path inside of the container, on a volume of its own
# A stream is two sockets. Stated because Fargate's default has changed before (a soft limit of 1,024, later 65,535).
OPEN_FILES = 65_536

HEALTH_COMMAND = ("CMD", "python", "-m", "app", "health")
HEALTH_INTERVAL_SECONDS = 30
HEALTH_TIMEOUT_SECONDS = 10
HEALTH_RETRIES = 3
HEALTH_START_SECONDS = 60


def container(
    *,
    image: pulumi.Input[str],
    command: Sequence[str],
    environment: Mapping[str, pulumi.Input[str]],
    port: pulumi.Input[int] | None,
    health_check_command: Sequence[str] | None,
    stop_timeout_seconds: pulumi.Input[int],
    log_group: pulumi.Input[str],
    region: pulumi.Input[str],
    stream_prefix: str,
) -> dict[str, Any]:
    """The one container of a task; leaves may be outputs. A job that serves nobody has no port and no health check.

    Every value that ECS would fill in is written out, and the environment is sorted: ECS returns what it stores, and a
    definition that differs from it is replaced by every deployment.
    """
    made: dict[str, Any] = {
        "name": CONTAINER_NAME,
        "image": image,
        "essential": True,
        "command": list(command),
        "environment": [{"name": name, "value": environment[name]} for name in sorted(environment)],
        "portMappings": [] if port is None else [{"containerPort": port, "hostPort": port, "protocol": "tcp"}],
        "readonlyRootFilesystem": True,
        "user": USER,
        "linuxParameters": {"capabilities": {"drop": ["ALL"]}, "initProcessEnabled": True},
        "mountPoints": [{"sourceVolume": TMP_VOLUME, "containerPath": TMP_PATH, "readOnly": False}],
        "ulimits": [{"name": "nofile", "softLimit": OPEN_FILES, "hardLimit": OPEN_FILES}],
        "stopTimeout": stop_timeout_seconds,
        "logConfiguration": {
            "logDriver": "awslogs",
            # Blocking mode stops the app when CloudWatch is slow; a full buffer loses lines instead.
            "options": {
                "awslogs-group": log_group,
                "awslogs-region": region,
                "awslogs-stream-prefix": stream_prefix,
                "max-buffer-size": "25m",
                "mode": "non-blocking",
            },
        },
        "systemControls": [],
        "volumesFrom": [],
    }
    if health_check_command is not None:
        made["healthCheck"] = {
            "command": list(health_check_command),
            "interval": HEALTH_INTERVAL_SECONDS,
            "timeout": HEALTH_TIMEOUT_SECONDS,
            "retries": HEALTH_RETRIES,
            "startPeriod": HEALTH_START_SECONDS,
        }
    return made
