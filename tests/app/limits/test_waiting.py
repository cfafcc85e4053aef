"""Waiting beats refusing: turns come when they were predicted, fairly, and nobody waits for nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from app.aws import Aws
from app.errors import ApiError
from app.keys import Identity
from app.limits import SCRIPTS, Caller, Limiter, Limits, Policy, TenantPolicy
from app.observability.metrics import QUEUED_REQUESTS
from app.settings import Settings
from app.valkey.client import Valkey

pytestmark = pytest.mark.process

POLICY = Policy(
    Limits(600, 1_000_000),
    tenants={"small": TenantPolicy(Limits(requests=3)), "talks": TenantPolicy(Limits(streams=2))},
    models={"gpt-6-sol": Limits(requests=2)},
)


@pytest.fixture
async def limiter(settings: Settings, aws: Aws) -> AsyncIterator[Limiter]:
    valkey = Valkey(settings, aws, max_connections=8, scripts=SCRIPTS)
    await valkey.start()
    made = Limiter(valkey, lambda: POLICY, max_local_keys=100, max_waiting=8)
    yield made
    await made.stop()
    await valkey.stop()


def key(rpm: int | None = None, tenant: str = "", tpm: int | None = None) -> Identity:
    return Identity(tenant or secrets.token_hex(4), secrets.token_hex(6), "test", "user", rpm, tpm)


def until(limiter: Limiter, seconds: float, *, streams: int = 0, priority: str = "interactive") -> Caller:
    return Caller("acme", priority, limiter.clock() + seconds, streams)


async def use_up(limiter: Limiter, identity: Identity, calls: int, model: str = "gpt-6-luna") -> None:
    for _ in range(calls):
        await limiter.reserve(identity, model, 1)


async def test_a_key_over_its_limit_waits_its_turn_and_then_succeeds(limiter: Limiter) -> None:
    identity = key(rpm=120)
    await use_up(limiter, identity, 120)
    limiter.figures()
    limiter.waited = (waits := list[float]()).append
    grant = await limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 10))
    assert grant.waited >= 0.1
    assert [round(wait, 1) for wait in waits] == [round(grant.waited, 1)]
    assert limiter.figures()[QUEUED_REQUESTS] == 1
    assert QUEUED_REQUESTS not in limiter.figures()


async def test_a_wait_that_is_too_long_is_refused_at_once_with_the_seconds_that_it_would_take(limiter: Limiter) -> None:
    identity = key(rpm=3)
    await use_up(limiter, identity, 3)
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 15))
    assert time.monotonic() - began < 5
    assert 19 <= int(caught.value.headers["retry-after"]) <= 20
    waiting = asyncio.create_task(limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 60)))
    await asyncio.sleep(0.1)
    with pytest.raises(ApiError) as caught:
        await limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 30))
    # Behind the one that waits already.
    assert 38 <= int(caught.value.headers["retry-after"]) <= 40
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_caller_who_goes_away_leaves_the_queue_at_once(limiter: Limiter) -> None:
    identity = key(rpm=30)
    await use_up(limiter, identity, 30)
    first = asyncio.create_task(limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 60)))
    second = asyncio.create_task(limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 60)))
    await asyncio.sleep(0.05)
    assert limiter.waiting == 2
    first.cancel()
    await asyncio.wait([first])
    assert limiter.waiting == 1
    # The turn of the one that left goes to the next: two seconds for one request, not four for two.
    assert (await second).waited < 3.5
    assert limiter.waiting == 0


async def test_so_many_wait_and_no_more(limiter: Limiter) -> None:
    identity = key(rpm=1)
    await use_up(limiter, identity, 1)
    tasks = [asyncio.create_task(limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 3_600))) for _ in range(10)]
    done, waiting = await asyncio.wait(tasks, timeout=1.0)
    assert len(waiting) == limiter.max_waiting // 2
    assert {type(task.exception()) for task in done} == {ApiError}
    for task in waiting:
        task.cancel()
    await asyncio.wait(tasks)
    assert limiter.waiting == 0


async def test_what_nobody_has_asked_for_yet_is_there_for_all_who_come_at_once_also_for_those_who_would_not_wait(
    limiter: Limiter,
) -> None:
    cold = key(rpm=60, tpm=60_000)
    # Far more than may wait here, and before the first lease: two do not fit.
    calls = []
    for _ in range(62):
        calls.append(asyncio.create_task(limiter.reserve(cold, "gpt-6-luna", 1_000, until(limiter, 0))))
        await asyncio.sleep(0)
    found = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error for error in found if isinstance(error, ApiError)]
    assert len(refused) == 2
    assert {error.headers["retry-after"] for error in refused} <= {"1", "2"}
    assert not any("try again in 0s" in error.message for error in refused)


async def test_a_tenants_keys_share_its_limit_over_all_replicas(limiter: Limiter) -> None:
    other = Limiter(limiter.valkey, lambda: POLICY, max_local_keys=100)
    attempts = [replica.reserve(key(tenant="small"), "gpt-6-luna", 1) for _ in range(4) for replica in (limiter, other)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, ApiError)]
    assert len(refusals) == 5
    assert "of this tenant" in refusals[0].message
    await other.stop()


async def test_a_models_limit_holds_for_all_tenants_and_what_a_refused_call_took_before_is_given_back(
    limiter: Limiter,
) -> None:
    await use_up(limiter, key(), 2, "gpt-6-sol")
    identity = key(rpm=1)
    with pytest.raises(ApiError) as caught:
        await limiter.reserve(identity, "gpt-6-sol", 1)
    assert "of this model" in caught.value.message
    await limiter.reserve(identity, "gpt-6-luna", 1)


async def test_streams_at_one_time_are_counted_over_all_replicas_and_the_next_waits_for_an_end(
    limiter: Limiter,
) -> None:
    other = Limiter(limiter.valkey, lambda: POLICY, max_local_keys=100)
    identity = key(tenant="talks")
    grants = [
        await replica.reserve(identity, "gpt-6-luna", 1, until(replica, 5, streams=1)) for replica in (limiter, other)
    ]
    third = asyncio.create_task(limiter.reserve(identity, "gpt-6-luna", 1, until(limiter, 20, streams=1)))
    await asyncio.sleep(0.3)
    assert not third.done()
    other.settle(grants[1], 1)
    assert (await third).streams == 1
    await other.stop()
