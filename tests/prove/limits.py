"""What docs/limits.md promises in numbers: load in virtual time, and three processes against a strict OpenAI."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator

import redis.asyncio

from app.limits.upstream import USED_PERCENT
from tests.app.limits.test_fairness import calls_per_request, flood, wait_errors
from tests.prove.fleet import PATH, Claim, Fleet, body_of, send

REPLICAS = 3
LIMIT = 600
CALLERS = 10
"""Of each replica."""
SECONDS = 20.0
LEARN_SECONDS = 2.0


def in_virtual_time() -> Iterator[Claim]:
    """The real limiter under minutes of load."""
    calls = calls_per_request()
    yield Claim("lease calls to Valkey a request, 1,000 a second", "<= 0.01", f"{calls:.4f}", 0 < calls <= 0.01)
    for replicas, most in ((1, 0.10), (REPLICAS, 0.15)):
        error, count = wait_errors(replicas)
        yield Claim(
            f"error of a predicted wait on {replicas} replica(s), p90",
            f"<= {most:.0%}",
            f"{error:.1%} of {count}",
            error <= most,
        )
    quiet, busy = flood(0.0), flood(5.0)
    yield Claim(
        "p95 wait of interactive calls under a flood of background work at five times the limit",
        "50 ms more at the most, none lost",
        f"{1000 * (busy.p95 - quiet.p95):+.0f} ms, {busy.lost} lost",
        busy.p95 <= quiet.p95 + 0.05 and not busy.lost,
    )


async def _ask(fleet: Fleet, port: int, key: str, number: int) -> int:
    return (await send(port, key, body_of(f"number {number}", max_output_tokens=16), prefer="wait=15")).status


async def learnt(fleet: Fleet) -> Claim:
    """A limit that OpenAI changes without a word."""
    key, numbers, slowest = fleet.key("learner"), itertools.count(), 0.0
    async with redis.asyncio.Redis(port=fleet.valkey_port, decode_responses=True) as client:
        for limit in (6_000, 1_200, 3_000):
            fleet.upstream.limit(rpm=limit, tpm=100_000_000)
            began, known = time.monotonic(), set[str]()
            while known != {str(limit * USED_PERCENT // 100)} and time.monotonic() < began + 10:
                for replica in fleet.replicas:
                    await _ask(fleet, replica.port, key, next(numbers))
                found = [name async for name in client.scan_iter("{limit:all}:upstream:*")]
                known = {str(await client.hget(name, "rpm")) for name in found}
            slowest = max(slowest, time.monotonic() - began)
    return Claim(
        "a changed limit of OpenAI's is in force for all replicas",
        "<= 2 s",
        f"{slowest:.2f} s",
        slowest <= LEARN_SECONDS,
    )


async def strict(fleet: Fleet) -> Claim:
    """Everybody asks all the time, and a replica is killed. It ends one replica of the fleet."""
    fleet.upstream.limit(rpm=LIMIT, tpm=100_000_000)
    before = len(fleet.upstream.requests())
    key, numbers = fleet.key("steered"), itertools.count(10_000)
    refused = 0

    async def keep_asking(port: int) -> None:
        nonlocal refused
        while True:
            refused += await _ask(fleet, port, key, next(numbers)) == 429

    tasks = [asyncio.create_task(keep_asking(replica.port)) for replica in fleet.replicas for _ in range(CALLERS)]
    # The rest of what a quiet minute saved is used up first.
    while len(fleet.upstream.requests(0)) - before < LIMIT - LIMIT // 20:  # noqa: ASYNC110 - it is asked for
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    fleet.replicas[-1].process.send_signal(signal.SIGKILL)
    await asyncio.sleep(6)  # what it held is struck out by then
    began = time.time()
    await asyncio.sleep(SECONDS)
    ended = time.time()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asked = [entry for entry in fleet.upstream.requests() if entry["path"] == PATH]
    used = sum(began <= entry["time"] < ended and entry["status"] == 200 for entry in asked)
    share = used / ((ended - began) * LIMIT / 60)
    upstream = sum(entry["status"] == 429 for entry in asked)
    return Claim(
        f"OpenAI's strict limit on {REPLICAS} replicas, one killed",
        "95 % used, 0 refused by OpenAI or here",
        f"{share:.1%} used, {upstream} refused by OpenAI, {refused} here",
        share >= 0.95 and not upstream and not refused,
    )
