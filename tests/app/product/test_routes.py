"""/documents as a client sees it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx2
import pytest

from app.product.upload import MAX_BODY_BYTES
from tests.app.product.conftest import Site

pytestmark = pytest.mark.process
NOBODY = "doc_" + "0" * 28


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_posted_document_can_be_followed_listed_and_deleted(site: Site) -> None:
    posted = await site.http.post(
        "/documents", params={"name": "notes.md"}, content="# Café", headers={"content-type": "text/markdown"}
    )
    assert posted.status_code == 202
    document = posted.json()
    assert document | {"id": "", "created_at": 0} == {
        "id": "",
        "object": "document",
        "name": "notes.md",
        "status": "pending",
        "reason": None,
        "bytes": 7,
        "chunks": 0,
        "created_at": 0,
    }
    assert posted.headers["location"] == f"/documents/{document['id']}"
    assert (await site.http.get(posted.headers["location"])).json() == document
    listed = (await site.http.get("/documents")).json()
    assert listed == {
        "object": "list",
        "data": [document],
        "first_id": document["id"],
        "last_id": document["id"],
        "has_more": False,
    }
    for _ in range(2):
        deleted = await site.http.delete(posted.headers["location"])
        assert deleted.json() == {"id": document["id"], "object": "document.deleted", "deleted": True}
    assert (await site.http.get(posted.headers["location"])).status_code == 404
    assert (await site.http.get("/documents")).json()["data"] == []


async def test_pages_go_on_after_the_last_id_seen(site: Site) -> None:
    made = [(await site.http.post("/documents", json={"text": f"n{n}"})).json()["id"] for n in range(3)]
    first = (await site.http.get("/documents", params={"limit": 2})).json()
    assert [d["id"] for d in first["data"]] == [made[2], made[1]]
    assert first["has_more"]
    rest = (await site.http.get("/documents", params={"limit": 2, "after": first["last_id"]})).json()
    assert [d["id"] for d in rest["data"]] == [made[0]]
    assert not rest["has_more"]


async def test_a_bad_page_or_id_is_refused_by_name(site: Site) -> None:
    for limit in ("0", "101", "x", "-1", "²"):
        assert error_of(await site.http.get("/documents", params={"limit": limit}))["param"] == "limit"
    assert error_of(await site.http.get("/documents", params={"after": "../x"}))["param"] == "after"
    for method in ("GET", "DELETE"):
        answer = await site.http.request(method, "/documents/nothing")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    assert error_of(await site.http.get(f"/documents/{NOBODY}"))["code"] == "not_found"


async def test_a_body_that_is_too_long_is_refused_before_it_is_read(site: Site) -> None:
    answer = await site.http.post(
        "/documents", content=b"a" * (MAX_BODY_BYTES + 1), headers={"content-type": "text/plain"}
    )
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


async def test_nothing_is_served_without_a_key(site: Site) -> None:
    for method, path in (("GET", "/documents"), ("POST", "/documents"), ("DELETE", f"/documents/{NOBODY}")):
        answer = await site.http.request(method, path, headers={"authorization": ""})
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")


def test_the_product_costs_a_replica_nothing_until_it_is_used() -> None:
    heavy = "{'openai', 'numpy', 'boto3', 'pydantic'}"
    code = f"import sys, app.serving.web, app.product.routes; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_an_upload_that_is_refused_leaves_no_document(site: Site) -> None:
    answer = await site.http.post("/documents", content=b"%PDF", headers={"content-type": "application/pdf"})
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")
    assert (await site.http.get("/documents")).json()["data"] == []
