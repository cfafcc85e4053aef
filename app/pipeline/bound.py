"""Step: is this a request at all? Size, media type, JSON, depth and every field's type, before anything reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.errors import ApiError
from app.pipeline.endpoints import EMBEDDINGS, Endpoint, JsonTypes

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 64
"""Levels of arrays and objects in a body; deep nesting costs the parser of whoever reads it next."""
MAX_EMBEDDING_ITEMS = 2048  # OpenAI's own bound
MAX_NAME_CHARACTERS = 80
"""Of a caller's own field name in a message."""


def read_bounded(endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The parsed body; raises ApiError that names the field, what it got and what it takes."""
    check_size(len(body))
    _check_media_type(headers.get("content-type"))
    document = _parse(body)
    if document.get(endpoint.content) is None:
        message = f"Missing required parameter: '{endpoint.content}'."
        raise ApiError("missing_required_parameter", message, param=endpoint.content)
    fields = endpoint.fields
    for name, value in document.items():
        allowed = fields.get(name)
        if allowed is None or _TYPE_NAMES[type(value)] not in allowed:
            _check_field(endpoint, name, value)
    if endpoint is EMBEDDINGS:
        _check_embedding_input(document["input"])
    return document


def check_size(size: int) -> None:
    """Raises ApiError 413 when a body of `size` bytes is too long."""
    if size > MAX_BODY_BYTES:
        limit = f"{MAX_BODY_BYTES // (1024 * 1024)} MB"
        raise ApiError("request_too_large", f"The request body is longer than {limit}; send less at a time.")


def json_type(value: object) -> str:
    """JSON's name of a parsed value's type; a whole number is an `integer`."""
    return _TYPE_NAMES[type(value)]


_TYPE_NAMES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def _check_media_type(content_type: str | None) -> None:
    if content_type is None or content_type == "application/json":
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        message = f"Content-Type is {media_type[:MAX_NAME_CHARACTERS]!r}; send `Content-Type: application/json`."
        raise ApiError("unsupported_media_type", message)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json", f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(document, dict):
        raise ApiError("invalid_json", f"The body must be a JSON object, but is {_article(json_type(document))}.")
    # Brackets inside strings count too, so this can only overestimate: the walk runs for unusual bodies alone.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper_than(document, MAX_DEPTH):
        raise ApiError("invalid_json", f"The body is nested deeper than {MAX_DEPTH} levels.")
    return document


def _deeper_than(document: dict[str, Any], limit: int) -> bool:
    level: list[Any] = [document]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _check_field(endpoint: Endpoint, name: str, value: object) -> None:
    allowed = endpoint.fields.get(name)
    if allowed is None:
        shown = name[:MAX_NAME_CHARACTERS]
        raise ApiError("unsupported_parameter", f"Unknown parameter for {endpoint.path}: '{shown}'.", param=shown)
    got = json_type(value)
    if got != "null" and got not in allowed:
        raise ApiError(
            "invalid_type",
            f"Invalid type for '{name}': expected {_expected(allowed)}, but got {_article(got)} instead.",
            param=name,
        )


def _check_embedding_input(value: str | list[Any]) -> None:
    if isinstance(value, list):
        if len(value) > MAX_EMBEDDING_ITEMS and json_type(value[0]) != "integer":
            message = f"'input' has {len(value)} items; at most {MAX_EMBEDDING_ITEMS} are allowed in one request."
            raise ApiError("invalid_value", message, param="input")
        kinds = {type(item) for item in value}
        if len(kinds) != 1 or not kinds <= {str, int, list}:
            message = "'input' must be a string, or a non-empty list of strings, of tokens or of token lists."
            raise ApiError("invalid_type", message, param="input")
        for index, item in enumerate(value):
            if item in ("", []):
                raise ApiError("invalid_value", f"'input[{index}]' is empty.", param=f"input[{index}]")
    elif not value:
        raise ApiError("invalid_value", "'input' is empty.", param="input")


def _expected(types: JsonTypes) -> str:
    names = types - {"integer"} if "number" in types else types
    return " or ".join(_article(name) for name in sorted(names))


def _article(name: str) -> str:
    return name if name == "null" else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
