"""Replicas of the cache in one process, over a real Valkey: single, or a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from app.aws import Aws
from app.cache.answers import Answers
from app.cache.key import canonical
from app.cache.place import Place
from app.cache.scripts import SCRIPTS
from app.cache.watch import fields_of
from app.models import CachePolicy
from app.settings import Settings
from app.valkey.client import Valkey

MakeReplica = Callable[[], Awaitable[Answers]]
POLICY = CachePolicy(60, 30)


def place_of_text(tenant: str, text: str, *tags: str, stream: bool = False) -> Place:
    """The place of a question, not yet at an epoch."""
    question = canonical("/v1/responses", {"model": "m", "input": text})
    return Place(tenant, "/v1/responses", stream, question, fields_of(tenant, tags), POLICY)


async def place_at(answers: Answers, tenant: str = "acme", text: str = "hi", *tags: str) -> Place:
    """The place of a question at the epochs that a replica knows."""
    place = place_of_text(tenant, text, *tags)
    stamp = await answers.watch.stamp(place.fields)
    assert stamp is not None
    place.at(stamp)
    return place


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
