from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import limits
from app.aws import Aws
from app.errors import ApiError
from app.keys import Identity
from app.limits import Grant, Limiter, Limits, Policy, go_duration
from app.settings import Settings
from app.valkey.client import Valkey, ValkeyAwayError
from tests.app.conftest import fake_server, free_port

DEFAULTS = Policy(Limits(requests=600, tokens=60_000))


def caller(rpm: int | None = None, tpm: int | None = None) -> Identity:
    return Identity("acme", secrets.token_hex(6), "test", "user", rpm, tpm)


def key_of(identity: Identity) -> str:
    """Where the limits of a key are in Valkey."""
    return f"{limits.KEY_PREFIX}tenant:{identity.tenant}}}:key:{identity.key_id}"


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def fake_port() -> Iterator[int]:
    with fake_server() as port:
        yield port


@pytest.fixture(params=["server", "cluster", "fake"])
async def limiter(
    request: pytest.FixtureRequest, settings: Settings, aws: Aws, fake_port: int
) -> AsyncIterator[Limiter]:
    """A limiter on the Valkey of the session, on a cluster and on fakeredis."""
    changes: dict[str, Any] = {}
    if request.param == "cluster":
        changes = {"cache_port": request.getfixturevalue("cluster_port"), "cache_mode": "cluster"}
    elif request.param == "fake":
        changes = {"cache_port": fake_port}
    valkey = Valkey(replace(settings, **changes), aws, max_connections=8, scripts=limits.SCRIPTS)
    await valkey.start()
    made = Limiter(valkey, lambda: DEFAULTS, max_local_keys=3)
    yield made
    await made.stop()
    await valkey.stop()


@pytest.fixture
async def alone(settings: Settings, aws: Aws) -> AsyncIterator[tuple[Limiter, Clock]]:
    """A limiter whose Valkey is away, and its clock."""
    clock = Clock()
    valkey = Valkey(replace(settings, cache_port=free_port()), aws, max_connections=8, scripts=limits.SCRIPTS)
    await valkey.start()
    made = Limiter(valkey, lambda: DEFAULTS, max_local_keys=3, clock=clock)
    yield made, clock
    await made.stop()
    await valkey.stop()


async def refused(limiter: Limiter, identity: Identity, tokens: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await limiter.reserve(identity, "gpt-6-luna", tokens)
    return caught.value


@pytest.mark.process
async def test_requests_a_minute_are_granted_and_not_one_more(limiter: Limiter) -> None:
    identity = caller(rpm=3)
    for left in (2, 1, 0):
        grant = await limiter.reserve(identity, "gpt-6-luna", 10)
        assert grant.shared
        assert grant.headers["x-ratelimit-remaining-requests"] == str(left)
    error = await refused(limiter, identity, 10)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert "requests per min (RPM): Limit 3" in error.message
    assert error.headers["x-ratelimit-limit-requests"] == "3"
    assert error.headers["x-should-retry"] == "true"
    assert 19 <= int(error.headers["retry-after"]) <= 20
    assert math.ceil(int(error.headers["retry-after-ms"]) / 1000) == int(error.headers["retry-after"])


@pytest.mark.process
async def test_tokens_are_reserved_by_estimate_and_given_back_by_usage(limiter: Limiter) -> None:
    identity = caller(tpm=1_000)
    grant = await limiter.reserve(identity, "gpt-6-luna", 900)
    error = await refused(limiter, identity, 500)
    assert "tokens per min (TPM): Limit 1000" in error.message
    assert 20 <= int(error.headers["retry-after"]) <= 24
    limiter.settle(grant, 100)
    later = await limiter.reserve(identity, "gpt-6-luna", 500)
    assert 400 <= int(later.headers["x-ratelimit-remaining-tokens"]) <= 420


@pytest.mark.process
async def test_what_was_used_beyond_the_estimate_is_owed(limiter: Limiter) -> None:
    identity = caller(tpm=600)
    grant = await limiter.reserve(identity, "gpt-6-luna", 100)
    limiter.settle(grant, 1_000_000)
    error = await refused(limiter, identity, 1)
    assert error.headers["x-ratelimit-remaining-tokens"] == "0"
    # The debt is one minute's worth at most, so a key is never shut out for longer.
    assert 55 <= int(error.headers["retry-after"]) <= 61


@pytest.mark.process
async def test_a_request_that_can_never_fit_takes_nothing_and_is_told_not_to_retry(limiter: Limiter) -> None:
    identity = caller(rpm=1, tpm=1_000)
    error = await refused(limiter, identity, 1_001)
    assert "Limit 1000, Requested 1001" in error.message
    assert error.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.headers
    await limiter.reserve(identity, "gpt-6-luna", 1_000)


@pytest.mark.process
async def test_two_replicas_grant_what_one_would(limiter: Limiter) -> None:
    identity = caller(rpm=10)
    other = Limiter(limiter.valkey, lambda: DEFAULTS, max_local_keys=3)
    attempts = [replica.reserve(identity, "gpt-6-luna", 1) for _ in range(15) for replica in (limiter, other)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, Grant) for result in results) == 10
    assert sum(isinstance(result, ApiError) for result in results) == 20


@pytest.mark.process
async def test_keys_do_not_share(limiter: Limiter) -> None:
    one, other = caller(rpm=1), caller(rpm=1)
    await limiter.reserve(one, "gpt-6-luna", 1)
    await limiter.reserve(other, "gpt-6-luna", 1)


@pytest.mark.process
async def test_a_key_without_limits_has_the_documents(limiter: Limiter) -> None:
    grant = await limiter.reserve(caller(), "gpt-6-luna", 0)
    assert grant.headers["x-ratelimit-limit-requests"] == "600"
    assert grant.headers["x-ratelimit-limit-tokens"] == "60000"
    assert grant.headers["x-ratelimit-remaining-tokens"] == "60000"
    assert grant.headers["x-ratelimit-reset-tokens"] == "0s"


@pytest.mark.process
async def test_a_bucket_has_no_time_to_live_and_the_sweep_removes_full_ones_only(limiter: Limiter) -> None:
    idle, busy = caller(rpm=600, tpm=1_000), caller(rpm=1, tpm=1_000)
    await limiter.reserve(idle, "gpt-6-luna", 0)
    await limiter.reserve(busy, "gpt-6-luna", 500)
    keys = [key_of(identity) for identity in (idle, busy)]
    client = limiter.valkey.client
    for key in keys:
        assert await client.ttl(key) == -1
    await client.hset(keys[0], "at", 0)
    await limiter.sweeper.sweep()
    assert [await client.exists(key) for key in keys] == [1, 1]  # a lease is in use
    await limiter.stop()
    await client.hset(keys[0], "at", 0)
    assert await limiter.sweeper.sweep() >= 1
    assert [await client.exists(key) for key in keys] == [0, 1]


@pytest.mark.process
@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
async def test_a_clock_that_jumps_grants_at_most_one_full_bucket(limiter: Limiter, jump_ms: int) -> None:
    identity = caller(rpm=5, tpm=1_000)
    for _ in range(5):
        await limiter.reserve(identity, "gpt-6-luna", 200)
    key = key_of(identity)
    at = int(await limiter.valkey.client.hget(key, "at"))
    await limiter.valkey.client.hset(key, "at", at - jump_ms)
    granted = 0
    for _ in range(12):
        try:
            await limiter.reserve(identity, "gpt-6-luna", 200)
            granted += 1
        except ApiError:
            continue
    assert granted in ((4, 5) if jump_ms > 0 else (0,))


@pytest.mark.process
async def test_a_damaged_bucket_starts_again_empty_and_never_full(limiter: Limiter) -> None:
    identity, other = caller(rpm=4), caller(rpm=4)
    await limiter.valkey.client.set(key_of(identity), "not a hash")
    error = await refused(limiter, identity, 1)
    assert 14 <= int(error.headers["retry-after"]) <= 15
    await limiter.valkey.client.hset(key_of(other), mapping={"requests": "many", "l:gone": "1 2 x"})
    assert (await refused(limiter, other, 1)).headers["x-ratelimit-remaining-requests"] == "0"
    assert (await limiter.reserve(caller(rpm=4), "gpt-6-luna", 1)).shared


@pytest.mark.process
async def test_without_valkey_a_replica_grants_its_share_and_never_more(alone: tuple[Limiter, Clock]) -> None:
    limiter, clock = alone
    identity = caller(rpm=10, tpm=1_000)
    for _ in range(5):
        grant = await limiter.reserve(identity, "gpt-6-luna", 10)
        assert not grant.shared
    error = await refused(limiter, identity, 10)
    assert error.headers["retry-after"] == "12"
    clock.now += 12
    await limiter.reserve(identity, "gpt-6-luna", 10)


@pytest.mark.process
async def test_without_valkey_a_large_call_within_the_limit_goes_and_its_debt_is_waited_for(
    alone: tuple[Limiter, Clock],
) -> None:
    limiter, clock = alone
    identity = caller(tpm=1_000)
    grant = await limiter.reserve(identity, "gpt-6-luna", 900)
    error = await refused(limiter, identity, 100)
    assert error.headers["retry-after"] == "60"
    limiter.settle(grant, 500)
    error = await refused(limiter, identity, 100)
    assert error.headers["retry-after"] == "12"
    clock.now += 12
    await limiter.reserve(identity, "gpt-6-luna", 100)
    assert (await refused(limiter, identity, 1_001)).headers["x-should-retry"] == "false"


@pytest.mark.process
async def test_local_buckets_are_bounded(alone: tuple[Limiter, Clock]) -> None:
    limiter, _ = alone
    for _ in range(9):
        await limiter.reserve(caller(), "gpt-6-luna", 1)
    assert len(limiter._scopes) == 3


@pytest.mark.process
async def test_settling_never_fails(limiter: Limiter, alone: tuple[Limiter, Clock]) -> None:
    grant = await limiter.reserve(caller(), "gpt-6-luna", 100)
    await limiter.valkey.stop()
    limiter.settle(grant, 5)
    alone[0].settle(grant, 5)
    with pytest.raises(ValkeyAwayError):
        await limiter.sweeper.sweep()


def seconds(duration: str) -> float:
    """What Go's time.ParseDuration would say."""
    import re

    assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s)|\d+ms", duration), duration
    factors = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(number) * factors[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|h|m|s)", duration))


@given(st.floats(0, 100_000))
def test_a_duration_reads_back_as_no_less_than_it_was(value: float) -> None:
    assert value - 1e-6 <= seconds(go_duration(value)) <= value + 0.00101


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.012, "12ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (360, "6m0s"),
        (90.5, "1m30.5s"),
        (3600, "1h0m0s"),
        (-1, "0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(value: float, text: str) -> None:
    assert go_duration(value) == text
