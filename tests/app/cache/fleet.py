"""Replicas as pipelines of one process, over one Valkey and one simulated OpenAI."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from app.keys import Identity
from app.pipeline import Call, Pipeline, Reply
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running
from tests.app.conftest import CloudParts
from tests.app.replica import made_up_openai_key, openai_secret


@dataclass
class Fleet:
    """Replicas as pipelines of one process, and the OpenAI behind them."""

    pipelines: list[Pipeline]
    services: list[Services]
    upstream: Running
    identity: Identity

    async def ask(
        self,
        replica: int,
        body: dict[str, Any],
        *,
        identity: Identity | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        call = Call(
            "/v1/responses",
            json.dumps({"model": "fast", **body}).encode(),
            identity or self.identity,
            f"req_{secrets.token_hex(8)}",
            {"content-type": "application/json", **(headers or {})},
        )
        return await self.pipelines[replica].run(call)

    async def booked(self) -> Counter[str]:
        """How many attempts and answers of each outcome the ledgers have of this fleet's tenant."""
        counts: Counter[str] = Counter()
        for ledger in (service.ledger for service in self.services):
            await ledger.flush()
            async for page in ledger.table.pages(ledger.book.boot):
                for entry in page.entries:
                    if entry.tenant == self.identity.tenant:
                        counts[entry.outcome] += entry.times
                        assert (entry.pico > 0) == (entry.outcome == "ok")
        return counts

    async def settle(self) -> None:
        for pipeline in self.pipelines:
            await pipeline.close()


@contextlib.asynccontextmanager
async def open_fleet(settings: Settings, cloud: CloudParts, upstream: Running, size: int) -> AsyncIterator[Fleet]:
    """So many replicas with a key at OpenAI, and a caller whose limits are far away."""
    settings = replace(settings, openai_secret_arn=openai_secret(cloud, made_up_openai_key()))
    tag = secrets.token_hex(6)
    identity = Identity(f"tenant-{tag}", tag, "test", "user", 100_000, 100_000_000)
    async with contextlib.AsyncExitStack() as stack:
        services = [await Services.start(settings) for _ in range(size)]
        pools = [
            await stack.enter_async_context(Upstream(upstream.base_url, connections=64, tcp_keep_alive_seconds=45))
            for _ in range(size)
        ]
        pipelines = [Pipeline(*parts) for parts in zip(services, pools, strict=True)]
        made = Fleet(pipelines, services, upstream, identity)
        yield made
        await made.settle()
        for service in services:
            await service.stop()


def state(reply: Reply) -> str:
    """What the cache says of an answer."""
    return dict(reply.headers)["x-prodkit-cache"]


async def text(reply: Reply) -> bytes:
    if isinstance(reply.body, bytes):
        return reply.body
    try:
        return b"".join([piece async for piece in reply.body])
    finally:
        await reply.body.aclose()
