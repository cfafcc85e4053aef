"""A request with `x-prodkit-deadline: 24h` comes back with the answer of a direct one, at half the price."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from benchmarks.prove import Figure
from benchmarks.world import World, ask, prodkit_environment, start_ready
from local.cache import free_port
from local.children import Children, base_environment, python

REQUESTS = 50
DAY_SECONDS = 60.0
"""How long a day takes for the simulator's batches: one is done after a tenth of a second."""
PATIENCE_SECONDS = 60.0


async def measure(children: Children, world: World) -> list[Figure]:
    """Fifty different questions, each asked directly and deferred, by a web replica and a worker."""
    arguments = ("--speed", "0", "--rpm", "100000", "--tpm", "100000000", "--day-seconds", str(DAY_SECONDS))
    simulator = await children.announced("simulator", python("local.openai", *arguments), base_environment())
    upstream = f"{simulator.announced['url']}/v1"
    ports = {}
    logs = {}
    for service in ("web", "worker"):
        ports[service] = port = free_port()
        environment = prodkit_environment(world, service=service, port=port, upstream=upstream)
        environment["PRODKIT_DEFER_COLLECT_SECONDS"] = "1"  # nobody waits a minute here
        child, _ = await start_ready(children, service, python("app", service), environment, port, "/health/ready")
        logs[service] = child.log
    headers = {"Authorization": f"Bearer {world.keys[0]}", "Content-Type": "application/json"}

    def send(number: int, **more: str) -> dict[str, Any]:
        body = {"model": "fast", "input": f"Tell me about number {number}, please.", "max_output_tokens": 200}
        named = {name.replace("_", "-"): value for name, value in more.items()}
        answer = ask(ports["web"], "POST", "/v1/responses", json.dumps(body).encode(), headers | named)
        found: dict[str, Any] = json.loads(answer)
        return found

    direct = [await asyncio.to_thread(send, number) for number in range(REQUESTS)]
    began = time.monotonic()
    accepted = [await asyncio.to_thread(send, number, x_prodkit_deadline="24h") for number in range(REQUESTS)]
    done: dict[str, dict[str, Any]] = {}
    while len(done) < REQUESTS and time.monotonic() - began < PATIENCE_SECONDS:
        await asyncio.sleep(0.5)
        for name in {one["id"] for one in accepted} - set(done):
            state = json.loads(await asyncio.to_thread(ask, ports["web"], "GET", f"/v1/deferred/{name}", b"", headers))
            if state["status"] not in ("queued", "in_progress"):
                done[name] = state
    seconds = time.monotonic() - began
    answers = [done.get(one["id"], {}).get("response") for one in accepted]
    same = sum(_text(a["body"]) == _text(b) for a, b in zip(answers, direct, strict=True) if a is not None)
    costs = {service: _cost(log.read_text()) for service, log in logs.items()}
    batches = json.loads(
        await asyncio.to_thread(ask, int(simulator.announced["admin_url"].rpartition(":")[2]), "GET", "/batches")
    )["batches"]
    share = costs["worker"] / costs["web"] if costs["web"] else 0.0
    return [
        Figure("answers equal to the direct ones", f"{same} of {REQUESTS}", "all", same == REQUESTS),
        Figure("batches for them", f"{len(batches)}", "<= 10", 0 < len(batches) <= 10),
        Figure("cost of deferred / direct", f"{share:.3f}", "0.500", abs(share - 0.5) < 1e-6),
        Figure("the last came after", f"{seconds:.1f} s", f"<= {PATIENCE_SECONDS:.0f} s here", len(done) == REQUESTS),
    ]


def _text(answer: dict[str, Any]) -> str:
    return str(answer["output"][-1]["content"][0]["text"])


def _cost(log: str) -> float:
    """What the answered requests of a log cost, in USD."""
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return float(sum(line.get("cost_usd", 0.0) for line in lines if line.get("event") == "request"))
