"""Settling what silent replicas left: the job that reads OpenAI's bill, and what it is told."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import pulumi

from components import _metrics
from components.scheduled_job import ScheduledJob

if TYPE_CHECKING:
    from components.api_key import ApiKey
    from components.container_service import ContainerService
    from components.encryption import Encryption
    from components.network import Network
    from components.storage import Storage
    from components.topic import Topic
    from stacks.arguments import DeployedImage
    from stacks.settings import Settings

JOB: Final = _metrics.SETTLE_SUSPENSE
COMMAND: Final = ["python", "-m", "app", "job", JOB]
# As far apart as two looks at a bill have to be that make it final.
EVERY_HOURS: Final = 6


def settling_environment(
    settings: "Settings", api_key: "ApiKey", storage: "Storage"
) -> Mapping[str, pulumi.Input[str]]:
    """Every variable of the job's task definition: what `app/jobs/settings.py` reads; a test compares the two."""
    return {
        "PRODKIT_STACK": settings.stack,
        "PRODKIT_SERVICE": JOB,
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": settings.openai_base_url,
        "PRODKIT_OPENAI_ADMIN_SECRET_ARN": api_key.admin_secret_arn,
        "PRODKIT_LEDGER_TABLE": storage.ledger_table,
        "PRODKIT_BUDGET_TIME_ZONE": settings.budget_time_zone,
    }


def suspense_settling(
    settings: "Settings",
    network: "Network",
    encryption: "Encryption",
    api_key: "ApiKey",
    storage: "Storage",
    image: "DeployedImage",
    web: "ContainerService",
    topic: "Topic",
) -> ScheduledJob:
    """The job in the cluster of the web service, with its alarms: a run that is missing or failed tells people."""
    return ScheduledJob(
        "suspense",
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
            "environment": settling_environment(settings, api_key, storage),
            "policies": {"bill": api_key.admin_policy, "ledger": storage.ledger_policy},
            "architecture": settings.architecture,
            "every_hours": EVERY_HOURS,
            "key_arn": encryption.messages_key_arn,
            "topic_arn": topic.arn,
            "log_retention_days": settings.log_retention_days,
            "logs_key_arn": encryption.logs_key_arn,
            "tags": settings.tags,
        },
    )
