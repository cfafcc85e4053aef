"""Replicas of the cache in one process, over a real Valkey: single, or a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from app.aws import Aws
from app.cache import epochs
from app.cache.answers import Answers
from app.cache.key import canonical
from app.cache.place import Place
from app.cache.scripts import SCRIPTS
from app.cache.watch import fields_of
from app.models import CachePolicy
from app.settings import Settings
from app.valkey import client
from app.valkey.client import Valkey
from local.openai.server import Running, running
from tests.app.cache.fleet import Fleet, open_fleet
from tests.app.conftest import CloudParts
from tests.patience import PATIENCE_SECONDS

MakeReplica = Callable[[], Awaitable[Answers]]
POLICY = CachePolicy(60, 30)
KNOWN_SECONDS = 5.0


def place_of_text(tenant: str, text: str, *tags: str, stream: bool = False) -> Place:
    """The place of a question, not yet at an epoch."""
    question = canonical("/v1/responses", {"model": "m", "input": text})
    return Place(tenant, "/v1/responses", stream, question, fields_of(tenant, tags), POLICY)


async def place_at(answers: Answers, tenant: str = "acme", text: str = "hi", *tags: str) -> Place:
    """The place of a question at the epochs that a replica knows, once it knows them."""
    place = place_of_text(tenant, text, *tags)
    async with asyncio.timeout(KNOWN_SECONDS):
        while (stamp := await answers.watch.stamp(place.fields)) is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    place.at(stamp)
    return place


async def kept(answers: Answers, place: Place, token: str, body: bytes) -> bool:
    """Whether an answer that is stored is there then."""
    answers.store.keep(place, token, answers.made(place, body, "m"))
    entry = (await answers.store.follow(place, token, 0)).entry
    return entry is not None and entry.body == body


@pytest.fixture(params=["single", "cluster"])
async def make_replica(request: pytest.FixtureRequest, settings: Settings, aws: Aws) -> AsyncIterator[MakeReplica]:
    """Starts one more replica on the same Valkey; all are stopped after the test."""
    if request.param == "cluster":
        settings = replace(settings, cache_port=request.getfixturevalue("cluster_port"), cache_mode="cluster")
    made: list[tuple[Valkey, Answers]] = []

    async def make() -> Answers:
        valkey = Valkey(settings, aws, max_connections=8, scripts=SCRIPTS)
        await valkey.start()
        answers = Answers(valkey, 1 << 20)
        await answers.watch.start()
        made.append((valkey, answers))
        return answers

    yield make
    for valkey, answers in made:
        await answers.watch.stop()
        await valkey.stop()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running(speed=0.5) as simulator:  # answers take their time, so that there is something to join
        yield simulator


@pytest.fixture
async def fleet(
    request: pytest.FixtureRequest,
    settings: Settings,
    cloud: CloudParts,
    upstream: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Fleet]:
    upstream.reset()
    # After a fraction of a second a replica goes on without the store and shares nothing; here that is a busy machine.
    monkeypatch.setattr(client, "OPERATION_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(epochs, "TRUSTED_SECONDS", PATIENCE_SECONDS)
    if getattr(request, "param", "single") == "cluster":
        settings = replace(settings, cache_port=request.getfixturevalue("cluster_port"), cache_mode="cluster")
    async with open_fleet(settings, cloud, upstream, 3) as made:
        yield made
