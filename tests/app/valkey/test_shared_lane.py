"""`Valkey.call` and `Valkey.post`: what all callers share, against real servers that freeze, die, move and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.aws import Aws
from app.settings import Settings
from app.valkey import client as valkey
from app.valkey import lane
from app.valkey.client import Script, Valkey, ValkeyAwayError, ValkeyRefusedError
from app.valkey.lane import open_lane
from tests.app.conftest import free_port, redis_server, wait_until
from tests.app.valkey.test_valkey import connected, needs_redis, reachable
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


async def test_calls_beyond_the_bound_are_turned_away_and_start_no_pause(
    settings: Settings, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(settings, aws) as store:
        monkeypatch.setattr(lane, "MAX_WAITING", 8)
        answers = await asyncio.gather(*(store.call("GET", "none") for _ in range(20)), return_exceptions=True)
        assert [type(answer) for answer in answers].count(ValkeyAwayError) == 12
        assert answers.count(None) == 8
        assert store.reachable


@needs_redis
async def test_a_frozen_server_costs_one_time_out_and_is_called_again_once_it_thaws(
    settings: Settings, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "CONNECT_SECONDS", 0.3)
    with redis_server(tmp_path) as (port, process):
        async with connected(settings, aws, cache_port=port) as store:
            assert await store.call("SET", "a", "1") == b"OK"
            assert await store.call("SET", "b", 2) == b"OK"
            process.send_signal(signal.SIGSTOP)
            results = await asyncio.gather(*(store.call("GET", "a") for _ in range(20)), return_exceptions=True)
            assert {type(result) for result in results} == {ValkeyAwayError}
            assert not store.reachable
            with pytest.raises(ValkeyAwayError):
                await store.call("GET", "a")
            process.send_signal(signal.SIGCONT)
            await reachable(store)
            assert await store.call("GET", "b") == b"2"


@needs_redis
async def test_a_server_that_was_killed_is_called_again_once_it_is_back(
    settings: Settings, aws: Aws, tmp_path: Path
) -> None:
    with redis_server(tmp_path) as (port, process):
        async with connected(settings, aws, cache_port=port) as store:
            process.kill()
            process.wait()
            with pytest.raises(ValkeyAwayError):
                await store.call("GET", "a")
            with redis_server(tmp_path, port=port):
                await reachable(store)
                assert await store.call("GET", "a") is None


async def test_a_refusal_of_the_server_is_named_and_starts_no_pause(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        await store.call("SET", "text", "x")
        for command, code in ((("LPUSH", "text", "x"), "WRONGTYPE"), (("INCR", "text"), "ERR")):
            with pytest.raises(ValkeyRefusedError) as refused:
                await store.call(*command)
            assert refused.value.code == code
        store.post("LPUSH", "text", "x")
        assert await store.call("GET", "text") == b"x"
        assert store.reachable


@needs_redis
async def test_a_node_that_became_a_replica_is_left_for_a_new_connection(
    settings: Settings, aws: Aws, tmp_path: Path
) -> None:
    with redis_server(tmp_path) as (port, _), redis.Redis(port=port) as admin:
        async with connected(settings, aws, cache_port=port) as store:
            admin.replicaof("127.0.0.1", str(free_port()))
            with pytest.raises(ValkeyRefusedError, match="READONLY"):
                await store.call("SET", "a", "1")
            assert not store.reachable
            admin.replicaof("NO", "ONE")
            await reachable(store)
            store.post("SET", "a", "2")
            assert await store.call("GET", "a") == b"2"


async def test_a_script_that_the_server_lost_is_sent_again(settings: Settings, aws: Aws) -> None:
    script = Script("return {KEYS[1], ARGV[1]} -- " + str(free_port()))
    async with connected(settings, aws) as store:
        for argument in ("one", "two"):
            assert await script.call(store, "k", argument) == [b"k", argument.encode()]
        with pytest.raises(ValkeyRefusedError):
            await Script("not lua").call(store, "k")
        assert store.reachable


async def test_what_was_posted_is_done_before_the_store_is_stopped(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws) as store:
        for number in range(100):
            store.post("SET", "posted", number)
    async with connected(settings, aws) as store:
        assert await store.call("GET", "posted") == b"99"
        await store.stop()
        store.post("SET", "posted", "too late")  # nothing happens
        with pytest.raises(ValkeyAwayError):
            await store.call("GET", "posted")


async def test_nothing_is_posted_to_a_server_that_is_not_there(settings: Settings, aws: Aws) -> None:
    async with connected(settings, aws, cache_port=free_port()) as store:
        store.post("SET", "a", "1")
        assert not store._tasks


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """A cluster whose first node holds every slot; the second one holds none yet."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            port, _ = stack.enter_context(redis_server(tmp_path / name, *options))
            nodes.append(stack.enter_context(redis.Redis(port=port)))
        first, second = nodes
        bus = str(second.config_get("cluster-port")["cluster-port"])
        ask(first, "CLUSTER MEET", "127.0.0.1", _port(second), bus)
        ask(first, "CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: all(node.cluster("INFO")["cluster_state"] == "ok" for node in nodes))
        yield first, second


def ask(node: redis.Redis, *command: str | int) -> bytes:
    answer = node.execute_command(*command)  # type: ignore[no-untyped-call]
    return answer if isinstance(answer, bytes) else str(answer).encode()


def _port(node: redis.Redis) -> int:
    return int(node.get_connection_kwargs()["port"])


@needs_redis
async def test_a_key_is_found_while_its_slot_moves_and_where_it_went(
    settings: Settings, aws: Aws, two_nodes: tuple[redis.Redis, redis.Redis]
) -> None:
    first, second = two_nodes
    slot = int(ask(first, "CLUSTER KEYSLOT", "moving"))
    names = [ask(node, "CLUSTER MYID").decode() for node in two_nodes]
    async with connected(settings, aws, cache_port=_port(first), cache_mode="cluster") as store:
        assert await store.call("SET", "moving", "1") == b"OK"
        ask(second, "CLUSTER SETSLOT", slot, "IMPORTING", names[0])
        ask(first, "CLUSTER SETSLOT", slot, "MIGRATING", names[1])
        ask(first, "MIGRATE", "127.0.0.1", _port(second), "moving", 0, 2000)
        assert await store.call("GET", "moving") == b"1", "by ASK"
        for node in (second, first):
            ask(node, "CLUSTER SETSLOT", slot, "NODE", names[1])
        assert await store.call("SET", "moving", "9", "NX", "GET") == b"1", "by MOVED"
        store.post("SET", "moving", "2")
        assert await store.call("GET", "moving") == b"2"
        assert not store._tasks, "the way is known by now"
        ask(second, "DEL", "moving")
        for node in two_nodes:
            ask(node, "CLUSTER SETSLOT", slot, "NODE", names[0])
        store.post("SET", "moving", "3")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await store.call("GET", "moving") != b"3":
                pass
        assert store.reachable


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key and a certificate of 127.0.0.1 that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prodkit test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    bare = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, bare))
    return folder


@needs_redis
async def test_with_iam_the_shared_connection_logs_in_over_tls_and_checks_the_certificate(
    settings: Settings, aws: Aws, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, plain = free_port(), free_port()
    files = (("cert", "cert.pem"), ("key", "key.pem"), ("ca-cert", "cert.pem"))
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for name, file in files:
        options += [f"--tls-{name}-file", str(certificate / file)]
    iam = replace(settings, cache_port=port, cache_auth="iam", cache_user="app", cache_name="main")
    with redis_server(tmp_path, *options, port=plain), redis.Redis(port=plain) as admin:
        ask(admin, "ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all")
        async with connected(iam, aws) as store:
            assert not store.reachable, "nobody vouches for the certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        async with connected(iam, aws) as store:
            assert store.reachable, store.problem
            assert await store.call("ACL", "WHOAMI") == b"app"


async def test_a_lane_that_cannot_log_in_is_no_lane(settings: Settings, aws: Aws) -> None:
    with pytest.raises(lane.ReplyError, match=r"WRONGPASS|ERR"):
        await open_lane(
            "127.0.0.1", settings.cache_port, seconds=1, on_lost=lambda *_: None, tls=None, login=("nobody", "x")
        )


async def test_calls_cost_no_connection_each(settings: Settings, aws: Aws) -> None:
    store = Valkey(settings, aws, max_connections=1)
    await store.start()
    before = await store.call("INFO", "clients")
    await asyncio.gather(*(store.call("SET", f"many-{number}", number) for number in range(200)))
    assert await store.call("INFO", "clients") == before
    assert len(store._lanes) == 1
    await store.stop()


def test_the_event_loop_that_a_replica_runs_on_does_the_same(settings: Settings, aws: Aws) -> None:
    async def several() -> list[Any]:
        async with connected(settings, aws) as store:
            store.post("SET", "uvloop", "1")
            return [await store.call("GET", "uvloop") for _ in range(3)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(several()) == [b"1"] * 3
