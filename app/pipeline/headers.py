"""Our own headers of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.budgets.policy import RUNG_HEADER

if TYPE_CHECKING:
    from app.pipeline.record import Record


CACHE_HEADER = "x-prodkit-cache"
QUEUE_HEADER = "x-prodkit-queue-ms"
"""How long the call waited for its turn at a rate limit; absent when it did not."""


def own_headers(record: Record, ahead: list[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
    """What an answer says of its way through this service; `ahead` is what `headers_ahead` gave, and is used up."""
    headers = headers_ahead(record) if ahead is None else ahead
    if record.upstream_request_id is not None:
        headers.append(("x-upstream-request-id", record.upstream_request_id))
    return headers


def headers_ahead(record: Record) -> list[tuple[str, str]]:
    """The part of `own_headers` that is known before there is an answer."""
    headers = record.id_headers()
    headers.append((RUNG_HEADER, record.rung.label))
    if record.cache is not None:
        headers.append((CACHE_HEADER, record.cache))
    if record.queue_seconds >= 0.001:
        headers.append((QUEUE_HEADER, str(round(record.queue_seconds * 1000))))
    if record.model is not None:
        headers.append(("x-prodkit-model", record.model))
    return headers
