"""The run's cache, embedded or installed, speaks to the real client."""

import asyncio
import sys
from pathlib import Path

import pytest
import redis.asyncio as redis

from local import cache
from local.children import Children

pytestmark = pytest.mark.process

INCREMENT = "local n = redis.call('INCRBY', KEYS[1], ARGV[1]); return {n, redis.call('TIME')[1]}"


async def uses(endpoint: str) -> None:
    """What the app does: text, bytes, expiry, scripts, from several connections at a time."""
    host, _, port = endpoint.rpartition(":")
    async with redis.Redis(host=host, port=int(port)) as client:
        value = b"\x00\r\n" * 40_000
        await client.set("blob", value, ex=60)
        assert await client.get("blob") == value
        assert 0 < await client.ttl("blob") <= 60
        assert [await client.set("claim", name, nx=True, get=True, px=60_000) for name in "ab"] == [None, b"a"]
        script = client.register_script(INCREMENT)
        answers = await asyncio.gather(*(script(keys=["{limit:k}"], args=[2]) for _ in range(8)))
        assert sorted(number for number, _ in answers) == [2, 4, 6, 8, 10, 12, 14, 16]


async def test_the_embedded_cache_serves_when_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "installed", lambda: None)
    async with Children() as children:
        made = await cache.start(children)
        assert "neither valkey-server nor redis-server (from 7.0 on) is on PATH" in made.server
        await uses(made.endpoint)


async def test_an_installed_server_is_used_and_keeps_nothing_on_disk() -> None:
    if cache.installed() is None:
        pytest.skip("neither valkey-server nor redis-server is on PATH")
    async with Children() as children:
        made = await cache.start(children)
        await uses(made.endpoint)
        assert {path.name for path in children.directory.iterdir()} == {"cache.log"}


async def test_a_server_found_on_path_is_started_on_a_free_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "valkey-server"
    fake.write_text(f'#!/bin/sh\ncd "{Path.cwd()}"\nexec {sys.executable} -S "{tmp_path}/pong.py" "$2"\n')
    fake.chmod(0o755)
    (tmp_path / "pong.py").write_text(
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True:\n"
        "    client, _ = server.accept()\n"
        "    client.recv(64)\n"
        "    client.sendall(b'+PONG\\r\\n')\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    async with Children() as children:
        made = await cache.start(children)
        assert made.server == str(fake)
        host, _, port = made.endpoint.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


@pytest.mark.parametrize(("version", "used"), [("6.2.14", False), ("7.0.15", True), ("12.0.0", True)])
def test_a_redis_that_lacks_what_the_app_uses_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, used: bool
) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text(f"#!/bin/sh\necho Redis server v={version} sha=00000000:0 bits=64\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cache.installed() == (str(fake) if used else None)
