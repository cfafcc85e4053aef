"""One question is one request and one trace, whatever it takes to answer it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from app.observability.metrics import CALLER_ERRORS, INPUT_TOKENS, REQUESTS, UPSTREAM_ERRORS, Metrics
from local.openai.server import Running
from tests.app.product.conftest import Site
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    seen: Counter[str] = Counter()
    count = Metrics.count

    def counting(self: Metrics, name: str, value: float = 1) -> None:
        seen[name] += int(value)
        count(self, name, value)

    monkeypatch.setattr(Metrics, "count", counting)
    return seen


async def lines(capsys: pytest.CaptureFixture[str], last: str) -> list[dict[str, Any]]:
    """The lines of requests up to that of the endpoint `last`: they are written when nobody waits for anything."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while last not in {line["endpoint"] for line in found}:
            await asyncio.sleep(0.01)
            found += [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event":"request"' in line]
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_is_one_trace_whose_lines_name_their_parent_and_one_request(
    site: Site, counted: Counter[str], capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    await site.learn("notes", "The harbour opens at seven.")
    await lines(capsys, "/v1/embeddings")
    counted.clear()
    question = {"question": "When does the harbour open?", "stream": stream}
    answer = await site.http.post("/ask", json=question, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert answer.status_code == 200
    *inner, outer = sorted(await lines(capsys, "/ask"), key=lambda line: line["endpoint"] == "/ask")
    assert [line["endpoint"] for line in inner] == ["/v1/embeddings", "/v1/responses"]
    assert {line["trace_id"] for line in (*inner, outer)} == {TRACE}
    assert {line["request_id"] for line in (*inner, outer)} == {answer.headers["x-request-id"]}
    assert len({line["span_id"] for line in (*inner, outer)}) == 3
    assert ("parent" in outer, outer["parent_span_id"]) == (False, SPAN)
    assert [(line["parent"], line["parent_span_id"]) for line in inner] == [("/ask", outer["span_id"])] * 2
    assert counted[REQUESTS] == 1
    assert counted[INPUT_TOKENS] == sum(line["input_tokens"] for line in inner) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_inside_fails_one_request(
    site: Site, counted: Counter[str], simulator: Running, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    await site.learn("notes", "The harbour opens at seven.")
    await lines(capsys, "/v1/embeddings")
    counted.clear()
    simulator.fault("cut", after=6, match={"path": "/v1/responses"})
    answer = await site.http.post("/ask", json={"question": "When?", "stream": stream})
    assert answer.status_code == (200 if stream else 502)
    [outer] = [line for line in await lines(capsys, "/ask") if line["endpoint"] == "/ask"]
    assert (counted[REQUESTS], counted[UPSTREAM_ERRORS], counted[CALLER_ERRORS]) == (1, 1, 0)
    assert (outer["status"], outer["domain"]) == (answer.status_code, "upstream")
