"""Embeddings: hashed bags of words, normalised, so that texts that share words have a high cosine."""

import base64
import hashlib
import math
import struct
from collections import Counter
from typing import Any

from local.openai import checks
from local.openai.ask import count_tokens
from local.openai.errors import bad
from local.openai.models import Model
from local.openai.sources import terms

_MOST_ITEMS = 2_048
_MOST_TOKENS = 300_000
_PLACES_PER_TERM = 4


def read(body: dict[str, Any], model: Model) -> list[str | list[int]]:
    """Check a request body and return its inputs: texts or lists of token ids."""
    checks.check(body, checks.EMBEDDINGS, "input", "model")
    value = body["input"]
    items = value if isinstance(value, list) and not _is_tokens(value) else [value]
    dimensions = body.get("dimensions")
    if dimensions is not None and (dimensions > model.dimensions or model.name.endswith("002")):
        raise bad(f"Invalid 'dimensions' for model '{model.name}'.", "dimensions", "invalid_value")
    if not items or len(items) > _MOST_ITEMS:
        text = f"Invalid 'input': expected 1 to {_MOST_ITEMS} items, but got {len(items)}."
        raise bad(text, "input", "invalid_value")
    for item in items:
        if not isinstance(item, str) and not _is_tokens(item):
            raise checks.wrong_type("input", "a string, an array of strings or arrays of tokens", item)
        if not item:
            raise bad("Invalid 'input': input cannot be an empty string.", "input", "invalid_value")
        if tokens_of(item) > model.context_tokens:
            text = f"This model's maximum context length is {model.context_tokens} tokens, however you requested "
            raise bad(f"{text}{tokens_of(item)} tokens. Please reduce your prompt.", "input", "context_length_exceeded")
    if sum(map(tokens_of, items)) > _MOST_TOKENS:
        raise bad(f"Requested more than {_MOST_TOKENS} tokens in one request.", "input", "max_tokens_per_request")
    return items


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def tokens_of(item: str | list[int]) -> int:
    """Tokens of one input."""
    return count_tokens(item) if isinstance(item, str) else len(item)


def render(body: dict[str, Any], model: Model, items: list[str | list[int]]) -> dict[str, Any]:
    """The answer: one unit vector for each input, as floats or base64 of little-endian float32."""
    size = body.get("dimensions") or model.dimensions
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector(item, size))}
        for index, item in enumerate(items)
    ]
    tokens = sum(map(tokens_of, items))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model.name, "usage": usage}


def vector(item: str | list[int], size: int) -> list[float]:
    """A unit vector of `size` numbers; each word sets a few signed places chosen by its hash."""
    words = (terms(item) or [item]) if isinstance(item, str) else [str(token) for token in item]
    values = [0.0] * size
    for word, count in Counter(words).items():
        digest = hashlib.blake2b(word.encode(), digest_size=5 * _PLACES_PER_TERM).digest()
        weight = 1 + math.log(count)
        for at in range(0, len(digest), 5):
            place = int.from_bytes(digest[at : at + 4], "little") % size
            values[place] += weight if digest[at + 4] & 1 else -weight
    length = math.sqrt(sum(value * value for value in values))
    if not length:
        values[0] = length = 1.0
    return [value / length for value in values]


def _base64(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
