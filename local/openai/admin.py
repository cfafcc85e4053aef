"""The admin path, on a port of its own: script faults, set limits and keys, read what was asked."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.openai import batches, faults
from local.openai.state import Simulator, key_hash

_LIMIT_FIELDS = ("rpm", "tpm", "project_tpm", "model", "key")


def create_admin(simulator: Simulator) -> Starlette:
    """The admin application of one simulator."""
    admin = _Admin(simulator)
    routes = [
        Route("/faults", _guarded(admin.faults), methods=["GET", "POST", "DELETE"]),
        Route("/requests", _guarded(admin.requests), methods=["GET"]),
        Route("/limits", _guarded(admin.limits), methods=["POST"]),
        Route("/keys", _guarded(admin.keys), methods=["POST"]),
        Route("/batches", _guarded(admin.batches), methods=["GET"]),
        Route("/reset", _guarded(admin.reset), methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _guarded(handler: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            value = await handler(request)
        except ValueError as error:
            return Response(orjson.dumps({"error": str(error)}), 400, media_type="application/json")
        return Response(orjson.dumps(value), media_type="application/json")

    return endpoint


class _Admin:
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def faults(self, request: Request) -> dict[str, Any]:
        active = self.simulator.faults.active
        if request.method == "POST":
            value = orjson.loads(await request.body())
            added = [faults.parse(_hash_key(item)) for item in (value if isinstance(value, list) else [value])]
            active.extend(added)
        elif request.method == "DELETE":
            active.clear()
        return {"faults": active}

    async def requests(self, request: Request) -> dict[str, Any]:
        journal = self.simulator.journal
        quiet = await journal.quiet(float(request.query_params.get("wait_seconds", 0)))
        last = int(request.query_params.get("last", len(journal.entries)))
        entries = [entry.as_json() for entry in list(journal.entries)[max(0, len(journal.entries) - last) :]]
        return {"requests": entries, "quiet": quiet}

    async def limits(self, request: Request) -> dict[str, Any]:
        rule = orjson.loads(await request.body())
        unknown = sorted(set(rule) - set(_LIMIT_FIELDS))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; a limit has {', '.join(_LIMIT_FIELDS)}")
        for name in ("rpm", "tpm", "project_tpm"):
            if type(rule.get(name, 0)) is not int or rule.get(name, 1) < 1:
                raise ValueError(f"{name}={rule[name]!r} is not a whole number of 1 or more")
        if rule.get("key"):
            rule["key"] = key_hash(rule["key"])
        self.simulator.limits.set(rule)
        return {"limit": rule}

    async def keys(self, request: Request) -> dict[str, Any]:
        value = orjson.loads(await request.body())
        keys = value.get("accept")
        self.simulator.accepted_keys = None if keys is None else frozenset(map(key_hash, keys))
        return {"accepted": None if keys is None else len(keys)}

    async def batches(self, _request: Request) -> dict[str, Any]:
        found = [await batches.find(self.simulator, name) for name in list(self.simulator.batches)]
        billed = [{**batch.show(), "billed": batch.usage(), "percent": batches.BATCH_PERCENT} for batch in found]
        return {"batches": billed}

    async def reset(self, _request: Request) -> dict[str, Any]:
        self.simulator.reset()
        return {}


def _hash_key(value: Any) -> Any:
    """A fault's JSON with its key replaced by the key's hash, so that no answer shows a key."""
    match = value.get("match") if isinstance(value, dict) else None
    if isinstance(match, dict) and "key" in match:
        return value | {"match": match | {"key": key_hash(match["key"])}}
    return value
