"""Is this process alive, is it ready: what the balancer and ECS ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.services import Services


def live() -> dict[str, Any]:
    """The process runs its event loop; nothing else, so that no outage elsewhere restarts it."""
    return {"status": "live"}


async def ready(services: Services) -> tuple[bool, dict[str, Any]]:
    """Whether to send requests here, and what that depends on; never raises.

    It needs the state table (no key can be checked without it) and a models document. Without Valkey it is ready but
    degraded. The OpenAI key is only reported: a first deployment has none, and must become ready.
    """
    table = await services.table_probe.check()
    models = services.models
    cache = services.valkey.reachable
    document: dict[str, Any] = {"version": models.current.version, "source": models.source}
    if models.problem:
        document["problem"] = models.problem
    good = table and not services.draining
    status = "draining" if services.draining else "unready" if not table else "ready" if cache else "degraded"
    return good, {
        "status": status,
        "state_table": "ok" if table else f"unreachable: {services.table_probe.problem}",
        "models": document,
        "cache": "ok" if cache else f"away: {services.valkey.problem}",
        "openai_key": "set" if services.openai_key.is_set else "missing",
        "in_flight": services.metrics.in_flight,
        "tasks": len(asyncio.all_tasks()),
    }
