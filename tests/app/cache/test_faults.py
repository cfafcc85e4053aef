"""A Valkey that is down, and a leader that was replaced; `tests/app/faults` has the rest."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.aws import Aws
from app.cache.answers import Answers
from app.cache.scripts import SCRIPTS
from app.settings import Settings
from app.valkey.client import Valkey, ValkeyAwayError
from tests.app.cache.conftest import MakeReplica, kept, place_at
from tests.app.conftest import redis_server

pytestmark = pytest.mark.process

BACK_SECONDS = 10.0  # 5 promised, on a machine that does other things as well


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Valkey of this test alone."""
    with redis_server(tmp_path) as (port, process):
        yield port, process


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


async def test_a_leader_that_was_replaced_cannot_write(make_replica: MakeReplica) -> None:
    answers = await make_replica()
    place = await place_at(answers, "acme", secrets.token_hex(4))
    assert (await answers.store.claim(place, "old", 5_000)).token == "old"
    assert await answers.store.take_over(place, "old", "new", 5_000)
    assert not await answers.store.take_over(place, "old", "third", 5_000)
    assert not await answers.store.publish(place.key, "old", b"text", 0)
    assert not await kept(answers, place, "old", b"old")
    await answers.store.release(place, "old", None)
    assert await kept(answers, place, "new", b"new")
    entry = (await answers.store.claim(place, "u", 1_000)).entry
    assert entry is not None
    assert entry.body == b"new"
