"""OpenAI's own limits: three replicas use nearly all of them and are never refused by a simulator with real buckets."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import pytest

from app.errors import ApiError
from app.keys import MAX_RATE, Identity
from app.limits.upstream import USED_PERCENT
from app.observability.metrics import (
    LIMITER_CALLS,
    OPENAI_HEADROOM_PERCENT,
    QUEUED_REQUESTS,
    UPSTREAM_RATE_LIMITED,
)
from app.pipeline import Call, Pipeline
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts
from tests.app.replica import made_up_openai_key, openai_secret

pytestmark = pytest.mark.process

MODEL = "gpt-6-luna"
LIMIT = 900
LEARN_SECONDS = 2.0


@dataclass
class Replica:
    services: Services
    pipeline: Pipeline
    identity: Identity

    async def ask(self, wait: str = "wait=10") -> int:
        body = json.dumps({"model": MODEL, "input": secrets.token_hex(4), "max_output_tokens": 16}).encode()
        headers = {"content-type": "application/json", "cache-control": "no-store", "prefer": wait}
        try:
            reply = await self.pipeline.run(Call("/v1/responses", body, self.identity, "req_1", headers))
        except ApiError as error:
            return error.status
        return reply.status

    @property
    def learnt(self) -> int:
        """The limit of requests that this replica goes by."""
        return self.services.limiter._upstreams[MODEL].limits.requests


def skewed(seconds: float) -> float:
    return time.monotonic() + seconds


@asynccontextmanager
async def fleet(settings: Settings, cloud: CloudParts, simulator: Running, size: int) -> AsyncIterator[list[Replica]]:
    arn = openai_secret(cloud, made_up_openai_key())
    async with AsyncExitStack() as stack:
        found = []
        for number in range(size):
            own = replace(settings, openai_secret_arn=arn, openai_base_url=simulator.base_url)
            services = await Services.start(own)
            stack.push_async_callback(services.stop)
            # Each machine's monotonic clock began at another time.
            services.limiter.clock = partial(skewed, 3_600.0 * (number - 1))
            services.limiter._leases._clock = services.limiter.clock
            pool = await stack.enter_async_context(
                Upstream(own.openai_base_url, connections=64, tcp_keep_alive_seconds=45)
            )
            pipeline = Pipeline(services, pool)
            stack.push_async_callback(pipeline.close)
            identity = Identity("steered", secrets.token_hex(6), "test", "user", MAX_RATE, MAX_RATE)
            found.append(Replica(services, pipeline, identity))
        yield found


@pytest.fixture
def simulator() -> Iterator[Running]:
    with running(rpm=LIMIT, tpm=100_000_000) as started:
        yield started


@dataclass
class Demand:
    """Callers who never stop asking, and how much of the limit they got while they waited for it."""

    replicas: list[Replica]
    answered: int = 0
    seconds: float = 0.0
    """In which somebody waited at each replica that lives: what a machine that was too busy to ask would have got
    does not count."""

    async def keep_asking(self, replica: Replica) -> None:
        while True:
            status = await replica.ask()
            self.answered += status == 200

    async def all_wait(self) -> None:
        while not all(replica.services.limiter.waiting for replica in self.replicas):  # noqa: ASYNC110 - the limiter's own
            await asyncio.sleep(0.01)

    async def utilisation(self, answers: int) -> float:
        """The part of the limit that was used, over so many answers."""
        await self.all_wait()
        first, at = self.answered, time.monotonic()
        while self.answered < first + answers:
            wanted = all(replica.services.limiter.waiting for replica in self.replicas)
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.seconds += (now - at) * wanted
            at = now
        return (self.answered - first) / (self.seconds * LIMIT / 60)


async def test_three_replicas_use_the_limit_and_are_never_refused_though_one_dies(
    settings: Settings, cloud: CloudParts, simulator: Running
) -> None:
    async with fleet(settings, cloud, simulator, 3) as replicas, asyncio.timeout(90):
        assert await replicas[0].ask() == 200
        demand = Demand(replicas)
        tasks = [[asyncio.create_task(demand.keep_asking(replica)) for _ in range(12)] for replica in replicas]
        await demand.all_wait()
        for task in tasks[2]:
            task.cancel()  # it gives nothing back, as if it were gone
        replicas[2].services.limiter._leases._stopped = True
        demand.replicas = replicas[:2]
        assert await demand.utilisation(60) >= 0.95
        for task in (*tasks[0], *tasks[1]):
            task.cancel()
        await asyncio.wait([*tasks[0], *tasks[1]])
        assert sum(replica.services.limiter.upstream_refusals for replica in replicas) == 0
        told = replicas[0].services.metrics.gauges()
        assert told[QUEUED_REQUESTS] == 12
        assert told[LIMITER_CALLS] > 0
        assert 0 <= told[OPENAI_HEADROOM_PERCENT] <= 5
        assert UPSTREAM_RATE_LIMITED not in told


async def test_a_changed_limit_is_learnt_by_every_replica(
    settings: Settings, cloud: CloudParts, simulator: Running
) -> None:
    async with fleet(settings, cloud, simulator, 2) as replicas:
        for limit in (LIMIT, LIMIT // 3, 2 * LIMIT):
            simulator.limit(rpm=limit)
            until = time.monotonic() + LEARN_SECONDS
            while {replica.learnt if replica.services.limiter._upstreams else 0 for replica in replicas} != {
                limit * USED_PERCENT // 100
            }:
                assert time.monotonic() < until, limit
                assert [await replica.ask() for replica in replicas] == [200, 200]
                await asyncio.sleep(0.05)
