"""Embedding requests of many callers reach OpenAI in a tenth as many calls, for at most 10 ms of added wait."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from collections import Counter
from pathlib import Path

from app.pipeline.merge import WAIT_SECONDS
from benchmarks import load
from benchmarks._http import SERIAL_DIGITS, template
from benchmarks.prove import Figure
from benchmarks.world import LOAD_CPU, World, ask, pinned, prodkit_environment, start_ready
from local.cache import free_port
from local.children import Children, base_environment, python

CALLERS = 200
WARM_SECONDS, SECONDS = 3.0, 5.0
FACTOR = 10
LATE_PERCENTILE = 90
MARK = b"#" * SERIAL_DIGITS


async def measure(children: Children, world: World) -> list[Figure]:
    """Two hundred callers, each asking again as soon as it is answered, of a simulator that takes 80 ms."""
    with pinned(LOAD_CPU):
        arguments = ("--speed", "1", "--rpm", "100000000", "--tpm", "1000000000")
        simulator = await children.announced("simulator", python("local.openai", *arguments), base_environment())
    upstream, admin = (int(simulator.announced[name].rpartition(":")[2]) for name in ("url", "admin_url"))
    port = free_port()
    environment = prodkit_environment(world, service="web", port=port, upstream=f"http://127.0.0.1:{upstream}/v1")
    replica, _ = await start_ready(children, "prodkit", python("app", "web"), environment, port, "/health/ready")
    body = json.dumps({"model": "embed", "dimensions": 8, "input": f"text {MARK.decode()}"}).encode()
    callers = [template("/v1/embeddings", {"Authorization": f"Bearer {key}"}, body, MARK) for key in world.keys]
    numbers = itertools.count()
    for key in world.keys:  # the ledger has their leases then
        named = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        await asyncio.to_thread(ask, port, "POST", "/v1/embeddings", body, named)

    def request() -> bytes:
        number = next(numbers)
        return callers[number % len(callers)].request(number)

    await asyncio.to_thread(load.closed, port, request, connections=CALLERS, seconds=WARM_SECONDS)
    ask(admin, "POST", "/reset")
    warm = len(_lines(replica.log))
    outcome = await asyncio.to_thread(load.closed, port, request, connections=CALLERS, seconds=SECONDS)
    await asyncio.sleep(1)
    calls = len(json.loads(ask(admin, "GET", "/requests"))["requests"])
    lines = _lines(replica.log)[warm:]
    waits = sorted(line.get("merge_wait_ms", 0.0) for line in lines)
    late = statistics.quantiles(waits, n=100)[LATE_PERCENTILE - 1]
    factor = len(lines) / max(1, calls)
    # The loop is as busy as a CPU can be here, and what it is late counts as well.
    shown = f"{statistics.median(waits):.1f} ms (p90 {late:.1f} ms)"
    refused = dict(Counter(str(line.get("error_code")) for line in lines if line.get("status") != 200))
    return [
        Figure("answered", f"{outcome.completed}; not: {refused or outcome.failures}", "all", not outcome.failures),
        Figure("requests for each call to OpenAI", f"{factor:.1f}", f">= {FACTOR}", factor >= FACTOR),
        Figure("added wait, p50", shown, "<= 10 ms", statistics.median(waits) <= WAIT_SECONDS * 1000),
    ]


def _lines(log: Path) -> list[dict[str, float]]:
    """The log lines of embedding requests."""
    found = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [line for line in found if line.get("event") == "request" and line.get("endpoint") == "/v1/embeddings"]
