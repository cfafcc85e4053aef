"""The product on the real pipeline: the simulator stands in for OpenAI, the emulated AWS for AWS."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from app.keys import Identity
from app.pipeline import Pipeline
from app.product.documents import Documents
from app.services import Services
from app.settings import Settings
from app.upstream import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts


@pytest.fixture(scope="session")
def simulator() -> Iterator[Running]:
    """One simulator for the whole run, fast; `upstream` resets it."""
    with running() as started:
        yield started


@pytest.fixture
def openai_settings(settings: Settings, simulator: Running, cloud: CloudParts) -> Settings:
    """Settings of a replica whose OpenAI is the simulator and whose key is set."""
    simulator.reset()
    key = "sk-" + secrets.token_hex(16)
    arn = cloud.client("secretsmanager").create_secret(Name=secrets.token_hex(8), SecretString=key)["ARN"]
    return replace(settings, openai_base_url=simulator.base_url, openai_secret_arn=arn)


@pytest.fixture
async def started(openai_settings: Settings) -> AsyncIterator[Services]:
    """The services of such a replica."""
    services = await Services.start(openai_settings)
    yield services
    await services.stop()


@pytest.fixture
async def pipeline(started: Services) -> AsyncIterator[Pipeline]:
    """The real pipeline, up to the simulator."""
    upstream = Upstream(started.settings.openai_base_url, connections=8, tcp_keep_alive_seconds=45)
    async with upstream:
        made = Pipeline(started, upstream)
        yield made
        await made.close()


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def identity(tenant: str) -> Identity:
    """A key of that tenant."""
    return Identity(tenant, secrets.token_hex(6), "test", "user", None, None)


@pytest.fixture
def documents(started: Services) -> Documents:
    """The documents of the emulated AWS."""
    settings = started.settings
    return Documents(
        started.aws, table=settings.state_table, bucket=settings.documents_bucket, queue_url=settings.queue_url
    )
