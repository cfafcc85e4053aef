from __future__ import annotations

import functools
import subprocess
from dataclasses import replace
from unittest import mock

import pytest
from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError

from app.aws import Aws
from app.cache import CachedResponse, ResponseCache
from app.keys import Identity
from app.limits import SCRIPTS, Limiter, Limits, Policy
from app.settings import Settings
from app.valkey import Valkey
from components.cache import _ACCESS

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
        assert await limiter.sweep() >= 0
        cache = ResponseCache(store, lambda: 60)
        assert await cache.put("acme", "/v1/responses", b"{}", CachedResponse(b"{}", "application/json", "m", 1, 1))
        assert await cache.get("acme", "/v1/responses", b"{}") is not None
        with pytest.raises(NoPermissionError):
            await store.client.flushall()
        assert store.reachable
        await store.stop()
