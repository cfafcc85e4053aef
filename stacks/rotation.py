"""The rotation of the OpenAI key: the job, what it is told, and what starting it by hand takes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pulumi

from components import _metrics
from components._task import CONTAINER_NAME
from components.scheduled_job import ScheduledJob, WatchArgs
from stacks.jobs import command_of, job_args, job_environment

if TYPE_CHECKING:
    from components.api_key import ApiKey
    from components.container_service import ContainerService
    from components.encryption import Encryption
    from components.network import Network
    from components.topic import Topic
    from stacks.arguments import DeployedImage
    from stacks.settings import Settings

JOB: Final = _metrics.ROTATE_KEY
EVERY_HOURS: Final = 24
# A key is due when it is old enough, is replaced by the next daily run, and one failed run is not yet overdue.
GRACE_DAYS: Final = 2


def rotation_environment(settings: "Settings", api_key: "ApiKey") -> Mapping[str, pulumi.Input[str]]:
    """Every variable of the job's task definition: what `app/jobs/settings.py` reads; a test compares the two."""
    return {
        **job_environment(JOB, settings, api_key),
        "PRODKIT_OPENAI_SECRET_ARN": api_key.secret_arn,
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
    """The job, with an alarm on a key that is older than it should be."""
    environment, policies = rotation_environment(settings, api_key), {"rotate": api_key.rotate_policy}
    days = settings.rotation_days
    overdue: WatchArgs = {
        "name": "overdue",
        "metric": _metrics.KEY_AGE_DAYS,
        "over": days + GRACE_DAYS,
        "description": f"The OpenAI key is over {days + GRACE_DAYS} days old; {days} are meant",
    }
    args = job_args(JOB, environment, policies, settings, network, encryption, image, web, topic)
    return ScheduledJob("rotation", {**args, "every_hours": EVERY_HOURS, "watch": [overdue]})


def by_hand(job: ScheduledJob, network: "Network", web: "ContainerService") -> dict[str, Any]:
    """What `python -m stacks rotate` needs to start the job: it evaluates no program."""
    return {
        "cluster": web.cluster_name,
        "task_definition": job.task_definition_arn,
        "subnets": network.task_subnet_ids,
        "security_group": job.security_group_id,
        "assign_public_ip": network.assign_public_ip,
        "container": CONTAINER_NAME,
        "command": [*command_of(JOB), "--now"],
        "log_group": job.log_group_name,
        "log_stream": f"{JOB}/{CONTAINER_NAME}",
    }
