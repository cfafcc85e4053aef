"""Find the passages nearest to a question. `Index` is the seam; exact cosine over a tenant's files fills it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.cache.wishes import DOCUMENTS_TAG
from app.product.documents import Document
from app.product.vectors import Segment, Vector, unpack

EPOCH_SECONDS = 1.0
"""How long a replica may go on without asking whether the tenant's documents changed."""
LISTING_SECONDS = 60.0
"""How long at most when nobody said so: a writer can die between its change and the bump of the epoch."""
MEMORY_SHARE = 16
"""One part in 16 of the container's memory holds segments: 64 MiB of 1 GiB, about 8,000 passages."""
LOADS = 4
"""Files being read and unpacked at once; each is up to 10 MB and twice that in memory."""
MAX_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage near to the question; offsets in characters of the document, score by cosine (-1 to 1)."""

    document_id: str
    name: str
    start: int
    end: int
    text: str
    score: float


class Index(Protocol):
    """Where passages are found. An implementation never shows a tenant a passage of another."""

    async def size(self, tenant: str) -> int:
        """How many documents can be searched; 0 means that asking needs no model."""

    async def search(self, tenant: str, vector: Vector, k: int) -> list[Hit]:
        """Up to k passages, nearest first; equal ones in the order of their document and place."""


class Library(Protocol):
    """What an index reads; `Documents` is one."""

    async def epoch(self, tenant: str) -> int:
        """A number that grows with every change of what can be searched."""

    async def ready(self, tenant: str) -> list[Document]:
        """Every document that can be searched."""

    async def passages_file(self, tenant: str, document_id: str) -> bytes | None:
        """A document's passages and vectors, None when it was deleted."""


@dataclass(slots=True)
class _Listing:
    """A tenant's searchable documents as they were at an epoch. Times are of the index's clock, in seconds."""

    documents: list[Document]
    epoch: int
    listed: float
    checked: float


class ExactIndex:
    """Compares a question with every passage of the tenant: right by construction, quick up to some 10,000 passages.

    Files stay in memory, least recently searched out first, within `max_bytes`; a tenant larger than that is still
    searched whole, slower.
    """

    def __init__(self, documents: Library, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._documents = documents
        self._max_bytes = max_bytes
        self._clock = clock
        self._segments: OrderedDict[tuple[str, str], Segment] = OrderedDict()
        self._bytes = 0
        self._listings: OrderedDict[str, _Listing] = OrderedDict()
        self._loads = asyncio.Semaphore(LOADS)
        self._changes = 0

    @property
    def held_bytes(self) -> int:
        """Memory of the segments held, never more than `max_bytes`."""
        return self._bytes

    async def size(self, tenant: str) -> int:
        """How many documents of the tenant can be searched."""
        return len(await self._list(tenant))

    async def search(self, tenant: str, vector: Vector, k: int) -> list[Hit]:
        """The k nearest passages of the tenant's ready documents; raises ApiError 503 when they cannot be read."""
        held: list[tuple[Document, Segment]] = []
        missing: list[Document] = []
        for document in await self._list(tenant):
            segment = self._held(tenant, document.id)
            if segment is None:
                missing.append(document)
            else:
                held.append((document, segment))
        found = await asyncio.gather(
            asyncio.to_thread(_nearest, held, vector, k), *(self._load(tenant, d, vector, k) for d in missing)
        )
        hits = [hit for some in found for hit in some]
        return sorted(hits, key=lambda hit: (-hit.score, hit.document_id, hit.start))[:k]

    def changed(self, tenant: str, tag: str) -> None:
        """Told of an invalidation before it is acknowledged: look at the tenant's documents anew when asked next."""
        if tag in ("", DOCUMENTS_TAG):
            self._changes += 1
            listing = self._listings.get(tenant)
            if listing is not None:
                listing.checked = float("-inf")

    def _unless_changed(self, changes: int, now: float) -> float:
        """When what was just read counts as checked: not at all when an invalidation came while it was read."""
        return now if changes == self._changes else float("-inf")

    async def _list(self, tenant: str) -> list[Document]:
        """The tenant's searchable documents, at most EPOCH_SECONDS old."""
        now = self._clock()
        changes = self._changes
        listing = self._listings.get(tenant)
        if listing is not None and now - listing.checked < EPOCH_SECONDS:
            return listing.documents
        # The epoch goes first: a change between the two reads is seen now and looked at again, never missed.
        epoch = await self._documents.epoch(tenant)
        if listing is not None and listing.epoch == epoch and now - listing.listed < LISTING_SECONDS:
            listing.checked = self._unless_changed(changes, now)
            return listing.documents
        documents = await self._documents.ready(tenant)
        checked = self._unless_changed(changes, now)
        self._listings[tenant] = _Listing(documents, epoch, listed=now, checked=checked)
        self._listings.move_to_end(tenant)
        self._forget(tenant, {document.id for document in documents})
        while len(self._listings) > MAX_TENANTS:
            self._listings.popitem(last=False)
        return documents

    async def _load(self, tenant: str, document: Document, vector: Vector, k: int) -> list[Hit]:
        """Search one document that was not in memory; another search may have read it in the meantime."""
        async with self._loads:
            segment = self._held(tenant, document.id)
            if segment is None:
                file = await self._documents.passages_file(tenant, document.id)
                if file is None:  # deleted since it was listed
                    return []
                segment = await asyncio.to_thread(unpack, file)
                self._hold(tenant, document.id, segment)
            return await asyncio.to_thread(_nearest, [(document, segment)], vector, k)

    def _held(self, tenant: str, document_id: str) -> Segment | None:
        segment = self._segments.get((tenant, document_id))
        if segment is not None:
            self._segments.move_to_end((tenant, document_id))
        return segment

    def _hold(self, tenant: str, document_id: str, segment: Segment) -> None:
        if segment.size > self._max_bytes:
            return
        former = self._segments.pop((tenant, document_id), None)
        self._segments[tenant, document_id] = segment
        self._bytes += segment.size - (former.size if former else 0)
        while self._bytes > self._max_bytes:
            self._bytes -= self._segments.popitem(last=False)[1].size

    def _forget(self, tenant: str, kept: set[str]) -> None:
        """Drop what was deleted: a deleted text does not stay in memory either."""
        for key in [key for key in self._segments if key[0] == tenant and key[1] not in kept]:
            self._bytes -= self._segments.pop(key).size


def _nearest(segments: list[tuple[Document, Segment]], vector: Vector, k: int) -> list[Hit]:
    return [
        Hit(document.id, document.name, passage.start, passage.end, passage.text, score)
        for document, segment in segments
        for score, passage in segment.nearest(vector, k)
    ]
