from __future__ import annotations

import functools
import subprocess
from dataclasses import replace
from unittest import mock

import pytest
from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError

from app.aws import Aws
from app.cache.answers import Answers
from app.keys import Identity
from app.limits import SCRIPTS, Limiter, Limits, Policy
from app.settings import Settings
from app.valkey.client import Valkey
from components.cache import _ACCESS
from tests.app.cache.conftest import place_at

PASSWORD = "p" * 32


@pytest.fixture
def limited_port(cluster_port: int) -> int:
    """The cluster, with a user `app` that has what components/cache.py grants."""
    rights = ["acl", "setuser", "app", "reset", *_ACCESS.split(), ">" + PASSWORD]
    subprocess.run(["redis-cli", "-p", str(cluster_port), *rights], check=True, stdout=subprocess.DEVNULL)
    return cluster_port


@pytest.mark.process
async def test_the_rights_that_the_stack_gives_are_enough_and_no_more(
    settings: Settings, aws: Aws, limited_port: int
) -> None:
    identity = Identity("acme", "0" * 12, "test", "user", 10, 1_000)
    as_the_app = functools.partial(RedisCluster, username="app", password=PASSWORD)
    with mock.patch("redis.asyncio.RedisCluster", as_the_app):
        store = Valkey(
            replace(settings, cache_port=limited_port, cache_mode="cluster"), aws, max_connections=8, scripts=SCRIPTS
        )
        await store.start()
        limiter = Limiter(store, lambda: Policy(Limits(10, 1_000)), max_local_keys=3)
        grant = await limiter.reserve(identity, "gpt-6-luna", 10)
        assert grant.shared
        limiter.settle(grant, 5)
        assert await limiter.sweeper.sweep() >= 0
        answers = Answers(store, 1 << 20)
        await answers.watch.start()
        await answers.watch.invalidate("acme", "documents")
        place = await place_at(answers)
        assert (await answers.store.claim(place, "t", 5_000)).token == "t"
        await answers.store.tell(answers.watch.replica, place.key, "t")
        assert await answers.store.publish(place.key, "t", b"text", 0)
        assert (await answers.store.follow(place, "t", 0)).text == b"text"
        answers.store.keep(place, "t", answers.made(place, b"{}", "m"))
        assert (await answers.store.claim(place, "u", 5_000)).entry is not None
        await answers.watch.stop()
        with pytest.raises(NoPermissionError):
            await store.client.flushall()
        assert store.reachable
        await store.stop()
