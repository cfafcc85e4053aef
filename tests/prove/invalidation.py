"""An acknowledged invalidation holds on every replica, and is acknowledged quickly while all are alive."""

from __future__ import annotations

import asyncio
import time

from tests.prove.fleet import Claim, Fleet, body_of, send

PROMISED_MS = 50.0
FIRST_SECONDS = 2.5
"""After the start of a Valkey every lease of before is waited out."""


async def invalidation(fleet: Fleet, times: int) -> list[Claim]:
    """Invalidate, and ask every replica at once: each must ask anew or join who does."""
    key, ports = fleet.key("changing"), [replica.port for replica in fleet.replicas]
    body = body_of("What has changed?")
    await asyncio.sleep(FIRST_SECONDS)
    took: list[float] = []
    stale = 0
    former = b""
    for number in range(times):
        asked = await asyncio.gather(*[send(port, key, body, x_prodkit_cache_tags="data") for port in ports])
        stale += sum(answer.body == former for answer in asked)
        former = asked[0].body
        started = time.perf_counter()
        answer = await send(ports[number % len(ports)], key, method="DELETE", path="/cache?tag=data")
        took.append(1000 * (time.perf_counter() - started))
        assert answer.status == 200, answer.body
    took.sort()
    p50, p99 = took[len(took) // 2], took[min(len(took) - 1, int(len(took) * 0.99))]
    return [
        Claim(f"{times} invalidations, every replica asked after each", "0 stale", f"{stale} stale", stale == 0),
        Claim(
            f"time to acknowledge on {len(ports)} live replicas, by HTTP",
            f"p99 <= {PROMISED_MS:.0f} ms",
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
            p99 <= PROMISED_MS,
        ),
    ]
