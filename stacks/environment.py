"""What a task is told. The names are the ones that `app/settings.py` reads; a test compares the two sides."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import pulumi

from components import _timeouts

if TYPE_CHECKING:
    from components.api_key import ApiKey
    from components.cache import Cache
    from components.model_config import ModelConfig
    from components.queue import Queue
    from components.storage import Storage
    from components.topic import Topic
    from stacks.settings import Settings

PORT = 8080
HEALTH_PATH = "/health/ready"
# A message that a worker took stays hidden this long where the worker does not say otherwise.
JOB_SECONDS = 300
# Requests that may wait a day are gathered this long: OpenAI takes 2,000 batches an hour, so 33 groups may be busy.
DEFER_COLLECT_SECONDS = 60


class Service(StrEnum):
    """What a task of the image does: the word after `python -m app`, and a metric dimension."""

    WEB = "web"
    WORKER = "worker"

    @property
    def command(self) -> list[str]:
        """Command of the container."""
        return ["python", "-m", "app", self.value]


def task_environment(
    service: Service,
    settings: "Settings",
    api_key: "ApiKey",
    storage: "Storage",
    queue: "Queue",
    cache: "Cache",
    models: "ModelConfig",
    topic: "Topic",
) -> Mapping[str, pulumi.Input[str]]:
    """Every variable a task definition sets. No secret: the OpenAI key is read at run time from where the ARN says."""
    return {
        "PRODKIT_STACK": settings.stack,
        "PRODKIT_SERVICE": service.value,
        # a task has a network interface of its own; its security group decides who gets in
        "PRODKIT_HOST": "0.0.0.0",  # noqa: S104
        "PRODKIT_PORT": str(PORT),
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": settings.openai_base_url,
        "PRODKIT_OPENAI_SECRET_ARN": api_key.secret_arn,
        "PRODKIT_STATE_TABLE": storage.state_table,
        "PRODKIT_LEDGER_TABLE": storage.ledger_table,
        "PRODKIT_DOCUMENTS_BUCKET": storage.documents_bucket,
        "PRODKIT_QUEUE_URL": queue.url,
        "PRODKIT_CACHE_ENDPOINT": cache.endpoint,
        "PRODKIT_CACHE_AUTH": "iam",
        "PRODKIT_CACHE_USER": cache.user_name,
        "PRODKIT_CACHE_NAME": cache.name,
        "PRODKIT_CACHE_MODE": cache.mode,
        "PRODKIT_APPCONFIG_APPLICATION": models.application_id,
        "PRODKIT_APPCONFIG_ENVIRONMENT": models.environment_id,
        "PRODKIT_APPCONFIG_PROFILE": models.profile_id,
        "PRODKIT_DEFER_COLLECT_SECONDS": str(DEFER_COLLECT_SECONDS),
        "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otlp_endpoint,
        "PRODKIT_TOKEN_BUDGET_USD": str(settings.token_budget_usd),
        "PRODKIT_BUDGET_TIME_ZONE": settings.budget_time_zone,
        "PRODKIT_ALERT_TOPIC_ARN": topic.arn,
        **_timeouts.derive(settings.max_stream_seconds).environment(),
    }
