"""One stack's keys and secrets, and a job that a test runs at any time of its own."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from app.jobs import rotate_key
from app.jobs.rotate_key import CACHED_SECONDS, PROMOTION_SECONDS
from app.jobs.settings import RotationSettings
from local.openai.organization import FIRST_PROJECT
from local.openai.server import Running, running
from tests.app.conftest import REGION, CloudParts
from tests.app.replica import openai_secret

DAYS = 30
STREAM_SECONDS = 60
OVERLAP_SECONDS = PROMOTION_SECONDS + CACHED_SECONDS + STREAM_SECONDS


@dataclass
class World:
    """One stack's secrets, its service account, a clock that tests move, and what runs of the job wrote."""

    cloud: CloudParts
    simulator: Running
    settings: RotationSettings
    admin: openai.OpenAI
    account: str
    first_key: str
    """Value of the key that an operator made and set."""
    moved: float = 0.0
    waits: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def clock(self) -> float:
        return time.time() + self.moved

    def run(self, *, now: bool = False) -> int:
        """One run of the job, as the command does it."""
        return rotate_key.run(
            self.settings,
            now=now,
            clock=self.clock,
            sleep=self.waits.append,
            write=lambda line: self.metrics.append(json.loads(line)),
        )

    @property
    def secret(self) -> Any:
        return self.cloud.client("secretsmanager")

    def held(self) -> dict[str, Any]:
        """What the rotation wrote into the secret."""
        text = self.secret.get_secret_value(SecretId=self.settings.openai_secret_arn)["SecretString"]
        state: dict[str, Any] = json.loads(text)
        return state

    def value_in_force(self) -> str:
        text: str = self.secret.get_secret_value(SecretId=self.settings.openai_secret_arn)["SecretString"]
        return str(json.loads(text)["api_key"]) if text.startswith("{") else text

    def key_ids(self) -> list[str]:
        """Ids of the account's keys at OpenAI, oldest first."""
        return [key.id for key in self.admin.admin.organization.projects.api_keys.list(FIRST_PROJECT, limit=100)]

    def works(self, value: str) -> bool:
        with openai.OpenAI(api_key=value, base_url=self.simulator.base_url, max_retries=0) as client:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return False
            return True

    def later(self, seconds: float) -> None:
        self.moved += seconds

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last run."""
        return self.metrics[-1]


@pytest.fixture(scope="module")
def simulated() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture
def world(cloud: CloudParts, simulated: Running) -> Iterator[World]:
    """A stack whose operator made a service account, and set its first key and the admin key."""
    simulated.reset()
    admin_key = f"sk-admin-{secrets.token_urlsafe(24)}"
    with openai.OpenAI(admin_api_key=admin_key, base_url=simulated.base_url, max_retries=0) as admin:
        account = admin.admin.organization.projects.service_accounts.create(FIRST_PROJECT, name="app")
        assert account.api_key is not None
        settings = RotationSettings(
            stack="test",
            service="rotate-key",
            log_level="info",
            openai_base_url=simulated.base_url,
            openai_secret_arn=openai_secret(cloud, account.api_key.value),
            openai_admin_secret_arn=openai_secret(cloud, admin_key),
            openai_project_id=FIRST_PROJECT,
            openai_service_account_id=account.id,
            rotation_days=DAYS,
            max_stream_seconds=STREAM_SECONDS,
            aws_region=REGION,
            aws_endpoint_url=cloud.url,
        )
        yield World(cloud, simulated, settings, admin, account.id, account.api_key.value)
