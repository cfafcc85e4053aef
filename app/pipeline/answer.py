"""What OpenAI gave back, made fit for the caller: known headers only, errors in one shape, our key nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import ApiError, error_body
from app.pipeline.endpoints import EMBEDDINGS, Endpoint
from app.pipeline.long_answers import LONG_BYTES, LongAnswers
from app.upstream.response import Response, UpstreamError

OUTLINED_BYTES = 4 * 1024 * 1024
"""A longer answer of vectors is not parsed whole: it would stop every other request, and take three times its size.
Above all that is ever merged, and so cut into parts, or kept."""
_VECTORS = re.compile(rb'"data"\s*:\s*\[')
_BEFORE_VECTORS = 1024

# Headers of OpenAI that mean something to its client. Those that name the organisation or the project are ours.
_PASSED = {
    name.encode(): name
    for name in (
        *("content-type", "openai-processing-ms", "openai-version", "retry-after", "retry-after-ms", "x-should-retry"),
        *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
    )
}
_PASSED_PREFIX = b"x-ratelimit-"
REQUEST_ID = b"x-request-id"
"""OpenAI's id of a request."""
_SHOWN_KEY = re.compile(rb"\bsk-[A-Za-z0-9_*.-]{4,}")  # OpenAI repeats a wrong key with stars in the middle
_HIDDEN = b"[key]"


@dataclass(slots=True)
class Answer:
    """A whole answer of OpenAI: an error as it goes to the caller, or a checked success with its parsed body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    document: dict[str, Any]
    upstream_request_id: str | None
    usage_estimated: bool = False
    """The usage in the document is our own estimate."""

    @property
    def error_code(self) -> str | None:
        """OpenAI's `code`, else its `type`; None for a success."""
        error = self.document.get("error") if self.status >= 400 else None
        return str(error.get("code") or error.get("type")) if isinstance(error, dict) else None


async def read_answer(response: Response, endpoint: Endpoint, key: str, room: LongAnswers) -> Answer:
    """The whole answer behind a response; raises ApiError 502 when it is cut, too long or not what the API answers."""
    try:
        body = await _read(response, room)
    finally:
        response.release()
    return answer_of(response, body, endpoint, key)


def answer_of(response: Response, body: bytes, endpoint: Endpoint, key: str) -> Answer:
    """The answer with a body that was read; raises ApiError 502 when it is not what the API answers."""
    status = response.status
    if status >= 400:
        body = _error(status, body, key)
        headers = [(name, value) for name, value in passed_headers(response.headers) if name != "content-type"]
        headers.append(("content-type", "application/json"))
        return Answer(status, headers, body, orjson.loads(body), response.header(REQUEST_ID))
    document = _outline(body) if endpoint is EMBEDDINGS and len(body) > OUTLINED_BYTES else None
    document = document or _object(body)
    if status != 200 or document is None or endpoint.answer not in document:
        raise invalid_response(response)
    return Answer(status, passed_headers(response.headers), body, document, response.header(REQUEST_ID))


def invalid_response(response: Response) -> ApiError:
    """The refusal of an answer that is not one of this API."""
    media_type = response.media_type[:100] or "no content type"
    message = f"OpenAI answered {response.status} with {media_type} that is not an answer of this endpoint; try again."
    return ApiError("upstream_invalid_response", message)


def passed_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The headers of OpenAI that go to the caller; names are in lower case."""
    return [
        (_PASSED.get(name) or name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name in _PASSED or name.startswith(_PASSED_PREFIX)
    ]


def without_key(body: bytes, key: str) -> bytes:
    """`body` with our key, and whatever looks like one, taken out."""
    return _SHOWN_KEY.sub(_HIDDEN, body.replace(key.encode(), _HIDDEN))


def _error(status: int, body: bytes, key: str) -> bytes:
    """OpenAI's error body as it is, but for a shown key; an error in any other shape is put into OpenAI's."""
    clean = without_key(body, key)
    document = _object(clean)
    if document is not None and isinstance(document.get("error"), dict):
        return clean
    return error_body(f"OpenAI answered {status} without saying why.", "upstream_error", None, None)


async def _read(response: Response, room: LongAnswers) -> bytes:
    pieces = []
    size = 0
    try:
        while piece := await response.read():
            pieces.append(piece)
            size += len(piece)
            if size > LONG_BYTES:
                beginning, pieces = b"".join(pieces), []
                return await room.read(response, beginning)
    except UpstreamError:
        # The answer was made and is billed: another attempt would pay twice.
        raise ApiError("upstream_incomplete", "The connection to OpenAI was cut inside its answer.") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _outline(body: bytes) -> dict[str, Any] | None:
    """An answer without the vectors in it; None when that does not tell what they cost."""
    found = _VECTORS.search(body, 0, _BEFORE_VECTORS)
    if found is None:
        return None
    document = _object(body[: found.end()] + body[body.rfind(b"]") :])
    return document if document is not None and isinstance(document.get("usage"), dict) else None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body if type(body) is bytes else memoryview(body))  # orjson takes no other bytes
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
