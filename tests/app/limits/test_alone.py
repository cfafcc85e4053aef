"""Replicas that find Valkey away: how much they grant together beyond a limit, and that they owe it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.errors import ApiError
from app.keys import Identity
from app.limits import Limiter, Limits, Policy
from app.valkey.client import ValkeyAwayError
from tests.app.limits.server import FakeValkey, Server, VirtualLoop

MODEL = "gpt-6-luna"
PER_MINUTE = 60
KNOWN, LIMITED = (Identity(name, name, "test", "user", PER_MINUTE, None) for name in ("known", "limited"))


class LostValkey(FakeValkey):
    """A client whose server may be gone, for this replica alone."""

    async def call(self, *command: Any) -> list[str]:
        if not self.reachable:
            raise ValkeyAwayError
        return await super().call(*command)


class Replica:
    """One limiter and its client."""

    def __init__(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        self.valkey = LostValkey(server, loop.time)
        policy = Policy(Limits(0, 0))
        self.limiter = Limiter(self.valkey, lambda: policy, max_local_keys=100, clock=loop.time)  # type: ignore[arg-type]

    async def grants(self, identity: Identity, most: int = 10 * PER_MINUTE) -> int:
        """How many calls of a key go now."""
        for found in range(most):
            try:
                await self.limiter.reserve(identity, MODEL, 1)
            except ApiError:
                return found
        return most


def on(replicas: int, work: Callable[[list[Replica]], Awaitable[None]]) -> None:
    """Run `work` with so many replicas, in no time."""

    async def run() -> None:
        server = Server()
        made = [Replica(server) for _ in range(replicas)]
        await work(made)
        for replica in made:
            await replica.limiter.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


async def meet(replicas: list[Replica]) -> None:
    """All use one key for a while, as replicas behind a load balancer do, and so know of each other."""
    for _ in range(30):
        for replica in replicas:
            await replica.grants(KNOWN, 1)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("replicas", [2, 3, 5, 10])
def test_replicas_that_lose_valkey_grant_less_than_twice_a_limit_that_none_of_them_but_one_has_asked_for(
    replicas: int,
) -> None:
    async def work(all_of_them: list[Replica]) -> None:
        await meet(all_of_them)
        first, *others = all_of_them
        assert await first.grants(LIMITED) == PER_MINUTE
        for replica in others:
            replica.valkey.reachable = False
        # Each believes that all is there, takes its share of it, and no more.
        assert [await replica.grants(LIMITED) for replica in others] == [PER_MINUTE // replicas] * len(others)
        for replica in others:
            replica.valkey.reachable = True
        await asyncio.sleep(2.0)
        # What was too much is owed: nobody gets anything until it has flown in.
        owed = len(others) * (PER_MINUTE // replicas)
        assert [await replica.grants(LIMITED) for replica in all_of_them] == [0] * replicas
        await asyncio.sleep((owed - 4) * 60 / PER_MINUTE)
        assert [await replica.grants(LIMITED) for replica in all_of_them] == [0] * replicas
        await asyncio.sleep(12 * 60 / PER_MINUTE)
        assert 8 <= sum([await replica.grants(LIMITED) for replica in all_of_them]) <= 12

    on(replicas, work)


def test_replicas_that_have_never_reached_valkey_take_a_half_each() -> None:
    async def work(all_of_them: list[Replica]) -> None:
        for replica in all_of_them:
            replica.valkey.reachable = False
        assert [await replica.grants(LIMITED) for replica in all_of_them] == [PER_MINUTE // 2] * 3

    on(3, work)


def test_a_replica_that_knows_what_was_left_takes_its_part_of_that() -> None:
    async def work(all_of_them: list[Replica]) -> None:
        first, other = all_of_them
        assert await first.grants(LIMITED, 40) == 40
        assert await other.grants(LIMITED, 1) == 1
        left = PER_MINUTE - 41
        for replica in all_of_them:
            replica.valkey.reachable = False
        assert 0 < sum([await replica.grants(LIMITED) for replica in all_of_them]) <= left + 1

    on(2, work)
