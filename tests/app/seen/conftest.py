"""One replica and the simulator behind it, for every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.openai.server import Running, running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica


@pytest.fixture(scope="package")
def upstream() -> Iterator[Running]:
    """The simulator."""
    with running() as simulator:
        yield simulator


@pytest.fixture(scope="package")
def task(cloud: CloudParts, valkey_port: int, upstream: Running) -> dict[str, str]:
    """The environment of a web task whose OpenAI is the simulator."""
    return BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "AWS_ENDPOINT_URL": cloud.url,
    }


@pytest.fixture(scope="package")
def gateway(task: dict[str, str]) -> Iterator[Replica]:
    """A replica of that task."""
    with replica(task) as process:
        yield process


@pytest.fixture(scope="package")
def key(cloud: CloudParts) -> str:
    """A key of a tenant with high limits."""
    return prodkit_key(cloud, "seen", requests_per_minute=100_000, tokens_per_minute=100_000_000)
