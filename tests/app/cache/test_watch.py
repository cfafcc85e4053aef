"""Epochs over a real Valkey: what is invalidated is gone on every replica before it is said to be."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from app.aws import Aws
from app.cache.answers import Answers
from app.cache.epochs import LEASE_SECONDS, TRUSTED_SECONDS
from app.cache.scripts import EPOCHS, EVENTS, REPLICAS, SCRIPTS
from app.errors import ApiError
from app.settings import Settings
from app.valkey.client import Valkey
from tests.app.cache.conftest import MakeReplica, place_at
from tests.app.conftest import free_port
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


async def test_an_invalidation_is_seen_everywhere_before_it_is_acknowledged(make_replica: MakeReplica) -> None:
    one, two, three = [await make_replica() for _ in range(3)]
    for _ in range(20):
        before = [(await place_at(answers, "acme", "hi", "documents")).key for answers in (one, two, three)]
        assert len(set(before)) == 1
        await two.watch.invalidate("acme", "documents")
        after = {(await place_at(answers, "acme", "hi", "documents")).key for answers in (one, two, three)}
        assert len(after) == 1
        assert after.isdisjoint(before)


async def test_an_invalidation_of_a_live_fleet_does_not_wait_for_a_lease(make_replica: MakeReplica) -> None:
    replicas = [await make_replica() for _ in range(3)]
    await replicas[0].watch.invalidate("acme")  # whoever died in an earlier test is waited for and forgotten here
    started = time.monotonic()
    for _ in range(10):
        await replicas[0].watch.invalidate("acme", "documents")
    assert time.monotonic() - started < 10 * LEASE_SECONDS / 2


async def test_a_tag_and_a_tenant_are_invalidated_alone(make_replica: MakeReplica) -> None:
    answers = await make_replica()

    async def keys() -> list[str]:
        asked = [("acme", ()), ("acme", ("a",)), ("acme", ("a", "b")), ("acme", ("b",)), ("globex", ("a",))]
        return [(await place_at(answers, tenant, "hi", *tags)).key for tenant, tags in asked]

    before = await keys()
    await answers.watch.invalidate("acme", "a")
    after = await keys()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False, True, True]
    await answers.watch.invalidate("acme")
    everything = await keys()
    assert [one == other for one, other in zip(after, everything, strict=True)] == [False, False, False, False, True]


async def hang(answers: Answers) -> None:
    """As a process that is stopped: it neither reads nor says goodbye."""
    assert answers.watch._task is not None
    answers.watch._stopping = True
    await asyncio.wait([answers.watch._task])


async def test_a_replica_that_hangs_delays_an_invalidation_by_its_lease_and_trusts_nothing_after(
    make_replica: MakeReplica,
) -> None:
    alive, hangs = await make_replica(), await make_replica()
    await alive.watch.invalidate("acme")
    place = await place_at(hangs)
    await hang(hangs)
    started = time.monotonic()
    await alive.watch.invalidate("acme")
    assert time.monotonic() - started >= TRUSTED_SECONDS - 0.3  # it may have renewed up to a block before
    assert hangs.watch.epochs.stamp(place.fields, time.monotonic()) is None
    started = time.monotonic()
    await alive.watch.invalidate("acme")
    assert time.monotonic() - started < LEASE_SECONDS  # it is waited for once
    assert await hangs.watch.stamp(place.fields) != place.stamp  # asked again later, it learns what it missed


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_replica_that_comes_back_after_a_pause_learns_what_it_missed(
    make_replica: MakeReplica, forgotten: bool
) -> None:
    alive, paused = await make_replica(), await make_replica()
    before = await place_at(paused)
    await hang(paused)
    await alive.watch.invalidate("acme")
    if forgotten:  # as after thousands more
        await alive.watch.invalidate("globex")
        await alive.valkey.call("XTRIM", EVENTS, "MAXLEN", "1")
    paused.watch._stopping = False
    paused.watch._task = asyncio.create_task(paused.watch._run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await paused.watch.stamp(before.fields) is None:  # noqa: ASYNC110 - it learns by polling itself
            await asyncio.sleep(0.01)
    assert (await place_at(paused)).key == (await place_at(alive)).key != before.key


@pytest.mark.parametrize("lost", [(EPOCHS,), (EVENTS,), (REPLICAS,), (EPOCHS, EVENTS, REPLICAS)])
async def test_what_valkey_loses_makes_no_old_answer_reachable(
    make_replica: MakeReplica, lost: tuple[str, ...]
) -> None:
    one, two = await make_replica(), await make_replica()
    old = (await place_at(one)).key
    await one.watch.invalidate("acme")
    await one.valkey.client.delete(*lost)
    await asyncio.sleep(0.6)  # two rounds of both
    assert (await place_at(one)).key == (await place_at(two)).key != old
    three = await make_replica()
    async with asyncio.timeout(LEASE_SECONDS):  # what the newcomer began anew, the others hear of
        while (await place_at(three)).key != (await place_at(one)).key:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert (await place_at(one)).key != old
    before = (await place_at(two)).key
    await two.watch.invalidate("acme")
    assert before not in {(await place_at(answers)).key for answers in (one, two, three)}


async def test_without_valkey_nothing_is_trusted_and_an_invalidation_is_refused(settings: Settings, aws: Aws) -> None:
    valkey = Valkey(replace(settings, cache_port=free_port()), aws, max_connections=8, scripts=SCRIPTS)
    await valkey.start()
    answers = Answers(valkey, 1 << 20)
    await answers.watch.start()
    assert await answers.watch.stamp(("acme\0",)) is None
    with pytest.raises(ApiError, match="send the request again"):
        await answers.watch.invalidate("acme")
    await answers.watch.stop()
    await valkey.stop()
