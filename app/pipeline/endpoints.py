"""What is served: one row an endpoint, and the fields each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import ApiError

JsonTypes = frozenset[str]

STRING: JsonTypes = frozenset({"string"})
INTEGER: JsonTypes = frozenset({"integer"})
NUMBER: JsonTypes = frozenset({"number", "integer"})
BOOLEAN: JsonTypes = frozenset({"boolean"})
ARRAY: JsonTypes = frozenset({"array"})
OBJECT: JsonTypes = frozenset({"object"})
TEXT_OR_LIST = STRING | ARRAY
TEXT_OR_OBJECT = STRING | OBJECT


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: how its requests are checked, its answers known, metered and kept."""

    path: str
    kind: str
    """Kind of model it takes: `text`, `embedding` or `moderation`."""
    content: str
    """Field that holds what the model reads; required."""
    answer: str
    """Field that every whole answer has; a 200 without it is not an answer."""
    fields: Mapping[str, JsonTypes]
    """Every field that is accepted, with its JSON types (and null)."""
    output_caps: tuple[str, ...] = ()
    """Fields that bound the output tokens; the first is set when the caller sets none."""
    streams: bool = False
    cached: bool = False


# Fields outside these tables are refused: a new way to refer to stored objects must not open by itself (tenants share
# one OpenAI project). Names and types: openai 3.54.0, types/*_create_params.py.
_RESPONSES: Mapping[str, JsonTypes] = {
    "model": STRING,
    "input": TEXT_OR_LIST,
    "instructions": STRING,
    "stream": BOOLEAN,
    "stream_options": OBJECT,
    "store": BOOLEAN,
    "include": ARRAY,
    "max_output_tokens": INTEGER,
    "max_tool_calls": INTEGER,
    "metadata": OBJECT,
    "moderation": OBJECT,
    "parallel_tool_calls": BOOLEAN,
    "prompt_cache_key": STRING,
    "prompt_cache_options": OBJECT,
    "prompt_cache_retention": STRING,
    "reasoning": OBJECT,
    "safety_identifier": STRING,
    "service_tier": STRING,
    "stop": TEXT_OR_LIST,  # ours: OpenAI has no such parameter here
    "temperature": NUMBER,
    "text": OBJECT,
    "tool_choice": TEXT_OR_OBJECT,
    "tools": ARRAY,
    "top_logprobs": INTEGER,
    "top_p": NUMBER,
    "truncation": STRING,
    "user": STRING,
    "context_management": ARRAY,
    # known, and refused by name in the isolation step unless null or false
    "background": BOOLEAN,
    "background_options": OBJECT,
    "conversation": TEXT_OR_OBJECT,
    "previous_response_id": STRING,
    "prompt": OBJECT,
}

_CHAT: Mapping[str, JsonTypes] = {
    "model": STRING,
    "messages": ARRAY,
    "stream": BOOLEAN,
    "stream_options": OBJECT,
    "store": BOOLEAN,
    "audio": OBJECT,
    "frequency_penalty": NUMBER,
    "function_call": TEXT_OR_OBJECT,
    "functions": ARRAY,
    "logit_bias": OBJECT,
    "logprobs": BOOLEAN,
    "max_completion_tokens": INTEGER,
    "max_tokens": INTEGER,
    "metadata": OBJECT,
    "modalities": ARRAY,
    "moderation": OBJECT,
    "n": INTEGER,
    "parallel_tool_calls": BOOLEAN,
    "prediction": OBJECT,
    "presence_penalty": NUMBER,
    "prompt_cache_key": STRING,
    "prompt_cache_options": OBJECT,
    "prompt_cache_retention": STRING,
    "reasoning_effort": STRING,
    "response_format": OBJECT,
    "safety_identifier": STRING,
    "seed": INTEGER,
    "service_tier": STRING,
    "stop": TEXT_OR_LIST,
    "temperature": NUMBER,
    "tool_choice": TEXT_OR_OBJECT,
    "tools": ARRAY,
    "top_logprobs": INTEGER,
    "top_p": NUMBER,
    "user": STRING,
    "verbosity": STRING,
    "web_search_options": OBJECT,
}

_EMBEDDINGS: Mapping[str, JsonTypes] = {
    "model": STRING,
    "input": TEXT_OR_LIST,
    "dimensions": INTEGER,
    "encoding_format": STRING,
    "user": STRING,
}

_MODERATIONS: Mapping[str, JsonTypes] = {"model": STRING, "input": TEXT_OR_LIST}

RESPONSES = Endpoint(
    "/v1/responses",
    kind="text",
    content="input",
    answer="output",
    fields=_RESPONSES,
    output_caps=("max_output_tokens",),
    streams=True,
    cached=True,
)
CHAT = Endpoint(
    "/v1/chat/completions",
    kind="text",
    content="messages",
    answer="choices",
    fields=_CHAT,
    output_caps=("max_completion_tokens", "max_tokens"),
    streams=True,
    cached=True,
)
EMBEDDINGS = Endpoint(
    "/v1/embeddings", kind="embedding", content="input", answer="data", fields=_EMBEDDINGS, cached=True
)
MODERATIONS = Endpoint("/v1/moderations", kind="moderation", content="input", answer="results", fields=_MODERATIONS)

ENDPOINTS: Mapping[str, Endpoint] = {endpoint.path: endpoint for endpoint in (RESPONSES, CHAT, EMBEDDINGS, MODERATIONS)}
SERVED = (*ENDPOINTS, "/v1/deferred/{id}", "/v1/models", "/v1/models/{id}")
"""Paths that exist, for the message of the ones that do not."""


def endpoint_of(path: str) -> Endpoint:
    """The endpoint at a path; raises ApiError 404 `unsupported_endpoint`."""
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        raise ApiError("unsupported_endpoint", f"{path} is not served here; served are {', '.join(SERVED)}.")
    return endpoint
