"""A document is read once, whole, patiently; a bad one says why."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from app.errors import ApiError
from app.keys import Identity
from app.pipeline import Call, Pipeline, Reply
from app.product.chunks import passages
from app.product.documents import Documents, Job
from app.product.gateway import Gateway
from app.product.ingest import ATTEMPTS, BadDocumentError, Ingest
from app.product.vectors import unpack
from app.services import Services
from local.openai.server import Running

pytestmark = pytest.mark.process


class Naps:
    """Sleeps that take no time and are remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def ingest(documents: Documents, pipeline: Pipeline, started: Services, naps: Naps) -> Ingest:
    """The real thing, but for its waits."""
    return Ingest(documents, Gateway(pipeline), lambda: started.models.current.product, sleep=naps)


async def post(documents: Documents, identity: Identity, text: str) -> Job:
    made = await documents.create(identity.tenant, identity.key_id, "name", text)
    return Job(identity.tenant, made.id, identity.key_id)


async def test_every_passage_gets_a_vector_in_batches_of_a_hundred(
    ingest: Ingest, documents: Documents, identity: Identity, started: Services, simulator: Running
) -> None:
    text = "".join(f"Sentence number {n} says something of its own. " for n in range(6000))
    job = await post(documents, identity, text)
    assert await ingest.run(job, identity, "req_1")
    found = list(passages(text, started.models.current.product.chunk_tokens))
    assert len(found) > 200
    file = await documents.passages_file(identity.tenant, job.document_id)
    assert file is not None
    segment = unpack(file)
    assert segment.passages == found
    assert segment.rows.shape == (len(found), 1536)
    document = await documents.get(identity.tenant, job.document_id)
    assert document is not None
    assert (document.status, document.chunks) == ("ready", len(found))
    sizes = [len(request["body"]["input"]) for request in simulator.requests() if request["body"]]
    assert max(sizes, default=0) <= 100


async def test_the_same_document_twice_is_read_once(
    ingest: Ingest, documents: Documents, identity: Identity, simulator: Running
) -> None:
    job = await post(documents, identity, "Some text.")
    assert await ingest.run(job, identity, "req_1")
    asked = len(simulator.requests())
    before = await documents.epoch(identity.tenant)
    assert not await ingest.run(job, identity, "req_2")
    assert len(simulator.requests()) == asked
    assert await documents.epoch(identity.tenant) > before, "the first time may have died before it told the indexes"


async def test_a_deleted_document_is_skipped_and_its_leftovers_go(
    ingest: Ingest, documents: Documents, identity: Identity, started: Services, simulator: Running
) -> None:
    job = await post(documents, identity, "Some text.")
    await documents.delete(job.tenant, job.document_id)
    left = f"tenants/{job.tenant}/{job.document_id}/chunks.json"
    await started.aws.call("s3", "put_object", Bucket=started.settings.documents_bucket, Key=left, Body=b"{}")
    assert not await ingest.run(job, identity, "req_1")
    assert await documents.passages_file(job.tenant, job.document_id) is None
    assert simulator.requests() == []


@pytest.mark.parametrize("source", [b"\xff\xfe\x00", b"  \n "])
async def test_a_bad_document_is_told_from_a_bad_moment(
    ingest: Ingest, documents: Documents, identity: Identity, started: Services, source: bytes
) -> None:
    job = await post(documents, identity, "Some text.")
    key = f"tenants/{job.tenant}/{job.document_id}/source"
    await started.aws.call("s3", "put_object", Bucket=started.settings.documents_bucket, Key=key, Body=source)
    with pytest.raises(BadDocumentError, match=r"UTF-8|no text"):
        await ingest.run(job, identity, "req_1")


async def test_a_text_that_is_missing_is_a_bad_document(
    ingest: Ingest, documents: Documents, identity: Identity, started: Services
) -> None:
    job = await post(documents, identity, "Some text.")
    key = f"tenants/{job.tenant}/{job.document_id}/source"
    await started.aws.call("s3", "delete_object", Bucket=started.settings.documents_bucket, Key=key)
    with pytest.raises(BadDocumentError, match="missing"):
        await ingest.run(job, identity, "req_1")


async def test_a_rate_limit_is_waited_out_as_long_as_it_asks(
    ingest: Ingest, documents: Documents, identity: Identity, simulator: Running, naps: Naps
) -> None:
    job = await post(documents, identity, "Some text.")
    simulator.fault("status", status=429, code="rate_limit_exceeded", retry_after=2, times=2)
    assert await ingest.run(job, identity, "req_1")
    assert naps.seconds
    assert all(2 < seconds <= 6 for seconds in naps.seconds)


class Narrow:
    """A pipeline whose key may never send more than 30 passages at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def run(self, call: Call) -> Reply:
        texts = orjson.loads(call.body)["input"]
        self.sizes.append(len(texts))
        if len(texts) > 30:
            raise ApiError("rate_limit_exceeded", "Request too large", headers={"x-should-retry": "false"})
        data = [{"object": "embedding", "index": n, "embedding": [float(len(text))]} for n, text in enumerate(texts)]
        body = orjson.dumps({"object": "list", "model": "m", "data": data[::-1]})
        return Reply(200, [("content-type", "application/json")], body)


async def test_a_key_of_few_tokens_a_minute_reads_in_smaller_bites(
    documents: Documents, identity: Identity, started: Services, naps: Naps
) -> None:
    narrow = Narrow()
    ingest = Ingest(documents, Gateway(narrow), lambda: started.models.current.product, sleep=naps)
    text = "".join(f"Sentence number {n} says something of its own. " for n in range(3000))
    job = await post(documents, identity, text)
    assert await ingest.run(job, identity, "req_1")
    found = list(passages(text, started.models.current.product.chunk_tokens))
    assert narrow.sizes[:3] == [100, 50, 25]
    assert sum(narrow.sizes[2:]) == len(found)
    assert naps.seconds == []


async def test_a_passage_that_no_minute_allows_is_not_waited_for(
    ingest: Ingest, documents: Documents, identity: Identity, naps: Naps
) -> None:
    job = await post(documents, identity, "A sentence of some length. " * 20)
    with pytest.raises(ApiError, match="Request too large"):
        await ingest.run(job, replace(identity, tokens_per_minute=10), "req_1")
    assert naps.seconds == []


async def test_an_outage_is_given_up_after_a_bounded_number_of_attempts(
    ingest: Ingest, documents: Documents, identity: Identity, simulator: Running, naps: Naps
) -> None:
    job = await post(documents, identity, "Some text.")
    simulator.fault("status", status=500, times=None)
    with pytest.raises(ApiError) as caught:
        await ingest.run(job, identity, "req_1")
    assert caught.value.retryable
    assert len(naps.seconds) == ATTEMPTS - 1
    assert sorted(naps.seconds) == naps.seconds
    document = await documents.get(identity.tenant, job.document_id)
    assert document is not None
    assert document.status == "pending"


async def test_a_text_that_openai_refuses_is_a_bad_document_with_its_reason(
    ingest: Ingest, documents: Documents, identity: Identity, simulator: Running, naps: Naps
) -> None:
    job = await post(documents, identity, "Some text.")
    simulator.fault("status", status=400, code="invalid_value", message="This text is refused.", times=None)
    with pytest.raises(BadDocumentError, match=r"This text is refused\."):
        await ingest.run(job, identity, "req_1")
    assert naps.seconds == []
