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


async def test_three_replicas_use_the_limit_and_are_never_refused_though_one_dies(
    settings: Settings, cloud: CloudParts, simulator: Running
) -> None:
    async with fleet(settings, cloud, simulator, 3) as replicas:
        assert await replicas[0].ask() == 200
        answered: list[float] = []
        ends = time.monotonic() + 9

        async def keep_asking(replica: Replica) -> None:
            while time.monotonic() < ends:
                if await replica.ask() == 200:
                    answered.append(time.monotonic())

        tasks = [[asyncio.create_task(keep_asking(replica)) for _ in range(12)] for replica in replicas]
        await asyncio.sleep(4)
        for task in tasks[2]:
            task.cancel()  # it gives nothing back, as if it were gone
        replicas[2].services.limiter._leases._stopped = True
        await asyncio.gather(*tasks[0], *tasks[1])
        assert sum(replica.services.limiter.upstream_refusals for replica in replicas) == 0
        window = [at for at in answered if at > ends - 4]
        assert len(window) >= 0.95 * LIMIT / 60 * 4


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
