"""Product code is ordinary `openai` code: a client whose transport runs the gateway's pipeline in this process.

Importing this module imports `openai` (1 s, 40 MB): `app.product.gateway` does so in a thread when it is first needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import httpx2
from openai import APIStatusError, AsyncOpenAI, OpenAIError

from app.cache.wishes import TAGS_HEADER
from app.errors import BILLING_CODES, ApiError
from app.pipeline.messages import ByteStream, Call, Reply

if TYPE_CHECKING:
    from app.keys import Identity
    from app.pipeline.record import Record

BASE_URL = "http://pipeline.invalid/v1"
"""Never resolved: `.invalid` has no address by RFC 2606, should anything ever try."""

_ORIGINAL = "prodkit_error"  # the httpx2 extension in which our own refusal travels through the SDK
_CODES = {408: "upstream_timeout", 429: "rate_limit_exceeded", 503: "overloaded", 504: "upstream_timeout"}
_PASSED_HEADERS = ("retry-after", "x-should-retry")


class Runs(Protocol):
    """What a client needs of the pipeline."""

    async def run(self, call: Call) -> Reply:
        """Answer one call; raises ApiError before the first byte, and only then."""


def client(pipeline: Runs, identity: Identity, request_id: str, parent: Record | None = None) -> AsyncOpenAI:
    """An official client on the account of `identity`: every policy holds, nothing leaves but by the pipeline.

    `parent` is the record of the HTTP request that is answered with its calls.
    It never retries (the pipeline owns that) and has no timeout of its own (the pipeline's deadlines hold). Errors are
    the SDK's: `api_error` turns them back. Use it in `async with`, and every stream of it too.
    """
    transport = PipelineTransport(pipeline, identity, request_id, parent)
    # trust_env=False: a proxy named in the environment would take the place of the transport.
    http = httpx2.AsyncClient(transport=transport, timeout=None, trust_env=False)
    return AsyncOpenAI(api_key="in-process", base_url=BASE_URL, max_retries=0, timeout=None, http_client=http)


class PipelineTransport(httpx2.AsyncBaseTransport):
    """Answers a request by `Pipeline.run`, streams as they come. Closing or cancelling reaches the pipeline."""

    def __init__(self, pipeline: Runs, identity: Identity, request_id: str, parent: Record | None = None) -> None:
        self._pipeline = pipeline
        self._identity = identity
        self._request_id = request_id
        self._parent = parent

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The pipeline's answer; its refusal is a response with the status and body a caller of /v1 would get."""
        body = await request.aread()
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        if TAGS_HEADER in request.headers:
            headers[TAGS_HEADER] = request.headers[TAGS_HEADER]
        call = Call(request.url.path, body, self._identity, self._request_id, headers, parent=self._parent)
        try:
            reply = await self._pipeline.run(call)
        except ApiError as error:
            shape = {"content-type": "application/json", "x-request-id": self._request_id}
            refused = {**error.headers, **shape}
            return httpx2.Response(error.status, headers=refused, content=error.body(), extensions={_ORIGINAL: error})
        if isinstance(reply.body, bytes):
            return httpx2.Response(reply.status, headers=reply.headers, content=reply.body)
        return httpx2.Response(reply.status, headers=reply.headers, stream=_Body(reply.body))


class _Body(httpx2.AsyncByteStream):
    """A reply's body. Iterating it again goes on where it stopped, as the SDK expects when it drains a stream."""

    def __init__(self, body: ByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


def api_error(error: OpenAIError) -> ApiError:
    """What to tell our own caller when a call through `client` failed: our refusal as it was, else OpenAI's reason."""
    if not isinstance(error, APIStatusError):
        return ApiError("upstream_incomplete", "The model's answer broke off; try again.")
    original = error.response.extensions.get(_ORIGINAL)
    if isinstance(original, ApiError):
        return original
    code = _CODES.get(error.status_code, "upstream_unreachable" if error.status_code >= 500 else None)
    if code is None or error.code in BILLING_CODES:
        code = "upstream_invalid_response"
    kept = {name: error.response.headers[name] for name in _PASSED_HEADERS if name in error.response.headers}
    return ApiError(code, _reason(error), headers=kept)


def _reason(error: APIStatusError) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return f"The model did not answer: {said}" if said else f"The model did not answer (status {error.status_code})."
