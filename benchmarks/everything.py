"""How much memory a web replica holds once all of it has been used: a document is taken in and asked about."""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks._proc import resident_mib
from benchmarks.world import MissingError, World, ask, prodkit_environment, start_ready
from local.cache import free_port
from local.children import Children, base_environment, python

INGEST_SECONDS = 30.0
_TEXT = "Production needs a budget, a limit, a cache and somebody who watches. " * 40


async def everything_mib(children: Children, world: World) -> float:
    """Resident MiB of a web replica after /documents, /ask and /v1; a worker and the OpenAI simulator are behind it."""
    simulator = await children.announced("openai", python("local.openai"), base_environment())
    started = []
    ports = {}
    for service in ("worker", "web"):
        port = ports[service] = free_port()
        environment = prodkit_environment(
            world, service=service, port=port, upstream=simulator.announced["url"] + "/v1"
        )
        command = world.interpreter.module("app", service)
        child, _ = await start_ready(children, f"product-{service}", command, environment, port, "/health/live")
        started.append(child)
    mib = await asyncio.to_thread(_use, world, ports["web"], started[1].pid)
    for child in (*started, simulator):
        await children.stop(child)
    return mib


def _use(world: World, port: int, pid: int) -> float:
    headers = {"Authorization": f"Bearer {world.keys[0]}", "Content-Type": "application/json"}
    document = json.dumps({"name": "production.md", "text": _TEXT}).encode()
    made = json.loads(ask(port, "POST", "/documents", document, headers))
    until = time.monotonic() + INGEST_SECONDS
    while json.loads(ask(port, "GET", f"/documents/{made['id']}", headers=headers))["status"] != "ready":
        if time.monotonic() > until:
            raise MissingError("the worker did not take the document in")
        time.sleep(0.1)
    time.sleep(1.5)  # longer than a replica may go without asking whether documents changed
    for stream in (False, True):
        question = json.dumps({"question": "What does production need?", "stream": stream}).encode()
        ask(port, "POST", "/ask", question, headers)
        call = json.dumps({"model": "balanced", "input": "What does production need?", "stream": stream}).encode()
        ask(port, "POST", "/v1/responses", call, headers)
    return resident_mib(pid)
