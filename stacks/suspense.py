"""Settling what silent replicas left: the job that reads OpenAI's bill, and what it is told."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import pulumi

from components import _metrics
from components.scheduled_job import ScheduledJob
from stacks.jobs import job_args, job_environment

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
# As far apart as two looks at a bill have to be that make it final.
EVERY_HOURS: Final = 6


def settling_environment(
    settings: "Settings", api_key: "ApiKey", storage: "Storage"
) -> Mapping[str, pulumi.Input[str]]:
    """Every variable of the job's task definition: what `app/jobs/settings.py` reads; a test compares the two."""
    return {
        **job_environment(JOB, settings, api_key),
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
    """The job."""
    environment = settling_environment(settings, api_key, storage)
    policies = {"bill": api_key.admin_policy, "ledger": storage.ledger_policy}
    args = job_args(JOB, environment, policies, settings, network, encryption, image, web, topic)
    return ScheduledJob("suspense", {**args, "every_hours": EVERY_HOURS})
