"""/ask asks a model once for the same question, until the tenant's documents change."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from local.openai.server import Running
from tests.app.product.conftest import Site

pytestmark = pytest.mark.process

QUESTION = {"question": "When is the office open?", "stream": False}


def responses(simulator: Running) -> int:
    return sum(request["path"] == "/v1/responses" for request in simulator.requests())


async def post(site: Site, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx2.Response:
    """An answer that was given, and kept just afterwards."""
    answer = await site.http.post(path, json=body, headers=headers)
    assert answer.status_code == 200
    await site.app.pipeline().close()
    return answer


async def ask(site: Site) -> dict[str, Any]:
    return dict((await post(site, "/ask", QUESTION)).json())


async def test_the_same_question_asks_the_model_once_until_a_document_is_added_or_deleted(
    site: Site, simulator: Running
) -> None:
    simulator.reset()
    await site.learn("hours", "The office is open from nine to five.")
    first = await ask(site)
    assert (first["cache"], responses(simulator)) == ("miss", 1)
    again = await ask(site)
    assert (again["cache"], again["answer"], responses(simulator)) == ("hit", first["answer"], 1)
    # Far from the question, so that it may well be asked with the same passages: the answer is made anew all the same.
    added = await site.learn("recipe", "Boil the beans for an hour.")
    assert ((await ask(site))["cache"], responses(simulator)) == ("miss", 2)
    assert (await ask(site))["cache"] == "hit"
    await site.http.delete(f"/documents/{added}")
    after = await ask(site)
    assert (after["cache"], responses(simulator)) == ("miss", 3)
    assert added not in {source["document_id"] for source in after["sources"]}


async def test_a_streamed_answer_is_replayed_as_its_events(site: Site, simulator: Running) -> None:
    simulator.reset()
    await site.learn("hours", "The office is open from nine to five.")
    streams = [(await post(site, "/ask", QUESTION | {"stream": True})).text for _ in range(2)]
    assert responses(simulator) == 1
    assert streams[1].replace('"cache":"hit"', '"cache":"miss"') == streams[0]
    assert streams[0].count("event: delta") > 0


async def test_a_tenant_empties_its_own_cache_and_no_other(site: Site) -> None:
    body = {"model": "fast", "input": "Keep this."}
    for _ in range(2):
        kept = await post(site, "/v1/responses", body, {"x-prodkit-cache-tags": "mine"})
    assert kept.headers["x-prodkit-cache"] == "hit"
    assert (await site.http.delete("/cache", params={"tag": "other"})).json() == {
        "object": "cache.invalidated",
        "tag": "other",
    }
    kept = await site.http.post("/v1/responses", json=body, headers={"x-prodkit-cache-tags": "mine"})
    assert kept.headers["x-prodkit-cache"] == "hit"
    for path in ("/cache?tag=mine", "/cache"):
        assert (await site.http.delete(path)).status_code == 200
        kept = await site.http.post("/v1/responses", json=body, headers={"x-prodkit-cache-tags": "mine"})
        assert kept.headers["x-prodkit-cache"] == "miss"
    assert (await site.http.delete("/cache", params={"tag": "not a tag"})).status_code == 400
    assert (await site.http.delete("/cache", headers={"authorization": ""})).status_code == 401
