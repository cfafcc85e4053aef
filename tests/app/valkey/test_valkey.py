from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from redis.exceptions import ReadOnlyError

from app.aws import Aws
from app.settings import Settings
from app.valkey import client as valkey
from app.valkey.client import Script, Valkey, ValkeyAwayError
from tests.app.conftest import free_port, redis_server
from tests.patience import PATIENCE_SECONDS

needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


@asynccontextmanager
async def connected(
    settings: Settings, aws: Aws, scripts: Sequence[Script] = (), **changes: Any
) -> AsyncIterator[Valkey]:
    store = Valkey(replace(settings, **changes), aws, max_connections=8, scripts=scripts)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def reachable(store: Valkey) -> None:
    """Return when the store is reachable again."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not store.reachable:
            assert store._prober is not None
            await store._prober


@pytest.mark.process
async def test_a_script_is_sent_once_and_then_called_by_its_hash(settings: Settings, aws: Aws) -> None:
    script = Script("return {KEYS[1], ARGV[1]} -- " + str(free_port()))
    never_whole = mock.patch("redis.asyncio.Redis.eval", side_effect=AssertionError)
    async with connected(settings, aws, [script]) as store:
        with never_whole:
            assert await store.run(lambda client: script.run(client, "k", 1)) == [b"k", b"1"]


@pytest.mark.process
@needs_redis
async def test_a_server_that_lost_its_scripts_gets_them_again(settings: Settings, aws: Aws) -> None:
    script = Script("return {KEYS[1], ARGV[1]} -- " + str(free_port()))
    async with connected(settings, aws) as store:
        assert await store.run(lambda client: script.run(client, "k", "one")) == [b"k", b"one"]
        assert await store.run(lambda client: script.run(client, "k", "two")) == [b"k", b"two"]
        assert store.reachable


@pytest.mark.process
async def test_a_server_that_is_not_there_costs_nothing_after_the_first_try(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws, cache_port=free_port()) as store:
        assert not store.reachable
        operation = mock.AsyncMock()
        with pytest.raises(ValkeyAwayError):
            await store.run(operation)
        with pytest.raises(ValkeyAwayError):
            _ = store.client
        operation.assert_not_called()


@pytest.mark.process
@needs_redis
async def test_a_frozen_server_costs_one_time_out_and_is_used_again_once_it_thaws(
    settings: Settings, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "CONNECT_SECONDS", 0.3)
    with redis_server(tmp_path) as (port, process):
        async with connected(settings, aws, cache_port=port) as store:
            await store.run(lambda client: client.set("a", "1"))
            await store.run(lambda client: client.set("b", "2"))
            process.send_signal(signal.SIGSTOP)
            results = await asyncio.gather(
                *(store.run(lambda client: client.get("a")) for _ in range(20)), return_exceptions=True
            )
            assert {type(result) for result in results} == {ValkeyAwayError}
            operation = mock.AsyncMock()
            with pytest.raises(ValkeyAwayError):
                await store.run(operation)
            operation.assert_not_called()
            process.send_signal(signal.SIGCONT)
            await reachable(store)
            # An answer to an operation that timed out must never be read by the next one.
            assert await store.run(lambda client: client.get("b")) == b"2"


@pytest.mark.process
@needs_redis
async def test_a_server_that_restarts_is_found_again(settings: Settings, aws: Aws, tmp_path: Path) -> None:
    with redis_server(tmp_path) as (port, process):
        async with connected(settings, aws, cache_port=port) as store:
            process.kill()
            process.wait()
            with pytest.raises(ValkeyAwayError):
                await store.run(lambda client: client.get("a"))
            with redis_server(tmp_path, port=port):
                await reachable(store)
                assert await store.run(lambda client: client.get("a")) is None


@pytest.mark.process
@needs_redis
async def test_more_callers_than_connections_take_turns(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        results = await asyncio.gather(*(store.run(lambda client: client.ping()) for _ in range(64)))
        assert len(results) == 64
        assert store.reachable


@pytest.mark.process
@needs_redis
async def test_an_error_of_the_server_is_never_an_error_of_the_request(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        await store.run(lambda client: client.set("text", "1"))
        with pytest.raises(ValkeyAwayError):
            await store.run(lambda client: client.incr("text", "x"))
        with pytest.raises(ValkeyAwayError):
            await store.run(lambda client: client.lpush("text", "x"))
        assert store.reachable


@pytest.mark.process
async def test_a_replica_that_refuses_to_write_is_left_for_a_new_connection(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        first = store.client
        with pytest.raises(ValkeyAwayError):
            await store.run(mock.AsyncMock(side_effect=ReadOnlyError()))
        assert not store.reachable
        await reachable(store)
        assert store.client is not first


@pytest.mark.process
async def test_a_store_that_is_stopped_stays_stopped(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        await store.stop()
        with pytest.raises(ValkeyAwayError):
            await store.run(lambda client: client.ping())
        assert store._prober is None


@pytest.mark.process
async def test_a_cluster_works_as_a_single_node_does(settings: Settings, aws: Aws, cluster_port: int) -> None:
    async with connected(settings, aws, cache_port=cluster_port, cache_mode="cluster") as store:
        script = Script("return redis.call('INCR', KEYS[1])")
        for expected in (1, 2):
            assert await store.run(lambda client: script.run(client, "{first}")) == expected
        await store.run(lambda client: client.set("second", "2", ex=60))
        assert await store.run(lambda client: client.get("second")) == b"2"
        found = {key async for key in store.client.scan_iter(match="*")}
        assert {b"second", b"{first}"} <= found


@pytest.mark.process
async def test_iam_means_tls_with_a_checked_certificate(settings: Settings, aws: Aws) -> None:
    with mock.patch("redis.asyncio.Redis") as made:
        await Valkey(replace(settings, cache_auth="iam"), aws, max_connections=8)._connect()
    options = made.call_args.kwargs
    assert options["ssl"] is True
    assert (options["ssl_cert_reqs"], options["ssl_check_hostname"]) == ("required", True)
    assert options["credential_provider"].get_credentials()[0] == "app"
    assert options["retry"].get_retries() == 0


def test_no_thread_is_left_by_a_client_that_was_closed() -> None:
    before = threading.active_count()
    clients = Aws("us-east-1")
    clients.close()
    assert threading.active_count() == before
