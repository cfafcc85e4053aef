"""The product's paths: /ask and /documents. Each handler checks, calls one method and shapes the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.budgets.api import routes as budget_routes
from app.errors import ApiError
from app.pipeline.authenticate import authenticate
from app.product.ask import Ask, Question
from app.product.documents import ID, Document, Documents
from app.product.gateway import Gateway
from app.product.index import MEMORY_SHARE, ExactIndex
from app.product.stream import EventStream
from app.product.upload import MAX_BODY_BYTES, Upload
from app.serving.exchange import UntilDisconnect

if TYPE_CHECKING:
    from app.keys import Identity
    from app.pipeline import Pipeline
    from app.pipeline.record import Record
    from app.services import Services

MAX_ASK_BYTES = 64 * 1024
BODY_SECONDS = 60.0
"""For a whole request body to arrive: a caller who sends nothing holds no place for longer."""
DEFAULT_PAGE, MAX_PAGE = 20, 100
MIB = 1 << 20


def routes(pipeline_of: Callable[[], Pipeline], services_of: Callable[[], Services]) -> list[Route]:
    """The product's routes; both callables are called when a request comes, as nothing exists before the start."""
    product = _Product(pipeline_of, services_of)
    return [
        Route("/ask", product.ask, methods=["POST"]),
        Route("/documents", product.add, methods=["POST"]),
        Route("/documents", product.list, methods=["GET"]),
        Route("/documents/{document_id}", product.show, methods=["GET"]),
        Route("/documents/{document_id}", product.delete, methods=["DELETE"]),
        *budget_routes(services_of, _body),
    ]


def documents_of(services: Services) -> Documents:
    """The documents of a process, by its settings."""
    settings = services.settings
    return Documents(
        services.aws,
        table=settings.state_table,
        bucket=settings.documents_bucket,
        queue_url=settings.queue_url,
        invalidate=services.cache.watch.invalidate,
    )


class _Product:
    """The handlers. What they lean on is made at the first request of each start."""

    def __init__(self, pipeline_of: Callable[[], Pipeline], services_of: Callable[[], Services]) -> None:
        self._pipeline_of = pipeline_of
        self._services_of = services_of
        self._made: WeakKeyDictionary[Pipeline, tuple[Documents, Ask]] = WeakKeyDictionary()

    async def ask(self, request: Request) -> Response:
        """POST /ask: an answer with citations, streamed unless `stream` is false."""
        identity = await self._identity(request)
        question = Question.from_json(await _body(request, MAX_ASK_BYTES))
        _, ask = self._parts()
        record: Record = request.state.record
        if question.stream:
            events = ask.events(identity, record.request_id, question.text, record)
            return EventStream(events, heartbeat_seconds=self._services_of().settings.heartbeat_seconds)
        with UntilDisconnect(request.receive):
            return _json(200, await ask.whole(identity, record.request_id, question.text, record))
        return Response(status_code=499)  # nobody is there to read it; the log line keeps the status

    async def add(self, request: Request) -> Response:
        """POST /documents: keep a text and queue it; 202 with the document as `pending`."""
        identity = await self._identity(request)
        body = await _body(request, MAX_BODY_BYTES)
        upload = Upload.read(request.headers.get("content-type"), request.query_params.get("name"), body)
        documents, _ = self._parts()
        document = await documents.create(identity.tenant, identity.key_id, upload.name, upload.text)
        return _json(202, document.to_json(), {"location": f"/documents/{document.id}"})

    async def list(self, request: Request) -> Response:
        """GET /documents: newest first, `limit` (1-100, default 20) at a time, going on `after` the last id seen."""
        identity = await self._identity(request)
        limit, after = _limit(request.query_params.get("limit")), request.query_params.get("after")
        if after is not None and not ID.match(after):
            raise ApiError("invalid_value", "'after' must be the id of a document, as a page's last_id.", param="after")
        documents, _ = self._parts()
        page, more = await documents.page(identity.tenant, limit, after)
        ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
        return _json(200, {"object": "list", "data": [d.to_json() for d in page], **ends, "has_more": more})

    async def show(self, request: Request) -> Response:
        """GET /documents/{id}: one document with its status; 404 `not_found`."""
        identity = await self._identity(request)
        document_id: str = request.path_params["document_id"]
        documents, _ = self._parts()
        document: Document | None = None
        if ID.match(document_id):
            document = await documents.get(identity.tenant, document_id)
        if document is None:
            raise ApiError("not_found", f"There is no document {document_id[:80]!r}.")
        return _json(200, document.to_json())

    async def delete(self, request: Request) -> Response:
        """DELETE /documents/{id}: gone from storage, from every search and every kept answer; repeatable."""
        identity = await self._identity(request)
        document_id: str = request.path_params["document_id"]
        if not ID.match(document_id):
            raise ApiError("not_found", f"There is no document {document_id[:80]!r}.")
        documents, _ = self._parts()
        await documents.delete(identity.tenant, document_id)
        return _json(200, {"id": document_id, "object": "document.deleted", "deleted": True})

    async def _identity(self, request: Request) -> Identity:
        identity = await authenticate(request.headers.get("authorization"), self._services_of().keys)
        request.state.identity = identity
        return identity

    def _parts(self) -> tuple[Documents, Ask]:
        pipeline = self._pipeline_of()
        if pipeline not in self._made:
            services = self._services_of()
            documents = documents_of(services)
            index = ExactIndex(documents, max_bytes=services.container.memory_mib * MIB // MEMORY_SHARE)
            services.cache.listen(index.changed)
            ask = Ask(Gateway(pipeline), index, lambda: services.models.current.product)
            self._made[pipeline] = documents, ask
        return self._made[pipeline]


async def _body(request: Request, most: int) -> bytes:
    """The whole body; raises ApiError 413 as soon as it is longer than `most` bytes, 408 when it does not arrive."""
    body = bytearray()
    waited = time.perf_counter()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise ApiError("request_too_large", f"The request's body is longer than {most} bytes.")
    except TimeoutError:
        raise ApiError("request_timeout", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    record: Record = request.state.record
    record.phases.receive_seconds = time.perf_counter() - waited
    return bytes(body)


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise ApiError("invalid_value", f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(text)


def _json(status: int, content: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
