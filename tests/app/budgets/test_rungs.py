"""Each rung of the ladder, by what it does to a real request: real services, simulated OpenAI, one process."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.budgets.control import Control, Standing
from app.budgets.policy import Rung
from app.errors import ApiError
from app.keys import Identity
from app.ledger import MONTHLY
from app.models import CachePolicy
from app.pipeline import Call, Pipeline, Reply
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts
from tests.app.replica import made_up_openai_key, openai_secret

pytestmark = pytest.mark.process
QUESTION = {"model": "best", "input": "Tell me a long story about the sea.", "max_output_tokens": 400}
BACKGROUND = {"x-prodkit-priority": "background"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@dataclass
class Gateway:
    """A pipeline whose tenant is put on a rung by hand; nobody else reads the switches."""

    services: Services
    pipeline: Pipeline
    identity: Identity
    upstream: Running

    def on(self, rung: Rung) -> None:
        standing = Standing(rung, time.time() + 7_200)
        self.services.control.current = Control(rungs={f"tenant:{self.identity.tenant}": standing} if rung else {})

    async def ask(self, headers: dict[str, str] | None = None, **body: Any) -> Reply:
        call = Call(
            "/v1/responses",
            json.dumps({**QUESTION, **body}).encode(),
            self.identity,
            f"req_{secrets.token_hex(8)}",
            {"content-type": "application/json", **(headers or {})},
        )
        return await self.pipeline.run(call)

    async def asked(self) -> int:
        """How often OpenAI was asked, once everything is settled."""
        await self.pipeline.close()
        return len(self.upstream.requests())


@pytest.fixture
async def gateway(settings: Settings, cloud: CloudParts, upstream: Running) -> AsyncIterator[Gateway]:
    upstream.reset()
    services = await Services.start(replace(settings, openai_secret_arn=openai_secret(cloud, made_up_openai_key())))
    await services.control.stop()
    tag = secrets.token_hex(6)
    identity = Identity(f"tenant-{tag}", tag, "test", "user", 100_000, 100_000_000)
    async with Upstream(upstream.base_url, connections=8, tcp_keep_alive_seconds=45) as pool:
        pipeline = Pipeline(services, pool)
        yield Gateway(services, pipeline, identity, upstream)
        await pipeline.close()
    await services.stop()


def said(reply: Reply) -> dict[str, Any]:
    assert isinstance(reply.body, bytes)
    answer: dict[str, Any] = json.loads(reply.body)
    return answer


def header(reply: Reply, name: str) -> str:
    return dict(reply.headers)[f"x-prodkit-{name}"]


async def test_each_rung_is_named_by_its_answers_and_answers_get_shorter_and_cheaper(gateway: Gateway) -> None:
    models, tokens = {}, {}
    for rung in Rung:
        gateway.on(rung)
        reply = await gateway.ask(input=f"Tell me a long story about {rung.label}.")
        assert header(reply, "budget-rung") == rung.label
        models[rung] = header(reply, "model")
        tokens[rung] = said(reply)["max_output_tokens"]
    assert models == {rung: "gpt-6.2-sol" if rung < Rung.CHEAPER else "gpt-6.1-terra" for rung in Rung}
    assert tokens == {rung: 400 if rung < Rung.SHORTER else 200 for rung in Rung}


async def test_stale_answers_come_first_on_the_rung_cached_and_openai_is_not_asked(gateway: Gateway) -> None:
    gateway.services.models.current._cache["/v1/responses"] = CachePolicy(1, 0)
    gateway.on(Rung.NOTIFY)  # from here on answers are kept for as long as the policy says
    first = await gateway.ask()
    assert await gateway.asked() == 1
    await asyncio.sleep(1.1)
    gateway.on(Rung.CACHED)
    kept = await gateway.ask()
    assert (header(kept, "cache"), kept.body) == ("stale", first.body), "in full, by the model that was asked for"
    assert (header(kept, "model"), header(kept, "budget-rung")) == ("gpt-6.2-sol", "cached")
    assert await gateway.asked() == 1, "not to make it new either"
    gateway.services.cache.memory._held.clear()
    assert (await gateway.ask()).body == first.body, "from what all replicas share, too"
    fresh = await gateway.ask({"cache-control": "max-age=1"})
    assert header(fresh, "cache") == "miss", "what its caller says of the cache counts"
    assert header(await gateway.ask({"cache-control": "no-cache"}), "cache") == "miss"
    assert await gateway.asked() == 3
    gateway.on(Rung.NORMAL)
    assert header(await gateway.ask(), "cache") == "miss", "an old answer is for nobody else"


async def test_an_answer_older_than_the_policy_allows_is_not_given(gateway: Gateway) -> None:
    models = gateway.services.models.current
    models._cache["/v1/responses"] = CachePolicy(1, 0)
    models.budget = replace(models.budget, stale_seconds=1)
    gateway.on(Rung.CACHED)
    await gateway.ask()
    await gateway.asked()
    assert header(await gateway.ask(), "cache") == "hit"
    await asyncio.sleep(1.1)
    assert header(await gateway.ask(), "cache") == "miss"


async def test_answers_are_kept_no_longer_while_no_budget_is_near_its_end(gateway: Gateway) -> None:
    gateway.services.models.current._cache["/v1/responses"] = CachePolicy(1, 0)
    await gateway.ask()
    await gateway.asked()
    await asyncio.sleep(1.1)
    gateway.on(Rung.CACHED)
    assert header(await gateway.ask(), "cache") == "miss"


@pytest.mark.parametrize("rung", [Rung.DEFERRED, Rung.PRIORITY])
async def test_work_that_can_wait_waits_and_everybody_else_is_answered(gateway: Gateway, rung: Rung) -> None:
    gateway.on(Rung.CACHED)
    assert (await gateway.ask(BACKGROUND)).status == 200
    gateway.on(rung)
    with pytest.raises(ApiError) as caught:
        await gateway.ask(BACKGROUND, input="Another one")
    refused = caught.value
    assert (refused.status, refused.code) == (429, "insufficient_quota")
    waits = int(refused.headers["retry-after"])
    assert waits == 3_600 if rung is Rung.DEFERRED else 7_100 < waits <= 7_200, "an hour, or until the window ends"
    assert (await gateway.ask({"x-prodkit-priority": "interactive"}, input="And one")).status == 200
    batched = await gateway.ask({**BACKGROUND, "x-prodkit-deadline": "24h"}, input="One for a batch")
    assert (batched.status, said(batched)["status"]) == (202, "queued")
    assert said(batched)["model"] == "gpt-6.1-terra"


async def test_where_the_money_ends_kept_answers_go_on_and_the_rest_is_refused_with_the_one_way_out(
    gateway: Gateway,
) -> None:
    scope = f"tenant:{gateway.identity.tenant}"
    gateway.on(Rung.REFUSED)
    kept = await gateway.ask()
    await gateway.asked()
    await gateway.services.ledger.set_limit(scope, MONTHLY, 1, by="ada", why="a test")
    again = await gateway.ask()
    assert (header(again, "cache"), again.body) == ("hit", kept.body)
    with pytest.raises(ApiError) as caught:
        await gateway.ask(input="Something else")
    refused = caught.value
    assert (refused.status, refused.code) == (429, "insufficient_quota")
    assert dict(refused.headers)["x-prodkit-budget-rung"] == "refused"
    for part in (
        f"of {scope.replace(':', ' ')}",
        "(rung 'refused')",
        "starts anew at 20",
        f"set {scope} month USD --why",
    ):
        assert part in refused.message


async def test_what_a_rung_does_is_what_the_models_document_in_force_says(gateway: Gateway) -> None:
    models = gateway.services.models.current
    gateway.on(Rung.PRIORITY)
    models.budget = replace(models.budget, output_percent=75, cheaper={"gpt-6.2-sol": "gpt-6-luna"})
    first = await gateway.ask()
    assert (said(first)["max_output_tokens"], header(first, "model")) == (300, "gpt-6-luna")
    models.budget = replace(models.budget, output_percent=10, least_output_tokens=350, cheaper={})
    second = await gateway.ask()
    assert (said(second)["max_output_tokens"], header(second, "model")) == (350, "gpt-6.2-sol")
