"""A gateway that takes requests in and a worker that works them off, in one process, over real sockets."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.deferred.queue import GatherOrder, JobOrder, read_message
from app.deferred.runner import Runner
from app.keys import Identity
from app.pipeline import Call, Pipeline
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts
from tests.app.replica import made_up_openai_key, openai_secret
from tests.patience import PATIENCE_SECONDS

DAY_SECONDS = 0.5
"""How long a day takes for the simulator's batches: one is done after a millisecond."""


@pytest.fixture(scope="session")
def _simulator() -> Iterator[Running]:
    with running(day_seconds=DAY_SECONDS) as simulator:
        yield simulator


@pytest.fixture
def simulator(request: pytest.FixtureRequest, _simulator: Running) -> Iterator[Running]:
    """The simulator, reset; or one of a test's own, with days as long as its parameter says."""
    if day_seconds := getattr(request, "param", None):
        with running(day_seconds=day_seconds) as own:
            yield own
    else:
        _simulator.reset()
        yield _simulator


@dataclass
class Yard:
    """A gateway, its worker's runner and the queue between them."""

    services: Services
    pipeline: Pipeline
    cloud: CloudParts
    identity: Identity
    worked: list[GatherOrder | JobOrder] = field(default_factory=list)

    async def send(
        self, body: dict[str, Any], path: str = "/v1/responses", deadline: str | None = "24h", **headers: str
    ) -> dict[str, Any]:
        """The answer to one request, as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if deadline is not None:
            named["x-prodkit-deadline"] = deadline
        call = Call(path, json.dumps(body).encode(), self.identity, f"req_{secrets.token_hex(4)}", named)
        reply = await self.pipeline.run(call)
        assert isinstance(reply.body, bytes)
        assert reply.status == (200 if deadline is None else 202)
        answer: dict[str, Any] = json.loads(reply.body)
        return answer

    async def look(self, name: str, tenant: str | None = None) -> dict[str, Any]:
        """How a request stands."""
        body, _ = await self.pipeline.desk.look(tenant or self.identity.tenant, name)
        found: dict[str, Any] = json.loads(body)
        return found

    async def messages(self, most: int = 10) -> list[tuple[str, str]]:
        """Body and receipt of the messages that are there now."""
        sqs, url = self.cloud.client("sqs"), self.services.settings.queue_url
        found = await asyncio.to_thread(sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=most, WaitTimeSeconds=0)
        return [(one["Body"], one["ReceiptHandle"]) for one in found.get("Messages", ())]

    async def work(self, until: Callable[[], Awaitable[bool]], runner: Runner | None = None) -> None:
        """Work off messages until something holds."""
        own = runner or Runner(self.services)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await until():
                    for body, receipt in await self.messages():
                        order = read_message(body)
                        assert order is not None
                        self.worked.append(order)
                        await own.run(order)
                        await self.delete(receipt)
                    await asyncio.sleep(0.01)
        finally:
            await own.close()

    async def delete(self, receipt: str) -> None:
        """A message was worked off."""
        sqs, url = self.cloud.client("sqs"), self.services.settings.queue_url
        await asyncio.to_thread(sqs.delete_message, QueueUrl=url, ReceiptHandle=receipt)

    def over(self, *names: str) -> Callable[[], Awaitable[bool]]:
        """Whether requests are no longer open."""

        async def condition() -> bool:
            found = [await self.look(name) for name in names]
            return all(one["status"] not in ("queued", "in_progress") for one in found)

        return condition

    async def spent_pico(self, tenant: str | None = None) -> int:
        """What a tenant was charged."""
        await self.pipeline.close()
        return await self.services.ledger.month(tenant or self.identity.tenant)


@pytest.fixture
def yard_settings(settings: Settings, cloud: CloudParts, simulator: Running) -> Settings:
    """Settings with a queue, a table and a key of their own, and no time for gathering."""
    table = secrets.token_hex(8)
    cloud.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    queue = cloud.client("sqs").create_queue(QueueName=secrets.token_hex(8))["QueueUrl"]
    return replace(
        settings,
        openai_secret_arn=openai_secret(cloud, made_up_openai_key()),
        openai_base_url=simulator.base_url,
        queue_url=queue,
        state_table=table,
        defer_collect_seconds=0,
    )


@pytest.fixture
async def yard(yard_settings: Settings, cloud: CloudParts) -> AsyncIterator[Yard]:
    """A yard of a new tenant."""
    services = await Services.start(yard_settings)
    tag = secrets.token_hex(4)
    identity = Identity(f"tenant-{tag}", tag, "test", "user", 600, 100_000)
    async with Upstream(yard_settings.openai_base_url, connections=8, tcp_keep_alive_seconds=45) as pool:
        pipeline = Pipeline(services, pool)
        yield Yard(services, pipeline, cloud, identity)
        await pipeline.close()
    await services.stop()
