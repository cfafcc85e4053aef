"""Accounts come out right, whatever way a call ends: real services, simulated OpenAI, one process."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.errors import ApiError
from app.keys import Identity
from app.pipeline import Call, Pipeline, Reply
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts, wait_until
from tests.app.replica import made_up_openai_key, openai_secret

pytestmark = pytest.mark.process

TOKENS_PER_MINUTE = 1_000  # refills 17 a second: far from what a test uses


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@dataclass
class Gateway:
    """A pipeline with its services."""

    services: Services
    pipeline: Pipeline
    identity: Identity

    async def run(self, endpoint: str, body: dict[str, Any], identity: Identity | None = None) -> Reply:
        headers = {"content-type": "application/json"}
        call = Call(
            endpoint, json.dumps(body).encode(), identity or self.identity, f"req_{secrets.token_hex(4)}", headers
        )
        return await self.pipeline.run(call)

    async def tokens_left(self) -> int:
        """Tokens of the key's bucket, once everything is settled."""
        await self.pipeline.close()
        grant = await self.services.limiter.reserve(self.identity, "gpt-6-luna", 0)
        return int(grant.headers["x-ratelimit-remaining-tokens"])

    async def spent_pico(self) -> int:
        await self.pipeline.close()
        return await self.services.ledger.month(self.identity.tenant)


@pytest.fixture
async def gateway(settings: Settings, cloud: CloudParts, upstream: Running) -> AsyncIterator[Gateway]:
    upstream.reset()
    arn = openai_secret(cloud, made_up_openai_key())
    services = await Services.start(replace(settings, openai_secret_arn=arn))
    services.limiter.address = secrets.token_hex(8)  # what OpenAI told in another test is no limit of this one
    tag = secrets.token_hex(4)
    identity = Identity(f"tenant-{tag}", tag, "test", "user", 600, TOKENS_PER_MINUTE)
    async with Upstream(upstream.base_url, connections=8, tcp_keep_alive_seconds=45) as pool:
        pipeline = Pipeline(services, pool)
        yield Gateway(services, pipeline, identity)
        await pipeline.close()
    await services.stop()


async def read(reply: Reply) -> bytes:
    assert not isinstance(reply.body, bytes)
    return b"".join([piece async for piece in reply.body])


def usage_cost(gateway: Gateway, usage: dict[str, Any]) -> int:
    price = gateway.services.models.current.resolve("fast", "text").price
    cached = usage["input_tokens_details"]["cached_tokens"]
    written = usage["input_tokens_details"]["cache_write_tokens"]
    plain = usage["input_tokens"] - cached - written
    paid = plain * price.input + cached * price.cached_input + written * price.cache_write
    return int(paid + usage["output_tokens"] * price.output)


async def test_a_whole_answer_is_charged_by_its_usage_and_the_rest_given_back(gateway: Gateway) -> None:
    reply = await gateway.run("/v1/responses", {"model": "fast", "input": "hello", "max_output_tokens": 800})
    assert isinstance(reply.body, bytes)
    usage = json.loads(reply.body)["usage"]
    assert await gateway.spent_pico() == usage_cost(gateway, usage)
    assert await gateway.tokens_left() >= TOKENS_PER_MINUTE - usage["total_tokens"]


async def test_a_stream_is_charged_the_same_way(gateway: Gateway) -> None:
    body = {"model": "fast", "input": "hello", "max_output_tokens": 800, "stream": True}
    events = (await read(await gateway.run("/v1/responses", body))).split(b"\n\n")
    last = json.loads(events[-2].partition(b"data: ")[2])
    assert last["type"] == "response.completed"
    assert await gateway.spent_pico() == usage_cost(gateway, last["response"]["usage"])
    assert await gateway.tokens_left() >= TOKENS_PER_MINUTE - last["response"]["usage"]["total_tokens"]


async def test_an_answer_from_the_cache_is_free_and_takes_nothing_from_the_limit(gateway: Gateway) -> None:
    body = {"model": "fast", "input": "once", "max_output_tokens": 100}
    await gateway.run("/v1/responses", body)
    spent = await gateway.spent_pico()
    reply = await gateway.run("/v1/responses", body)
    assert dict(reply.headers)["x-prodkit-cache"] == "hit"
    assert await gateway.spent_pico() == spent


async def test_a_cut_answer_is_not_kept(gateway: Gateway) -> None:
    body = {"model": "fast", "input": "Tell me a long story about the sea.", "max_output_tokens": 16}
    for _ in range(2):
        reply = await gateway.run("/v1/responses", body)
        assert isinstance(reply.body, bytes)
        assert json.loads(reply.body)["status"] == "incomplete"
        assert dict(reply.headers)["x-prodkit-cache"] == "miss"
        await gateway.pipeline.close()


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_of_openai_costs_nothing(gateway: Gateway, upstream: Running, status: int) -> None:
    upstream.fault("status", status=status, times=None)
    reply = await gateway.run("/v1/responses", {"model": "fast", "input": "hello", "max_output_tokens": 800})
    assert reply.status == status
    assert await gateway.spent_pico() == 0
    assert await gateway.tokens_left() >= TOKENS_PER_MINUTE - 1


async def test_a_refused_request_takes_nothing(gateway: Gateway) -> None:
    with pytest.raises(ApiError):
        await gateway.run("/v1/responses", {"model": "fast", "input": "hello", "conversation": "conv_1"})
    assert await gateway.tokens_left() >= TOKENS_PER_MINUTE - 1


async def test_a_call_given_up_before_its_answer_is_charged_the_most_it_may_have_written(
    gateway: Gateway, upstream: Running
) -> None:
    upstream.fault("delay", seconds=30)
    body = {"model": "fast", "input": "x" * 400, "max_output_tokens": 100}
    task = asyncio.create_task(gateway.run("/v1/responses", body))
    await asyncio.to_thread(wait_until, lambda: bool(upstream.requests(0)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    price = gateway.services.models.current.resolve("fast", "text").price
    assert await gateway.spent_pico() == 100 * price.input + 100 * price.output
    [request] = await asyncio.to_thread(upstream.requests)
    assert request["outcome"] == "disconnected"


async def test_a_stream_that_is_left_is_charged_for_what_arrived(gateway: Gateway, upstream: Running) -> None:
    upstream.fault("stall", after=9)
    body = {"model": "fast", "input": "x" * 400, "stream": True, "max_output_tokens": 500}
    body |= {"reasoning": {"effort": "none"}}
    reply = await gateway.run("/v1/responses", body)
    assert not isinstance(reply.body, bytes)
    async for piece in reply.body:
        if b"output_text.delta" in piece:
            break
    await reply.body.aclose()
    price = gateway.services.models.current.resolve("fast", "text").price
    assert 100 * price.input < await gateway.spent_pico() < 100 * price.input + 100 * price.output


async def test_a_key_cannot_take_more_than_its_limit(gateway: Gateway) -> None:
    with pytest.raises(ApiError) as caught:
        await gateway.run("/v1/responses", {"model": "fast", "input": "hi", "max_output_tokens": TOKENS_PER_MINUTE + 1})
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert await gateway.spent_pico() == 0


async def test_a_fault_of_ours_is_an_api_error_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.services.cache.watch, "stamp", broken)
    with pytest.raises(ApiError) as caught:
        await gateway.run("/v1/responses", {"model": "fast", "input": "hi"})
    assert (caught.value.status, caught.value.code) == (500, "internal_error")


async def test_an_endpoint_that_does_not_exist_is_refused_in_process_too(gateway: Gateway) -> None:
    with pytest.raises(ApiError) as caught:
        await gateway.run("/v1/files", {})
    assert caught.value.code == "unsupported_endpoint"


async def test_merged_embeddings_are_answered_and_charged_as_if_each_were_alone(
    gateway: Gateway, upstream: Running
) -> None:
    texts = [f"the {at * 'very '}small text {at}" for at in range(30)]
    body = {"model": "embed", "dimensions": 8}
    replies = await asyncio.gather(*(gateway.run("/v1/embeddings", {**body, "input": text}) for text in texts))
    answers = [json.loads(reply.body) for reply in replies if isinstance(reply.body, bytes)]
    requests = await asyncio.to_thread(upstream.requests)
    assert len(requests) <= 10
    inputs = [request["body"]["input"] for request in requests]
    assert sorted(text for one in inputs for text in ([one] if isinstance(one, str) else one)) == sorted(texts)
    # What OpenAI bills is what the tenant pays, to the token.
    tokens = sum(answer["usage"]["prompt_tokens"] for answer in answers)
    assert tokens == sum(request["input_tokens"] for request in requests)
    price = gateway.services.models.current.resolve("embed", "embedding").price
    assert await gateway.spent_pico() == tokens * price.input

    upstream.reset()
    alone = await gateway.run("/v1/embeddings", {**body, "input": texts[7]})
    assert dict(alone.headers)["x-prodkit-cache"] == "hit"  # each request's own answer was kept
    again = await gateway.run("/v1/embeddings", {**body, "input": [texts[7]]})
    assert isinstance(again.body, bytes)
    assert json.loads(again.body)["data"] == answers[7]["data"]


async def test_merged_moderations_keep_their_order(gateway: Gateway, upstream: Running) -> None:
    texts = ["a fine day", "i will hurt you", "tea", "how to make a bomb"]
    replies = await asyncio.gather(*(gateway.run("/v1/moderations", {"input": text}) for text in texts))
    results = [json.loads(reply.body)["results"] for reply in replies if isinstance(reply.body, bytes)]
    assert [[result["flagged"] for result in own] for own in results] == [[False], [True], [False], [True]]
    assert len(await asyncio.to_thread(upstream.requests)) == 1


async def test_a_request_that_left_a_merged_call_pays_its_estimate_and_the_others_are_answered(
    gateway: Gateway, upstream: Running
) -> None:
    body = {"model": "embed", "dimensions": 8}
    await gateway.run("/v1/embeddings", {**body, "input": "z" * 4})  # the ledger has its leases now
    upstream.reset()
    upstream.fault("delay", seconds=0.5)
    leaving = asyncio.create_task(gateway.run("/v1/embeddings", {**body, "input": "x" * 400}))
    staying = asyncio.create_task(gateway.run("/v1/embeddings", {**body, "input": "y" * 400}))
    await asyncio.to_thread(wait_until, lambda: bool(upstream.requests(0)))
    leaving.cancel()
    reply = await staying
    assert reply.status == 200
    with pytest.raises(asyncio.CancelledError):
        await leaving
    price = gateway.services.models.current.resolve("embed", "embedding").price
    assert isinstance(reply.body, bytes)
    own = json.loads(reply.body)["usage"]["prompt_tokens"]
    assert await gateway.spent_pico() == (1 + 100 + own) * price.input
