"""A gateway in this process between real services and a simulator that breaks on command, on a clock of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from app.errors import ApiError
from app.keys import Identity
from app.models import Models, Usage, default_document
from app.observability.metrics import Metrics
from app.pipeline import Call, Pipeline, Reply
from app.resilience import Resilience
from app.services import Services
from app.settings import Settings
from app.upstream import sse
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts
from tests.app.replica import made_up_openai_key, openai_secret

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
MOST_SECONDS = 25.0
"""For any answer, whatever the fault: less than what the faults themselves last (30 s)."""
FAST, OTHER = "gpt-6-luna", "gpt-6.1-terra"


@dataclass
class Time:
    """A clock that moves when told, and when somebody sleeps on it, which takes no time."""

    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class Outcome:
    """What a caller got."""

    status: int
    code: str | None
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON events of a streamed answer."""
        data = (sse.read(raw).data for raw in sse.Splitter().feed(self.body))
        return [orjson.loads(each) for each in data if each and each != b"[DONE]"]

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


@dataclass
class Gateway:
    """A pipeline, what it counted, and the simulator behind it."""

    services: Services
    pipeline: Pipeline
    identity: Identity
    upstream: Running
    counted: Counter[str]
    time: Time

    async def reply(self, path: str = RESPONSES, **fields: Any) -> Reply:
        """The pipeline's reply to a question nobody has asked before; raises its refusals."""
        content = "input" if path == RESPONSES else "messages"
        question = f"Tell me about {secrets.token_hex(4)}"
        asked = question if path == RESPONSES else [{"role": "user", "content": question}]
        body = {"model": "fast", "max_output_tokens" if path == RESPONSES else "max_tokens": 400, content: asked}
        headers = {"content-type": "application/json"}
        call = Call(path, json.dumps(body | fields).encode(), self.identity, f"req_{secrets.token_hex(4)}", headers)
        return await self.pipeline.run(call)

    async def ask(self, path: str = RESPONSES, **fields: Any) -> Outcome:
        """What the caller of such a question gets, a stream read to its end."""
        async with asyncio.timeout(MOST_SECONDS):
            try:
                reply = await self.reply(path, **fields)
            except ApiError as error:
                return Outcome(error.status, error.code, dict(error.headers), error.body())
            body = reply.body if isinstance(reply.body, bytes) else b"".join([piece async for piece in reply.body])
        code = orjson.loads(body)["error"]["code"] if reply.status >= 400 else None
        return Outcome(reply.status, code, dict(reply.headers), body)

    async def calls(self) -> list[dict[str, Any]]:
        """What OpenAI was asked, once nothing is in flight."""
        return await asyncio.to_thread(self.upstream.requests)

    async def answered_pico(self) -> int:
        """What the answers that OpenAI gave cost."""
        calls = await self.calls()
        return sum(
            self.services.models.current.resolve(call["model"], "text").price.cost_pico(
                Usage(call["input_tokens"], call["cached_tokens"], 0, call["output_tokens"])
            )
            for call in calls
            if call["outcome"] == "answered"
        )

    async def spent_pico(self) -> int:
        await self.pipeline.close()
        return await self.services.ledger.month(self.identity.tenant)

    def cost_pico(self, model: str, input_tokens: int, output_tokens: int) -> int:
        usage = Usage(input_tokens, 0, 0, output_tokens)
        return self.services.models.current.resolve(model, "text").price.cost_pico(usage)

    def change_model(self, name: str = FAST, **fields: Any) -> None:
        """Other properties of a model than the document in the image gives it."""
        models = self.services.models.current
        models._models[name] = replace(models._models[name], **fields)


@pytest.fixture(scope="session")
def simulator() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.fixture
def task_settings(settings: Settings, cloud: CloudParts) -> Settings:
    """Settings of a task that has an OpenAI key."""
    return replace(settings, openai_secret_arn=openai_secret(cloud, made_up_openai_key()))


@pytest.fixture
async def gateway(
    task_settings: Settings, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """A gateway that has seen nothing yet; its models have no fallback and no bound for the first token."""
    simulator.reset()
    counted: Counter[str] = Counter()
    count = Metrics.count

    def counting(self: Metrics, name: str, value: float = 1) -> None:
        counted[name] += int(value)
        count(self, name, value)

    monkeypatch.setattr(Metrics, "count", counting)
    services = await Services.start(task_settings)
    services.limiter.address = secrets.token_hex(8)  # what OpenAI told in another test is no limit of this one
    document = default_document()
    del document["limits"]["first_token_timeout_seconds"]
    for model in document["models"].values():
        model.pop("fallback", None)
    services.models.current = Models(document)
    tag = secrets.token_hex(4)
    identity = Identity(f"tenant-{tag}", tag, "test", "user", 100_000, 10_000_000)
    time = Time()
    resilience = Resilience(services.metrics, clock=time, chance=lambda: 0.5, sleep=time.sleep)
    async with Upstream(simulator.base_url, connections=64, tcp_keep_alive_seconds=45) as pool:
        pipeline = Pipeline(services, pool, resilience)
        yield Gateway(services, pipeline, identity, simulator, counted, time)
        await pipeline.close()
    await services.stop()
