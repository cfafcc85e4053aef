"""Read one document: cut it, embed its passages, keep them and call it ready."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from random import SystemRandom
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.product.chunks import Passage, passages
from app.product.documents import READY, Documents, Job
from app.product.vectors import pack

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from app.keys import Identity
    from app.models import Product
    from app.product.gateway import Gateway

BATCH = 100
"""Passages in one embedding request; of 1,200 bytes each they are far below the 300,000 tokens it may have."""
ATTEMPTS = 6
"""Of one embedding request while OpenAI or a rate limit asks to wait; the message is tried again later after that."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
_REFUSALS = frozenset({400, 413, 422})  # the same text will be refused again


class BadDocumentError(Exception):
    """Reading the document again cannot help; the text says why, to its owner."""


class Ingest:
    """Makes documents searchable. Doing it again for the same document is harmless."""

    def __init__(
        self,
        documents: Documents,
        gateway: Gateway,
        product: Callable[[], Product],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`product` gives the settings in force; `sleep` waits between attempts, in seconds."""
        self._documents = documents
        self._gateway = gateway
        self._product = product
        self._sleep = sleep

    async def run(self, job: Job, identity: Identity, request_id: str) -> bool:
        """Read the document on the account of `identity`; False when there was nothing to do.

        Raises BadDocumentError, or ApiError for what another attempt may heal.
        """
        document = await self._documents.get(job.tenant, job.document_id)
        if document is None:
            # Deleted before it was read; an earlier attempt may have left its passages.
            await self._documents.delete(job.tenant, job.document_id)
            return False
        if document.status == READY:
            # Delivered twice; the first time may have ended before it told the indexes.
            await self._documents.bump(job.tenant)
            return False
        source = await self._documents.source(job.tenant, job.document_id)
        if source is None:
            raise BadDocumentError("The document's text is missing; add it again.")
        product = self._product()
        found = await asyncio.to_thread(_passages, source, product.chunk_tokens)
        async with await self._gateway.client(identity, request_id) as client:
            model, vectors = await self._embed(client, product.embedding_model, found)
        file = await asyncio.to_thread(pack, model, found, vectors)
        return await self._documents.finish(job.tenant, job.document_id, file, len(found))

    async def _embed(
        self, client: AsyncOpenAI, model: str, found: Sequence[Passage]
    ) -> tuple[str, list[Sequence[float]]]:
        """The model that answered and a vector for each passage, in their order."""
        vectors: list[Sequence[float]] = []
        answered, start, size = model, 0, BATCH
        while start < len(found):
            texts = [passage.text for passage in found[start : start + size]]
            try:
                answered, batch = await self._patiently(client, model, texts)
            except ApiError as error:
                # More than the key may ever spend in a minute; less may fit.
                if len(texts) == 1 or not _never_fits(error):
                    raise
                size = len(texts) // 2
                continue
            vectors += batch
            start += len(texts)
        return answered, vectors

    async def _patiently(self, client: AsyncOpenAI, model: str, texts: list[str]) -> tuple[str, list[Sequence[float]]]:
        """One batch, waiting as long as a retryable refusal asks, with doubling waits otherwise."""
        from openai import APIStatusError, OpenAIError

        from app.sdk import api_error

        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await client.embeddings.create(model=model, input=texts)
            except OpenAIError as error:
                refusal = api_error(error)
                if isinstance(error, APIStatusError) and error.status_code in _REFUSALS:
                    raise BadDocumentError(refusal.message) from error
                if not refusal.retryable or _never_fits(refusal) or attempt == ATTEMPTS:
                    raise refusal from error
                await self._sleep(_wait(attempt, refusal.headers.get("retry-after")))
            else:
                in_order = sorted(answer.data, key=lambda item: item.index)
                return answer.model, [item.embedding for item in in_order]


def _passages(source: bytes, tokens: int) -> list[Passage]:
    try:
        text = source.decode()
    except UnicodeDecodeError:
        raise BadDocumentError("The document is not UTF-8 text; convert it and add it again.") from None
    # A blank passage says nothing and may not be embedded.
    found = [passage for passage in passages(text, tokens) if passage.text.strip()]
    if not found:
        raise BadDocumentError("The document holds no text.")
    return found


def _never_fits(error: ApiError) -> bool:
    return error.headers.get("x-should-retry") == "false"


def _wait(attempt: int, retry_after: str | None) -> float:
    """Seconds to wait: what was asked for at least, a random share of a doubling wait on top, bounded."""
    asked = float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else 0.0
    waited = FIRST_WAIT_SECONDS * math.ldexp(SystemRandom().uniform(0.5, 1.0), attempt - 1)
    return min(LONGEST_WAIT_SECONDS, asked + waited)
