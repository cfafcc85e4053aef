"""Documents come, are found, and go without a trace."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from app.aws import Aws
from app.errors import ApiError
from app.product.documents import ID, Document, Documents, Job
from app.services import Services
from tests.app.conftest import CloudParts, free_port

pytestmark = pytest.mark.process
NOBODY = "doc_" + "0" * 28


async def test_a_new_document_is_pending_kept_and_queued(documents: Documents, cloud: CloudParts, tenant: str) -> None:
    made = await documents.create(tenant, "0123456789ab", "notes.md", "Café")
    assert ID.match(made.id)
    assert (made.status, made.bytes, made.chunks, made.reason) == ("pending", 5, 0, None)
    assert await documents.get(tenant, made.id) == made
    assert await documents.source(tenant, made.id) == "Café".encode()
    assert [job for job in queued(cloud) if job.get("tenant") == tenant] == [
        {"version": 1, "kind": "ingest", "tenant": tenant, "document_id": made.id, "key_id": "0123456789ab"}
    ]


async def test_nothing_stays_behind_when_it_cannot_be_queued(started: Services, tenant: str) -> None:
    settings = started.settings
    absent = settings.queue_url + "-absent"
    documents = Documents(
        started.aws,
        table=settings.state_table,
        bucket=settings.documents_bucket,
        queue_url=absent,
        invalidate=started.cache.watch.invalidate,
    )
    with pytest.raises(ApiError, match="cannot be reached"):
        await documents.create(tenant, "0123456789ab", "notes.md", "text")
    assert await documents.page(tenant, 10, None) == ([], False)
    listed = await started.aws.call(
        "s3", "list_objects_v2", Bucket=settings.documents_bucket, Prefix=f"tenants/{tenant}/"
    )
    assert listed["KeyCount"] == 0


async def test_pages_go_from_new_to_old_without_gap_or_repeat(documents: Documents, tenant: str) -> None:
    made = [await documents.create(tenant, "k1", f"n{n}", "text") for n in range(5)]
    seen: list[Document] = []
    after, more = None, True
    while more:
        page, more = await documents.page(tenant, 2, after)
        seen += page
        after = page[-1].id
    assert [d.id for d in seen] == sorted((d.id for d in made), reverse=True)


async def test_a_tenant_sees_only_its_own(documents: Documents, tenant: str) -> None:
    made = await documents.create(tenant, "k1", "mine", "text")
    assert await documents.get("someone-else", made.id) is None
    assert await documents.page("someone-else", 10, None) == ([], False)


async def test_a_finished_document_is_ready_and_the_epoch_says_so(documents: Documents, tenant: str) -> None:
    made = await documents.create(tenant, "k1", "mine", "text")
    before = await documents.epoch(tenant)
    assert await documents.finish(tenant, made.id, b"{}", 3)
    assert await documents.epoch(tenant) == before + 1
    found = await documents.get(tenant, made.id)
    assert found is not None
    assert (found.status, found.chunks) == ("ready", 3)
    assert [d.id for d in await documents.ready(tenant)] == [made.id]
    assert await documents.passages_file(tenant, made.id) == b"{}"


async def test_finishing_a_deleted_document_leaves_nothing(documents: Documents, tenant: str) -> None:
    made = await documents.create(tenant, "k1", "mine", "text")
    await documents.delete(tenant, made.id)
    assert not await documents.finish(tenant, made.id, b"{}", 3)
    assert await documents.get(tenant, made.id) is None
    assert await documents.passages_file(tenant, made.id) is None


async def test_deleting_removes_everything_tells_the_indexes_and_may_be_repeated(
    documents: Documents, tenant: str
) -> None:
    made = await documents.create(tenant, "k1", "mine", "text")
    await documents.finish(tenant, made.id, b"{}", 3)
    for _ in range(2):
        before = await documents.epoch(tenant)
        await documents.delete(tenant, made.id)
        assert await documents.epoch(tenant) > before
        assert await documents.get(tenant, made.id) is None
        assert await documents.source(tenant, made.id) is None
        assert await documents.passages_file(tenant, made.id) is None


async def test_only_a_pending_document_fails(documents: Documents, tenant: str) -> None:
    made = await documents.create(tenant, "k1", "mine", "text")
    assert await documents.fail(tenant, made.id, "x" * 900)
    found = await documents.get(tenant, made.id)
    assert found is not None
    assert (found.status, found.reason) == ("failed", "x" * 500)
    assert not await documents.fail(tenant, made.id, "again")
    assert await documents.finish(tenant, made.id, b"{}", 1), "a later attempt may still succeed"
    assert not await documents.fail(tenant, made.id, "too late")
    assert not await documents.fail(tenant, NOBODY, "never was")


async def test_an_aws_that_is_away_is_a_503_that_says_to_come_back(tenant: str) -> None:
    aws = Aws("us-east-1", f"http://127.0.0.1:{free_port()}")

    async def invalidate(_tenant: str, _tag: str) -> None:
        raise AssertionError("nothing changed")

    documents = Documents(
        aws, table="state", bucket="documents", queue_url="http://127.0.0.1:9/q", invalidate=invalidate
    )
    try:
        with pytest.raises(ApiError) as caught:
            await documents.get(tenant, NOBODY)
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})
    finally:
        aws.close()


async def test_two_documents_at_once_count_two_epochs(documents: Documents, tenant: str) -> None:
    made = [await documents.create(tenant, "k1", f"n{n}", "text") for n in range(4)]
    await asyncio.gather(*(documents.finish(tenant, d.id, b"{}", 1) for d in made))
    assert await documents.epoch(tenant) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"kind": "erase"},
        {"tenant": "../other"},
        {"tenant": "UP"},
        {"document_id": "doc_../../x"},
        {"key_id": "#"},
        {"key_id": None},
    ],
)
def test_a_message_that_names_no_job_of_ours_is_refused(change: dict[str, Any]) -> None:
    good = orjson.loads(Job("acme", NOBODY, "0123456789ab").to_message())
    assert Job.from_message(orjson.dumps(good).decode()) == Job("acme", NOBODY, "0123456789ab")
    with pytest.raises(ValueError, match=r"not an ingest message|names no valid"):
        Job.from_message(orjson.dumps(good | change).decode())


@pytest.mark.parametrize("body", ["", "not json", "[]", "null"])
def test_a_message_that_is_no_object_is_refused(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own words
        Job.from_message(body)


def queued(cloud: CloudParts) -> list[dict[str, Any]]:
    """Every job in the queue."""
    sqs = cloud.client("sqs")
    jobs: list[dict[str, Any]] = []
    while True:
        found = sqs.receive_message(QueueUrl=cloud.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        if not found:
            return jobs
        jobs += [orjson.loads(message["Body"]) for message in found]
