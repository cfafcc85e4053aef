"""Replicas of the gateway on a real Valkey that freezes, dies, fails over, forgets and is full."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from app.errors import ApiError
from app.keys import Identity
from app.settings import Settings
from app.valkey.client import ValkeyAwayError
from local.openai.server import Running, running
from tests.app.cache.conftest import kept, place_at
from tests.app.cache.fleet import Fleet, open_fleet, state
from tests.app.conftest import CloudParts
from tests.app.faults.valkeys import CLUSTER, SINGLE, Valkeys, valkeys

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed"),
]

PATIENCE_SECONDS = 2.0  # 0.2 promised for an operation, on a machine that does other things as well
BACK_SECONDS = 10.0  # 5 promised, likewise
LEASE_SECONDS = 1.0
MODEL = "gpt-6-luna"
PER_MINUTE, MOST = 60, 300
KEPT = {"input": "What is kept?"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture(params=[SINGLE, CLUSTER])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Valkeys]:
    async with valkeys(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def fleet(nodes: Valkeys, settings: Settings, cloud: CloudParts, upstream: Running) -> AsyncIterator[Fleet]:
    upstream.reset()
    settings = replace(settings, cache_port=nodes.address.port, cache_mode=nodes.mode)
    async with open_fleet(settings, cloud, upstream, 2) as made:
        yield made


def key() -> Identity:
    return Identity(f"tenant-{secrets.token_hex(4)}", secrets.token_hex(4), "test", "user", PER_MINUTE, 10_000_000)


@dataclass
class Granted:
    """What the replicas together let a new key do, and what one bucket would have."""

    fleet: Fleet
    identity: Identity = field(default_factory=key)
    began: float = field(default_factory=time.monotonic)
    times: int = 0
    shared: int = 0
    alone: int = 0
    unknowing: int = 0
    """Granted alone before every replica had heard what is left: to a busy machine Valkey may seem away."""

    async def more(self) -> int:
        """How many calls they let it make at this moment; asserts that these were not too many."""
        shared, alone = self.shared, self.alone
        for services in self.fleet.services:
            for _ in range(MOST):
                began = time.monotonic()
                try:
                    grant = await services.limiter.reserve(self.identity, MODEL, 1)
                except ApiError:
                    break
                finally:
                    assert time.monotonic() - began < PATIENCE_SECONDS
                self.shared += grant.shared
                self.alone += not grant.shared
        self.times += 1
        if self.times == 1:
            self.unknowing = self.alone
        replicas = len(self.fleet.services)
        bucket = PER_MINUTE + PER_MINUTE / 60 * (time.monotonic() - self.began) + replicas
        beyond = min(self.unknowing, (replicas - 1) * PER_MINUTE // replicas) if self.shared else 0
        assert self.shared <= bucket
        assert self.shared + self.alone <= bucket + beyond
        return self.shared + self.alone - shared - alone


async def ask_anew(fleet: Fleet, replica: int) -> str:
    """What the cache says to a question that nobody has asked before; it is answered, and in time."""
    began = time.monotonic()
    reply = await fleet.ask(replica, {"input": secrets.token_hex(4)})
    assert reply.status == 200
    assert time.monotonic() - began < PATIENCE_SECONDS
    return state(reply)


async def until_back(fleet: Fleet) -> int:
    """Returns, once every replica uses Valkey for answers and for limits again, how many questions that took."""
    asked = 0
    async with asyncio.timeout(BACK_SECONDS):
        for replica, services in enumerate(fleet.services):
            asked += 1
            while (await ask_anew(fleet, replica)) != "miss" or not (
                await services.limiter.reserve(key(), MODEL, 1)
            ).shared:
                asked += 1
                await asyncio.sleep(0.02)
    return asked


async def test_whatever_becomes_of_valkey_calls_are_answered_limits_hold_and_it_is_soon_used_again(
    fleet: Fleet, nodes: Valkeys, upstream: Running
) -> None:
    limited, asked = Granted(fleet), 1
    assert await limited.more() >= PER_MINUTE or limited.alone
    assert [state(await fleet.ask(replica, KEPT)) for replica in (0, 1)] == ["miss", "hit"]
    for fault, mend in (
        (nodes.primary.freeze, nodes.primary.thaw),
        (nodes.primary.freeze, nodes.promote),
        (nodes.copy.kill, None),
    ):
        fault()
        asked += len([await ask_anew(fleet, replica) for replica in (0, 1)])
        await limited.more()
        await asyncio.sleep(LEASE_SECONDS)
        assert [state(await fleet.ask(replica, KEPT)) for replica in (0, 1)] == ["bypass"] * 2
        asked += 2
        assert await Granted(fleet).more() > 0
        if mend is not None:
            mend()
            asked += await until_back(fleet)
            await limited.more()
            assert [state(await fleet.ask(replica, KEPT)) for replica in (0, 1)] == ["hit"] * 2
    assert len(upstream.requests()) == asked  # each was paid for once


async def test_a_change_that_was_acknowledged_holds_though_a_failover_lost_it(fleet: Fleet, nodes: Valkeys) -> None:
    old = await fleet.ask(0, KEPT)
    await fleet.settle()
    assert (await fleet.ask(1, KEPT)).body == old.body
    nodes.cut_off_the_copy()
    await fleet.services[0].cache.watch.invalidate(fleet.identity.tenant)
    nodes.primary.kill()
    nodes.copy.thaw()
    nodes.promote()
    known_until = time.monotonic() + 2 * LEASE_SECONDS  # longer than a replica goes by what it has heard itself
    states: list[str] = []
    async with asyncio.timeout(BACK_SECONDS):
        while states != ["hit", "hit"] or time.monotonic() < known_until:
            replies = [await fleet.ask(replica, KEPT) for replica in (0, 1)]
            assert old.body not in {reply.body for reply in replies}
            states = [state(reply) for reply in replies]
            await asyncio.sleep(0.02)


async def test_a_full_valkey_evicts_answers_and_nothing_else_and_a_limit_is_never_lifted(
    fleet: Fleet, nodes: Valkeys
) -> None:
    answers, valkey, limited = fleet.services[0].cache, fleet.services[0].valkey, Granted(fleet)
    used = int(nodes.primary.cli("info", "memory").partition("used_memory:")[2].split()[0])
    for setting in (("maxmemory", str(used + (2 << 20))), ("maxmemory-policy", "volatile-lru")):
        nodes.primary.cli("config", "set", *setting)
    assert await limited.more() >= PER_MINUTE or limited.alone
    places = [await place_at(answers, "acme", str(number)) for number in range(400)]
    # Which answer goes is Valkey's guess: now and then it is the newest.
    assert sum([await kept(answers, place, "t", bytes(16_384)) for place in places]) > 300
    assert "evicted_keys:0\r" not in nodes.primary.cli("info", "stats")
    claims = [await answers.store.claim(place, "u", 1) for place in places]
    assert any(claim.entry is not None for claim in claims)
    assert {claim.token for claim in claims if claim.entry is None} == {"u"}
    assert {place.stamp for place in places} == {(await place_at(answers, "acme", "0")).stamp}
    await asyncio.sleep(0.1)
    await limited.more()
    with contextlib.suppress(ValkeyAwayError):
        for number in range(1_000):
            await valkey.call("SET", f"for good {number}", bytes(16_384))
    assert number < 900
    await limited.more()
    assert await Granted(fleet).more() > 0
    assert [await ask_anew(fleet, replica) for replica in (0, 1)]
