"""One simulator for the whole run, on a clock that tests move; every test finds it as it was after its start."""

import secrets
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from local.openai.clock import ManualClock
from local.openai.server import Running, running
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(scope="session")
def key() -> str:
    """An API key made for this run."""
    return f"sk-{secrets.token_urlsafe(24)}"


@pytest.fixture(scope="session")
def clock() -> ManualClock:
    """The simulator's clock."""
    return ManualClock()


@pytest.fixture(scope="session")
def _running(clock: ManualClock) -> Iterator[Running]:
    with running(clock=clock, today="2026-11-22") as simulator:
        yield simulator


@pytest.fixture
def simulator(_running: Running) -> Running:
    """The running simulator, reset."""
    _running.reset()
    return _running


@pytest.fixture(scope="session")
def _client(_running: Running, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=key,
        base_url=_running.base_url,
        max_retries=0,
        timeout=PATIENCE_SECONDS,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def client(_client: openai.OpenAI, simulator: Running) -> openai.OpenAI:
    """The official client, refusing any answer that does not have the documented shape; it never retries."""
    return _client


@pytest.fixture
async def async_client(simulator: Running, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official asynchronous client, as strict."""
    async with openai.AsyncOpenAI(
        api_key=key,
        base_url=simulator.base_url,
        max_retries=0,
        timeout=PATIENCE_SECONDS,
        _strict_response_validation=True,
    ) as client:
        yield client
