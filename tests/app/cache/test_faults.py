"""Valkey down, frozen, read-only, full and poisoned: the cache is left out, nothing is trusted, and it comes back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.aws import Aws
from app.cache.answers import Answers
from app.cache.place import Place
from app.cache.scripts import SCRIPTS
from app.settings import Settings
from app.valkey.client import Valkey, ValkeyAwayError
from tests.app.cache.conftest import place_at
from tests.app.conftest import free_port, redis_server

pytestmark = pytest.mark.process

PATIENCE_SECONDS = 1.0  # 0.2 promised, on a machine that does other things as well
BACK_SECONDS = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Valkey of this test alone."""
    with redis_server(tmp_path) as (port, process):
        yield port, process
        process.send_signal(signal.SIGCONT)


@pytest.fixture
async def answers(server: tuple[int, subprocess.Popen[bytes]], settings: Settings, aws: Aws) -> AsyncIterator[Answers]:
    valkey = Valkey(replace(settings, cache_port=server[0]), aws, max_connections=8, scripts=SCRIPTS)
    await valkey.start()
    made = Answers(valkey, 1 << 20)
    await made.watch.start()
    yield made
    await made.watch.stop()
    await valkey.stop()


async def until_trusted(answers: Answers) -> None:
    """Returns once the epochs are known again; fails when that takes longer than is promised."""
    async with asyncio.timeout(BACK_SECONDS):
        while await answers.watch.stamp(("acme\0",)) is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


async def until_claimed(answers: Answers) -> None:
    """Returns once the store answers again; fails when that takes longer than is promised."""
    async with asyncio.timeout(BACK_SECONDS):
        while True:
            try:
                stamp = await answers.watch.stamp(("acme\0",))
                if stamp is not None:
                    assert (await answers.store.claim(await place_at(answers), "t", 1_000)).token == "t"
                    return
            except ValkeyAwayError:
                pass
            await asyncio.sleep(0.02)


def replicate(port: int, *whom: str) -> None:
    """Make a node a replica of another one, or a primary again."""
    command = ["redis-cli", "-p", str(port), "replicaof", *whom]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def refused(answers: Answers) -> None:
    """The store is away, and says so quickly."""
    place = await place_at(answers)
    started = time.monotonic()
    with pytest.raises(ValkeyAwayError):
        await answers.store.claim(place, "t", 1_000)
    assert time.monotonic() - started < PATIENCE_SECONDS


async def kept(answers: Answers, place: Place, token: str, body: bytes) -> bool:
    """Whether an answer that is stored is there then."""
    answers.store.keep(place, token, answers.made(place, body, "m"))
    entry = (await answers.store.follow(place, token, 0)).entry
    return entry is not None and entry.body == body


async def test_a_valkey_that_is_down_is_left_out_and_its_answers_with_it(
    answers: Answers, server: tuple[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port, process = server
    place = await place_at(answers)
    entry = answers.made(place, b"{}", "m")
    answers.hold(place, entry)
    process.kill()
    process.wait()
    with pytest.raises(ValkeyAwayError):
        await answers.store.claim(place, "t", 1_000)
    await asyncio.sleep(1.0)
    assert await answers.watch.stamp(place.fields) is None
    answers.keep(place, "t", entry)  # quietly nothing
    with redis_server(tmp_path, port=port):
        await until_trusted(answers)
        assert (await place_at(answers)).key != place.key  # what was held may be from before a change that was lost


async def test_a_frozen_valkey_costs_one_time_out(
    answers: Answers, server: tuple[int, subprocess.Popen[bytes]]
) -> None:
    place = await place_at(answers)
    server[1].send_signal(signal.SIGSTOP)
    await refused(answers)
    started = time.monotonic()
    for _ in range(100):
        answers.keep(place, "t", answers.made(place, b"{}", "m"))
    assert time.monotonic() - started < PATIENCE_SECONDS
    server[1].send_signal(signal.SIGCONT)
    await until_claimed(answers)


async def test_a_failover_to_a_read_only_node_is_over_once_there_is_a_primary(
    answers: Answers, server: tuple[int, subprocess.Popen[bytes]]
) -> None:
    place = await place_at(answers)
    replicate(server[0], "127.0.0.1", str(free_port()))
    with pytest.raises(ValkeyAwayError):
        await answers.store.claim(place, "t", 1_000)
    replicate(server[0], "no", "one")
    await until_claimed(answers)


async def test_an_evicted_answer_is_a_miss(answers: Answers) -> None:
    place = await place_at(answers)
    assert await kept(answers, place, "t", b"{}")
    assert (await answers.store.claim(place, "u", 1_000)).entry is not None
    await answers.valkey.call("DEL", place.key)
    assert (await answers.store.claim(place, "u", 1_000)).token == "u"


@pytest.mark.parametrize("value", [b"", b"garbage", b"\x00" * 200])
async def test_a_poisoned_answer_is_a_miss_and_is_replaced(answers: Answers, value: bytes) -> None:
    place = await place_at(answers)
    await answers.valkey.call("HSET", place.key, "v", value)
    claim = await answers.store.claim(place, "t", 1_000)
    assert (claim.entry, claim.token) == (None, "t")
    assert await kept(answers, place, "t", b"{}")
    assert (await answers.store.claim(place, "u", 1_000)).entry is not None


async def test_a_key_of_another_type_is_left_alone(answers: Answers) -> None:
    place = await place_at(answers)
    await answers.valkey.call("SET", place.key, "x")
    with pytest.raises(ValkeyAwayError):
        await answers.store.claim(place, "t", 1_000)
    assert answers.valkey.reachable


async def test_a_leader_that_was_replaced_cannot_write(answers: Answers) -> None:
    place = await place_at(answers)
    assert (await answers.store.claim(place, "old", 5_000)).token == "old"
    assert await answers.store.take_over(place, "old", "new", 5_000)
    assert not await answers.store.take_over(place, "old", "third", 5_000)
    assert not await answers.store.publish(place.key, "old", b"text")
    assert not await kept(answers, place, "old", b"old")
    await answers.store.release(place, "old", None)
    assert await kept(answers, place, "new", b"new")
    entry = (await answers.store.claim(place, "u", 1_000)).entry
    assert entry is not None
    assert entry.body == b"new"
