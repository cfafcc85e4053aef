"""How many tokens a text may be, when nobody has counted them yet or the count never arrived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.pipeline.endpoints import Endpoint

BYTES_PER_TOKEN = 4
"""OpenAI's own estimate for its token limits is of this kind; UTF-8 bytes rather than characters keep CJK honest."""
ATTACHMENT_TOKENS = 1_500
"""An inline image or file: its bytes say little about its tokens. About one high-detail image."""
MESSAGE_TOKENS = 4  # what frames one message or item

_ATTACHMENTS = frozenset({"image_url", "file_data", "input_audio", "file_url"})
_ALSO_READ = frozenset({"instructions", "tools", "functions", "text", "response_format"})


def text_tokens(size_bytes: int) -> int:
    """Tokens of so many bytes of text, rounded up."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def input_tokens(endpoint: Endpoint, document: Mapping[str, Any]) -> int:
    """Estimated tokens that the model reads for a bounded body; at least 1."""
    total = _tokens(document[endpoint.content])
    if not _ALSO_READ.isdisjoint(document):
        for name in _ALSO_READ & document.keys() & endpoint.fields.keys():
            if document[name] is not None:
                total += text_tokens(len(orjson.dumps(document[name])))
    return max(1, total)


def _tokens(node: object) -> int:
    if isinstance(node, str):
        return text_tokens(len(node) if node.isascii() else len(node.encode()))
    if isinstance(node, list):
        if node and type(node[0]) is int:
            return len(node)  # already tokens
        return sum(map(_tokens, node))
    if isinstance(node, dict):
        total = MESSAGE_TOKENS if "role" in node else 0
        for name, value in node.items():
            if name in _ATTACHMENTS:
                total += ATTACHMENT_TOKENS
            elif type(value) is str and value.isascii():  # most values are, and are counted here
                total -= -len(value) // BYTES_PER_TOKEN
            else:
                total += _tokens(value)
        return total
    return 0
