"""Minutes of load on replicas of the real limiter, in no time: predictions come true and nobody is pushed aside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from app.errors import ApiError
from app.keys import Identity
from app.limits import Caller, Limiter, Limits, Policy, TenantPolicy
from app.limits.queue import FairQueue, Waiter
from tests.app.limits.server import FakeValkey, Server, VirtualLoop

T = TypeVar("T")
MODEL = "gpt-6-luna"
PER_SECOND = 10
POLICY = Policy(
    Limits(0, 0),
    models={MODEL: Limits(requests=60 * PER_SECOND)},
    tenants={"heavy": TenantPolicy(weight=3)},
)


@dataclass
class Load:
    """Replicas under load, and what became of every call."""

    policy: Policy = POLICY
    replicas: int = 1
    waits: dict[str, list[float]] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    asked: int = 0
    refused: int = 0

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        server = Server()
        self.limiters = [
            Limiter(
                FakeValkey(server, loop.time),  # type: ignore[arg-type]
                lambda: self.policy,
                max_local_keys=100,
                clock=loop.time,
                max_waiting=100_000,
            )
            for _ in range(self.replicas)
        ]
        await work()
        for limiter in self.limiters:
            await limiter.stop()

    async def call(self, replica: int, tenant: str, latest: float = 60.0, priority: str = "interactive") -> None:
        limiter = self.limiters[replica % self.replicas]
        identity = Identity(tenant, tenant, "test", "user", None, None)
        caller = Caller(tenant, priority, limiter.clock() + latest)
        self.asked += 1
        try:
            grant = await limiter.reserve(identity, MODEL, 1, caller)
        except ApiError:
            self.refused += 1
            return
        self.waits.setdefault(f"{tenant} {priority}", []).append(grant.waited)

    async def use_up(self) -> None:
        """Take what a quiet minute has saved."""
        for _ in range(60 * PER_SECOND):
            await self.call(0, "warm")


def simulate(load: Load, work: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(load.run(work))


async def arrive(load: Load, chance: random.Random, rate: float, seconds: float, tenant: str, priority: str) -> None:
    """Calls at random times, `rate` a second, each to any replica."""
    calls = []
    ends = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends:
        await asyncio.sleep(chance.expovariate(rate))
        calls.append(asyncio.create_task(load.call(chance.randrange(load.replicas), tenant, 30.0, priority)))
    await asyncio.gather(*calls)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


class Watched(FairQueue):
    """A queue that remembers what was predicted and what came."""

    seen: list[tuple[Waiter, float, list[float]]]

    def push(self, waiter: Waiter, cost: float) -> None:
        super().push(waiter, cost)
        loop = asyncio.get_running_loop()
        began, served = loop.time(), list[float]()
        waiter.turn.add_done_callback(lambda _: served.append(loop.time() - began))
        self.seen.append((waiter, began, served))


def wait_errors(replicas: int) -> tuple[float, int]:
    """The p90 of the relative error of predicted waits at 1.3 times the limit, and how many waited for two seconds."""
    Watched.seen = []
    load = Load(replicas=replicas)
    chance = random.Random(7)

    async def work() -> None:
        for limiter in load.limiters:
            for scope in limiter._chain(Identity("t", "t", "", "user", None, None), MODEL).scopes:
                scope.queue = Watched()
        await load.use_up()
        await arrive(load, chance, 1.3 * PER_SECOND, 180.0, "t", "interactive")

    simulate(load, work)
    pairs = [(waiter.wait, took[0]) for waiter, _, took in Watched.seen if waiter.served and took[0] > 2]
    return percentile([abs(wait - took) / took for wait, took in pairs], 0.9), len(pairs)


@pytest.mark.parametrize(("replicas", "most"), [(1, 0.10), (3, 0.15)])
def test_a_predicted_wait_comes_true(replicas: int, most: float) -> None:
    error, count = wait_errors(replicas)
    assert count > 1_000
    assert error <= most


@dataclass(frozen=True)
class Flood:
    """The p95 wait of interactive calls at 0.7 of the limit, how many they were, and calls that never ended."""

    p95: float
    count: int
    lost: int


def flood(times: float) -> Flood:
    """A minute on two replicas, with so many times the limit of background calls beside."""
    load = Load(replicas=2)
    chance = random.Random(11)

    async def work() -> None:
        await load.use_up()
        flows = [arrive(load, chance, 0.7 * PER_SECOND, 60.0, "people", "interactive")]
        if times:
            flows.append(arrive(load, chance, times * PER_SECOND, 60.0, "jobs", "background"))
        await asyncio.gather(*flows)

    simulate(load, work)
    waits = load.waits["people interactive"]
    return Flood(percentile(waits, 0.95), len(waits), load.asked - load.refused - sum(map(len, load.waits.values())))


def test_interactive_calls_notice_nothing_of_a_flood_of_background_work_and_none_is_lost() -> None:
    quiet, busy = flood(0.0), flood(5.0)
    assert quiet.count > 350
    assert busy.count > 350
    assert busy.p95 <= quiet.p95 + 0.05
    assert busy.lost == 0


def test_tenants_share_by_their_weights_while_both_wait() -> None:
    load = Load(replicas=2)

    async def work() -> None:
        await load.use_up()
        calls = [
            asyncio.create_task(load.call(number, tenant, 600.0))
            for number in range(600)
            for tenant in ("light", "heavy")
        ]
        await asyncio.sleep(60)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    simulate(load, work)
    assert 2.7 <= len(load.waits["heavy interactive"]) / len(load.waits["light interactive"]) <= 3.3


def calls_per_request() -> float:
    """Lease calls to Valkey in ten seconds at a thousand requests a second, of eight keys of two tenants."""
    load = Load(Policy(Limits(1_000_000, 1_000_000_000)))
    calls = 0

    async def work() -> None:
        nonlocal calls
        limiter = load.limiters[0]
        identities = [Identity(f"t{number % 2}", str(number), "", "user", None, None) for number in range(8)]
        for number in range(10_000):
            limiter.settle(await limiter.reserve(identities[number % 8], MODEL, 1_000), 300)
            await asyncio.sleep(0.001)
        calls = limiter.calls

    simulate(load, work)
    return calls / 10_000


def test_limits_cost_less_than_one_call_to_valkey_per_hundred_requests_at_load() -> None:
    assert 0 < calls_per_request() <= 0.01
