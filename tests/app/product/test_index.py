"""Search is exact, sees every change within a second, and keeps its memory within bounds."""

from __future__ import annotations

import pytest

from app.product.chunks import Passage
from app.product.documents import Document, Documents
from app.product.index import EPOCH_SECONDS, LISTING_SECONDS, ExactIndex
from app.product.vectors import Vector, pack, unpack
from app.services import Services

pytestmark = pytest.mark.process
MANY_BYTES = 1 << 24


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """Documents whose reads are counted."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.epochs = self.lists = self.files = 0

    async def epoch(self, tenant: str) -> int:
        self.epochs += 1
        return await self.documents.epoch(tenant)

    async def ready(self, tenant: str) -> list[Document]:
        self.lists += 1
        return await self.documents.ready(tenant)

    async def passages_file(self, tenant: str, document_id: str) -> bytes | None:
        self.files += 1
        return await self.documents.passages_file(tenant, document_id)


async def add(documents: Documents, tenant: str, rows: list[list[float]], model: str = "m") -> Document:
    """A ready document with one passage a row."""
    made = await documents.create(tenant, "k1", "name", "text")
    passages = [Passage(n, n + 1, f"p{n}") for n in range(len(rows))]
    await documents.finish(tenant, made.id, pack(model, passages, rows), len(rows))
    return made


async def test_the_nearest_passages_of_all_documents_come_best_first(documents: Documents, tenant: str) -> None:
    one = await add(documents, tenant, [[1.0, 0.0], [0.0, 1.0]])
    other = await add(documents, tenant, [[0.6, 0.8]])
    index = ExactIndex(documents, max_bytes=MANY_BYTES)
    for _ in range(2):  # from the files, then from memory
        hits = await index.search(tenant, Vector("m", [1.0, 0.1]), 2)
        assert [(hit.document_id, hit.start, hit.end, hit.text) for hit in hits] == [
            (one.id, 0, 1, "p0"),
            (other.id, 0, 1, "p0"),
        ]
        assert hits[0].score == pytest.approx(0.995, abs=1e-3)
    assert await index.size(tenant) == 2


async def test_no_tenant_finds_the_text_of_another(documents: Documents, tenant: str) -> None:
    await add(documents, tenant, [[1.0, 0.0]])
    index = ExactIndex(documents, max_bytes=MANY_BYTES)
    assert await index.search(tenant, Vector("m", [1.0, 0.0]), 5)
    assert await index.search(f"{tenant}-x", Vector("m", [1.0, 0.0]), 5) == []


async def test_a_change_is_seen_after_a_second_and_nothing_is_asked_before(documents: Documents, tenant: str) -> None:
    clock, counting = Clock(), Counting(documents)
    index = ExactIndex(counting, max_bytes=MANY_BYTES, clock=clock)
    first = await add(documents, tenant, [[1.0]])
    assert len(await index.search(tenant, Vector("m", [1.0]), 5)) == 1
    await add(documents, tenant, [[1.0]])
    clock.now += EPOCH_SECONDS * 0.9
    assert len(await index.search(tenant, Vector("m", [1.0]), 5)) == 1
    assert (counting.epochs, counting.lists, counting.files) == (1, 1, 1)
    clock.now += EPOCH_SECONDS * 0.2
    assert len(await index.search(tenant, Vector("m", [1.0]), 5)) == 2
    assert (counting.epochs, counting.lists, counting.files) == (2, 2, 2), "what is in memory is not read again"
    await documents.delete(tenant, first.id)
    clock.now += EPOCH_SECONDS
    [left] = await index.search(tenant, Vector("m", [1.0]), 5)
    assert left.document_id != first.id
    assert index.held_bytes == unpack(pack("m", [Passage(0, 1, "p0")], [[1.0]])).size, "the deleted one is forgotten"


async def test_a_change_whose_writer_died_is_seen_within_a_minute(
    documents: Documents, started: Services, tenant: str
) -> None:
    clock = Clock()
    index = ExactIndex(documents, max_bytes=MANY_BYTES, clock=clock)
    made = await add(documents, tenant, [[1.0]])
    assert await index.size(tenant) == 1
    key = {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"DOC#{made.id}"}}
    await started.aws.call("dynamodb", "delete_item", TableName=started.settings.state_table, Key=key)
    clock.now += LISTING_SECONDS / 2
    assert await index.size(tenant) == 1
    clock.now += LISTING_SECONDS / 2
    assert await index.size(tenant) == 0


async def test_memory_is_bounded_and_the_whole_tenant_is_still_searched(documents: Documents, tenant: str) -> None:
    one_size = unpack(pack("m", [Passage(0, 1, "p0")], [[1.0, 0.0]])).size
    for n in range(5):
        await add(documents, tenant, [[1.0, float(n)]])
    index = ExactIndex(documents, max_bytes=2 * one_size)
    for _ in range(2):
        hits = await index.search(tenant, Vector("m", [1.0, 0.0]), 5)
        assert len(hits) == 5
        assert hits == sorted(hits, key=lambda hit: -hit.score)
        assert index.held_bytes == 2 * one_size
    tiny = ExactIndex(documents, max_bytes=one_size - 1)
    assert len(await tiny.search(tenant, Vector("m", [1.0, 0.0]), 5)) == 5
    assert tiny.held_bytes == 0


async def test_vectors_of_another_model_are_left_out(documents: Documents, tenant: str) -> None:
    await add(documents, tenant, [[1.0]], model="old")
    kept = await add(documents, tenant, [[1.0]])
    index = ExactIndex(documents, max_bytes=MANY_BYTES)
    assert [hit.document_id for hit in await index.search(tenant, Vector("m", [1.0]), 5)] == [kept.id]
