"""The application by its ASGI interface: what stands before and around every request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.observability.metrics import Metrics
from app.serving.gate import Gate
from app.serving.web import WebApp, create_app
from app.settings import Settings

pytestmark = pytest.mark.process


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[WebApp]:
    """An application between its lifespan's start and end."""
    app = create_app(settings)
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await lifespan


async def send(app: WebApp, method: str, path: str) -> tuple[int, dict[str, str], Any]:
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer prodkit_x")],
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def take(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, take)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("event") == "request"]


@pytest.mark.parametrize("path", ["/v1/responses", "/ask"])
async def test_a_full_replica_sheds_every_request_but_the_probes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    monkeypatch.setattr("app.serving.web.Gate", lambda _limit, metrics, body_bytes: Gate(0, metrics, body_bytes))
    async with started(settings) as app:
        status, headers, body = await send(app, "POST", path)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(headers["retry-after"]) <= 3
        assert (await send(app, "GET", "/health/live"))[0] == 200
        assert (await send(app, "GET", "/health/ready"))[0] == 200
    [line] = lines(capsys)
    assert (line["status"], line["error_code"], line["domain"]) == (503, "overloaded", "policy")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/models", "/documents/doc_1"])
async def test_a_fault_of_ours_is_500_in_the_same_shape_and_counts_as_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    async def broken(_presented: str) -> None:
        raise ZeroDivisionError("a secret detail")

    counted: list[str] = []
    count = Metrics.count

    def counting(self: Metrics, name: str, value: float = 1) -> None:
        counted.append(name)
        count(self, name, value)

    monkeypatch.setattr(Metrics, "count", counting)
    async with started(settings) as app:
        monkeypatch.setattr(app.services().keys, "lookup", broken)
        method = "POST" if path == "/v1/responses" else "GET"
        status, headers, body = await send(app, method, path)
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert headers["x-request-id"] in body["error"]["message"]
    assert "detail" not in str(body)
    assert counted.count("InternalErrors") == 1
    [line] = lines(capsys)
    assert (line["status"], line["domain"]) == (500, "us")


async def test_told_to_drain_it_is_not_ready_and_still_serves(settings: Settings) -> None:
    async with started(settings) as app:
        app.drain()
        status, _, report = await send(app, "GET", "/health/ready")
        assert (status, report["status"]) == (503, "draining")
        assert (await send(app, "GET", "/v1/models"))[0] == 401


def test_before_the_start_there_is_nothing_to_call(settings: Settings) -> None:
    app = create_app(settings)
    with pytest.raises(RuntimeError):
        app.services()
    with pytest.raises(RuntimeError):
        app.pipeline()
    app.drain()
