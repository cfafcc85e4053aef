"""The rotation of the OpenAI key: the job, what it is told, and what starting it by hand takes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pulumi

from components import _metrics
from components._task import CONTAINER_NAME
from components.scheduled_job import ScheduledJob

if TYPE_CHECKING:
    from components.api_key import ApiKey
    from components.container_service import ContainerService
    from components.encryption import Encryption
    from components.network import Network
    from components.topic import Topic
    from stacks.arguments import DeployedImage
    from stacks.settings import Settings

JOB: Final = _metrics.ROTATE_KEY
COMMAND: Final = ["python", "-m", "app", "job", JOB]
EVERY_HOURS: Final = 24
# A key is due when it is old enough, is replaced by the next daily run, and one failed run is not yet overdue.
GRACE_DAYS: Final = 2


def rotation_environment(settings: "Settings", api_key: "ApiKey") -> Mapping[str, pulumi.Input[str]]:
    """Every variable of the job's task definition: what `app/jobs/settings.py` reads; a test compares the two."""
    return {
        "PRODKIT_STACK": settings.stack,
        "PRODKIT_SERVICE": JOB,
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": settings.openai_base_url,
        "PRODKIT_OPENAI_SECRET_ARN": api_key.secret_arn,
        "PRODKIT_OPENAI_ADMIN_SECRET_ARN": api_key.admin_secret_arn,
        "PRODKIT_OPENAI_PROJECT_ID": settings.openai_project_id,
        "PRODKIT_OPENAI_SERVICE_ACCOUNT_ID": settings.openai_service_account_id,
        "PRODKIT_ROTATION_DAYS": str(settings.rotation_days),
        "PRODKIT_MAX_STREAM_SECONDS": str(settings.max_stream_seconds),
    }


def key_rotation(
    settings: "Settings",
    network: "Network",
    encryption: "Encryption",
    api_key: "ApiKey",
    image: "DeployedImage",
    web: "ContainerService",
    topic: "Topic",
) -> ScheduledJob:
    """The job in the cluster of the web service, with its alarms."""
    days = settings.rotation_days
    return ScheduledJob(
        "rotation",
        {
            "stack": settings.stack,
            "job": JOB,
            "cluster_arn": web.cluster_arn,
            "vpc_id": network.vpc_id,
            "subnet_ids": network.task_subnet_ids,
            "assign_public_ip": network.assign_public_ip,
            "image": image["uri"],
            "execution_policies": image["pull"],
            "command": COMMAND,
            "environment": rotation_environment(settings, api_key),
            "policies": {"rotate": api_key.rotate_policy},
            "architecture": settings.architecture,
            "every_hours": EVERY_HOURS,
            "watch": [
                {
                    "name": "overdue",
                    "metric": _metrics.KEY_AGE_DAYS,
                    "over": days + GRACE_DAYS,
                    "description": f"The OpenAI key is over {days + GRACE_DAYS} days old; {days} are meant",
                }
            ],
            "key_arn": encryption.messages_key_arn,
            "topic_arn": topic.arn,
            "log_retention_days": settings.log_retention_days,
            "logs_key_arn": encryption.logs_key_arn,
            "tags": settings.tags,
        },
    )


def by_hand(job: ScheduledJob, network: "Network", web: "ContainerService") -> dict[str, Any]:
    """What `python -m stacks rotate` needs to start the job: it evaluates no program."""
    return {
        "cluster": web.cluster_name,
        "task_definition": job.task_definition_arn,
        "subnets": network.task_subnet_ids,
        "security_group": job.security_group_id,
        "assign_public_ip": network.assign_public_ip,
        "container": CONTAINER_NAME,
        "command": [*COMMAND, "--now"],
        "log_group": job.log_group_name,
        "log_stream": f"{JOB}/{CONTAINER_NAME}",
    }
