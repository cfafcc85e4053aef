"""Answers that break off, shared or not: what is told of them, and that nothing of them stays."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.errors import ApiError
from app.pipeline import Call
from app.pipeline.record import Record
from app.upstream.sse import HEARTBEAT
from tests.app.cache.fleet import Fleet, text

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    "fault", [{"kind": "html"}, {"kind": "disconnect"}, {"kind": "status", "status": 500}, {"kind": "cut"}, {}]
)
async def test_a_request_that_fails_leaves_no_more(
    fleet: Fleet, garbage: Callable[[], list[str]], fault: dict[str, Any]
) -> None:
    pipeline = fleet.pipelines[0]

    async def fail(index: int, **more: object) -> str:
        body = json.dumps({"model": "fast", "input": f"Who tidies up after a fault? {index}", **more}).encode()
        name = f"req_{secrets.token_hex(8)}"
        record = Record(name, "/v1/responses", fleet.identity, "POST")
        try:
            reply = await pipeline.run(Call("/v1/responses", body, fleet.identity, name, {}, record))
            await text(reply)
        except ApiError as error:
            return error.code
        return str(reply.status)

    if fault:
        fleet.upstream.fault(**fault, times=None)
        said = [await fail(0), await fail(1), await fail(0, stream=True), await fail(1, stream=True)]
    else:
        said = [await fail(index, service_tier="nonsense") for index in range(3)]
    assert set(said) <= {
        "200",
        "500",
        "upstream_incomplete",
        "upstream_invalid_response",
        "upstream_unreachable",
        "invalid_value",
    }
    await fleet.settle()
    assert garbage() == []


async def test_a_stream_that_another_replica_never_ends_is_not_heard_as_a_whole_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.upstream.fault("stall", after=14)
    monkeypatch.setattr(fleet.pipelines[1]._look_up._flights, "_longest", lambda _work: 1_000)  # milliseconds
    settings = replace(fleet.services[1].settings, heartbeat_seconds=0.2)  # type: ignore[arg-type]
    monkeypatch.setattr(fleet.services[1], "settings", settings)
    body = {"input": "Tell me of what never ends.", "stream": True}
    leader = await fleet.ask(0, body)
    await anext(aiter(leader.body))  # type: ignore[arg-type]
    heard = await text(await fleet.ask(1, body))
    assert b"response.created" in heard
    assert 1 <= heard.count(HEARTBEAT) <= 5
    assert heard.rstrip().endswith(b"}")
    assert b"upstream_incomplete" in heard.split(b"\n\n")[-2]
    for flying in fleet.pipelines[0]._look_up._flights._flights.values():
        flying.unheard_elsewhere()
    await leader.body.aclose()  # type: ignore[union-attr]
