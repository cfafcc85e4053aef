"""What the scheduled jobs of a stack have in common: their command, where they run, and who hears of a failure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pulumi

from components.scheduled_job import ScheduledJobArgs

if TYPE_CHECKING:
    from components.api_key import ApiKey
    from components.container_service import ContainerService
    from components.encryption import Encryption
    from components.network import Network
    from components.topic import Topic
    from stacks.arguments import DeployedImage
    from stacks.settings import Settings


def command_of(job: str) -> list[str]:
    """Command of the container."""
    return ["python", "-m", "app", "job", job]


def job_environment(job: str, settings: "Settings", api_key: "ApiKey") -> dict[str, pulumi.Input[str]]:
    """The variables that each job's task definition sets."""
    return {
        "PRODKIT_STACK": settings.stack,
        "PRODKIT_SERVICE": job,
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": settings.openai_base_url,
        "PRODKIT_OPENAI_ADMIN_SECRET_ARN": api_key.admin_secret_arn,
    }


def job_args(
    job: str,
    environment: Mapping[str, pulumi.Input[str]],
    policies: Mapping[str, pulumi.Input[str]],
    settings: "Settings",
    network: "Network",
    encryption: "Encryption",
    image: "DeployedImage",
    web: "ContainerService",
    topic: "Topic",
) -> ScheduledJobArgs:
    """A job in the cluster of the web service, with its alarms: a run that is missing or failed tells people."""
    return {
        "stack": settings.stack,
        "job": job,
        "cluster_arn": web.cluster_arn,
        "vpc_id": network.vpc_id,
        "subnet_ids": network.task_subnet_ids,
        "assign_public_ip": network.assign_public_ip,
        "image": image["uri"],
        "execution_policies": image["pull"],
        "command": command_of(job),
        "environment": environment,
        "policies": policies,
        "architecture": settings.architecture,
        "key_arn": encryption.messages_key_arn,
        "topic_arn": topic.arn,
        "log_retention_days": settings.log_retention_days,
        "logs_key_arn": encryption.logs_key_arn,
        "tags": settings.tags,
    }
