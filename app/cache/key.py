"""When are two requests the same question? Written in any order, with any spelling of a number, defaults or not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from app.cache.scripts import FORMAT

# What OpenAI takes when a field is absent, for the fields where that depends on no model. openai 3.54.0, docstrings of
# types/*_create_params.py. `null` means absent everywhere.
_SAMPLING: Mapping[str, object] = {"temperature": 1, "top_p": 1}
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "/v1/responses": {
        **_SAMPLING,
        "parallel_tool_calls": True,
        "truncation": "disabled",
        "tool_choice": "auto",
        "tools": [],
        "include": [],
        "metadata": {},
        "text": {"format": {"type": "text"}},
        "top_logprobs": 0,
    },
    "/v1/chat/completions": {
        **_SAMPLING,
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logprobs": False,
        "logit_bias": {},
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tools": [],
        "metadata": {},
    },
    "/v1/embeddings": {"encoding_format": "float"},
}
_NO_DEFAULTS: Mapping[str, object] = {}
_LEFT_OUT: Mapping[str, frozenset[str]] = {path: frozenset({*names, "stream"}) for path, names in DEFAULTS.items()}
"""Fields that may not stand in a question's key."""
_STREAM = frozenset({"stream"})
_LEAST, _MOST = -(2**63), 2**64
"""Whole numbers that JSON is read and written with here without becoming floats."""


def canonical(endpoint: str, document: Mapping[str, Any]) -> bytes:
    """The same bytes for the same question: keys sorted, one spelling of each number, no default, no `stream`.

    Raises TypeError for what did not come from JSON.
    """
    told = document
    if None in document.values() or not _LEFT_OUT.get(endpoint, _STREAM).isdisjoint(document):
        defaults = DEFAULTS.get(endpoint, _NO_DEFAULTS)
        told = {
            name: value
            for name, value in document.items()
            if value is not None and name != "stream" and not (name in defaults and _same(value, defaults[name]))
        }
    written = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    # A float that is a whole number is written with one of these; what stands in a text costs a walk and no more.
    # (`find`: for bytes `in` raises and drops an exception first.)
    if written.find(b".0") >= 0 or written.find(b"e+") >= 0:
        return orjson.dumps(_numbers(told), option=orjson.OPT_SORT_KEYS)
    return written


def question_key(tenant: str, *parts: bytes) -> str:
    """The Valkey key of a question. The tenant stands in it in clear, so that its entries can be found and removed."""
    pieces = [tenant.encode()]
    for part in parts:
        pieces += len(part).to_bytes(8, "big"), part  # with lengths, so that no two splits of the same bytes collide
    return f"cache:{FORMAT}:{tenant}:{{{hashlib.sha256(b''.join(pieces)).hexdigest()}}}"


def fingerprint(body: bytes) -> str:
    """What tells one request from another under the same idempotency key."""
    return hashlib.sha256(body).hexdigest()[:32]


def _same(value: object, default: object) -> bool:
    # A bool equals 0 or 1 in Python, and is neither in JSON.
    return isinstance(value, bool) is isinstance(default, bool) and value == default


def _numbers(node: Any) -> Any:
    if isinstance(node, float):
        return int(node) if node.is_integer() and _LEAST <= node < _MOST else node
    if isinstance(node, dict):
        return {name: _numbers(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value) for value in node]
    return node
