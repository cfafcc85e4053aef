"""Answer a question from the tenant's own documents: find passages, ask the model, say what was really cited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from app.cache.wishes import DOCUMENTS_TAG, TAGS_HEADER
from app.errors import KINDS, ApiError
from app.pipeline.headers import CACHE_HEADER
from app.product.prompt import INSTRUCTIONS, Source, cited, numbered, request_input
from app.product.vectors import Vector

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.responses import Response, ResponseError, ResponseErrorEvent

    from app.keys import Identity
    from app.models import Product
    from app.pipeline.record import Record
    from app.product.gateway import Gateway
    from app.product.index import Index

MAX_QUESTION_CHARACTERS = 4_000
NO_SOURCES = "There is no document to answer from yet. Add one with POST /documents and ask again once it is ready."
"""The answer to a tenant without a ready document; no model is asked for it and nothing is spent."""

Event = tuple[str, Mapping[str, Any]]
"""Name and data of an event: `sources`, `delta`s, then `done`."""

_ENDS = frozenset({"response.completed", "response.incomplete"})
_FAILURES = frozenset({"response.failed", "error"})
_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks, and whether the answer shall come as it is made."""

    text: str
    stream: bool

    @classmethod
    def from_json(cls, body: bytes) -> Question:
        """The question in a body `{"question": str, "stream": bool = true}`; raises ApiError 400 naming the field."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ApiError("invalid_json", 'The body is not JSON; send {"question": "..."}.') from None
        if not isinstance(document, dict):
            raise ApiError("invalid_json", 'The body must be a JSON object such as {"question": "..."}.')
        unknown = sorted(set(document) - {"question", "stream"})
        if unknown:
            name = unknown[0][:80]
            raise ApiError("unsupported_parameter", f"Unknown parameter for /ask: '{name}'.", param=name)
        text, stream = document.get("question"), document.get("stream", True)
        if not isinstance(text, str) or not text.strip():
            message = "'question' must be a text that is not empty."
            raise ApiError("missing_required_parameter", message, param="question")
        if len(text) > MAX_QUESTION_CHARACTERS:
            message = f"'question' has {len(text)} characters; at most {MAX_QUESTION_CHARACTERS} are allowed."
            raise ApiError("invalid_value", message, param="question")
        if not isinstance(stream, bool):
            raise ApiError("invalid_type", "'stream' must be true or false.", param="stream")
        return cls(text.strip(), stream)


class Ask:
    """Answers questions. Each answer costs one embedding and one response on the caller's account."""

    def __init__(self, gateway: Gateway, index: Index, product: Callable[[], Product]) -> None:
        """`product` gives the settings in force: models by alias and how many passages to show."""
        self._gateway = gateway
        self._index = index
        self._product = product

    async def whole(
        self, identity: Identity, request_id: str, question: str, parent: Record | None = None
    ) -> Mapping[str, Any]:
        """The answer at once: `answer`, `sources` and what `done` says. Raises ApiError.

        `parent` is the record of the HTTP request that asks.
        """
        if not await self._index.size(identity.tenant):
            return _nothing()
        async with await self._gateway.client(identity, request_id, parent) as client:
            with _api_errors():
                sources = await self._find(client, identity.tenant, question)
                if not sources:
                    return _nothing()
                raw = await client.responses.with_raw_response.create(**self._request(question, sources))
                response, cache = raw.parse(), raw.headers.get(CACHE_HEADER)
        if response.status == "failed":
            raise _failure(response.error)
        text = response.output_text
        return {"answer": text, **_shown(sources), **_done(response, text, sources, cache)}

    async def events(
        self, identity: Identity, request_id: str, question: str, parent: Record | None = None
    ) -> AsyncGenerator[Event, None]:
        """The answer as it is made. Raises ApiError; what goes wrong before the model accepts does so before an event.

        Closing the generator ends the model's work and the spending at once.
        """
        if not await self._index.size(identity.tenant):
            for event in _nothing_as_events():
                yield event
            return
        async with await self._gateway.client(identity, request_id, parent) as client:
            with _api_errors():
                sources = await self._find(client, identity.tenant, question)
                if not sources:
                    for event in _nothing_as_events():
                        yield event
                    return
                async with await client.responses.create(**self._request(question, sources), stream=True) as stream:
                    yield "sources", _shown(sources)
                    cache = stream.response.headers.get(CACHE_HEADER)
                    async with aclosing(_answer(stream, sources, cache)) as answer:
                        async for event in answer:
                            yield event

    async def _find(self, client: AsyncOpenAI, tenant: str, question: str) -> list[Source]:
        product = self._product()
        embedded = await client.embeddings.create(model=product.embedding_model, input=question)
        vector = Vector(embedded.model, embedded.data[0].embedding)
        return numbered(await self._index.search(tenant, vector, product.top_k))

    def _request(self, question: str, sources: Sequence[Source]) -> dict[str, Any]:
        """No tools, nothing stored: text out of a document has no way to act."""
        asked = request_input(question, sources)
        return {
            "model": self._product().answer_model,
            "instructions": INSTRUCTIONS,
            "input": asked,
            "store": False,
            "extra_headers": {TAGS_HEADER: DOCUMENTS_TAG},
        }


async def _answer(
    stream: AsyncIterator[Any], sources: Sequence[Source], cache: str | None
) -> AsyncGenerator[Event, None]:
    """The events of one Responses stream in our words; raises ApiError when it fails or has no end."""
    text: list[str] = []
    async for event in stream:
        if event.type in _DELTAS:
            text.append(event.delta)
            yield "delta", {"text": event.delta}
        elif event.type in _ENDS:
            yield "done", _done(event.response, "".join(text), sources, cache)
            return
        elif event.type in _FAILURES:
            raise _failure(event if event.type == "error" else event.response.error)
    raise _failure(None)


def _failure(error: ResponseError | ResponseErrorEvent | None) -> ApiError:
    """What a model that gave up said about it."""
    code = error.code if error and error.code else ""
    said = error.message if error else ""
    return ApiError(
        code if code in KINDS else "upstream_incomplete", said or "The model's answer broke off; try again."
    )


@contextmanager
def _api_errors() -> Iterator[None]:
    """The SDK's exceptions as what our caller is told. Entered after `Gateway.client`, which imports the SDK."""
    from openai import OpenAIError

    from app.sdk import api_error

    try:
        yield
    except OpenAIError as error:
        raise api_error(error) from error


def _shown(sources: Sequence[Source]) -> dict[str, Any]:
    return {"sources": [source.to_json() for source in sources], "no_sources": not sources}


def _done(response: Response, text: str, sources: Sequence[Source], cache: str | None) -> dict[str, Any]:
    """How an answer ended: `incomplete` when the token limit or a filter cut it; tokens as OpenAI counts them.

    `cache` says where the model's answer is from: with `hit`, `stale` and `join` nothing was spent on it.
    """
    usage = response.usage
    return {
        "status": response.status,
        "incomplete_reason": response.incomplete_details.reason if response.incomplete_details else None,
        "citations": [source.to_json() for source in cited(text, sources)],
        "no_sources": not sources,
        "model": response.model,
        "usage": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens} if usage else None,
        "cache": cache,
    }


def _nothing() -> dict[str, Any]:
    """The whole answer without any source."""
    ending: dict[str, Any] = {
        "status": "completed",
        "incomplete_reason": None,
        "citations": [],
        "model": None,
        "usage": None,
        "cache": None,
    }
    return {"answer": NO_SOURCES, **_shown([]), **ending}


def _nothing_as_events() -> Iterator[Event]:
    answer = _nothing()
    shown = ("sources", "no_sources")
    yield "sources", {name: answer[name] for name in shown}
    yield "delta", {"text": answer["answer"]}
    yield "done", {name: value for name, value in answer.items() if name not in ("answer", "sources")}
