"""What a caller wishes of the cache: `Cache-Control`, tags, an idempotency key. Checked, bounded, cheap when absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import ApiError

TAGS_HEADER = "x-prodkit-cache-tags"
IDEMPOTENCY_HEADER = "idempotency-key"
DOCUMENTS_TAG = "documents"
"""Stands for the tenant's documents: adding or deleting one invalidates what has it."""
MAX_TAGS = 8
MAX_HEADER_CHARACTERS = 1_024
MAX_IDEMPOTENCY_CHARACTERS = 255
TAG_PATTERN = "[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
_TAG = re.compile(TAG_PATTERN)
_TAG_RULE = "1 to 64 letters, digits, dots, colons, _ and -"
_LONGEST_SECONDS = 10**9


@dataclass(frozen=True, slots=True)
class Wishes:
    """The directives of a request's `Cache-Control` that are honoured."""

    no_store: bool = False
    """Neither read, nor joined, nor kept."""
    no_cache: bool = False
    """Neither read nor joined: asked anew, and the answer kept."""
    only_if_cached: bool = False
    max_age: int | None = None
    """Seconds since the answer was made, at most."""
    max_stale: int = 0
    """Seconds after its time to live in which an answer is still good enough, without a refresh being waited for."""


NONE = Wishes()


def wishes_of(headers: Mapping[str, str]) -> Wishes:
    """The wishes in a request's headers; what is not understood is ignored, as HTTP asks."""
    text = headers.get("cache-control")
    if text is None:
        return NONE
    given: dict[str, str] = {}
    for directive in text[:MAX_HEADER_CHARACTERS].lower().split(","):
        name, _, value = directive.strip().partition("=")
        given[name] = value.strip('" ')
    return Wishes(
        no_store="no-store" in given,
        no_cache="no-cache" in given,
        only_if_cached="only-if-cached" in given,
        max_age=_seconds(given.get("max-age")),
        max_stale=_seconds(given.get("max-stale") or None) or (_LONGEST_SECONDS if given.get("max-stale") == "" else 0),
    )


def tags_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The tags of a request, sorted; raises ApiError 400 for more than MAX_TAGS or one that is none."""
    text = headers.get(TAGS_HEADER)
    if not text:
        return ()
    tags = sorted({tag.strip() for tag in text[:MAX_HEADER_CHARACTERS].split(",")} - {""})
    if len(tags) > MAX_TAGS or len(text) > MAX_HEADER_CHARACTERS:
        raise ApiError("invalid_value", f"'{TAGS_HEADER}' names at most {MAX_TAGS} tags.", param=TAGS_HEADER)
    for tag in tags:
        check_tag(tag, TAGS_HEADER)
    return tuple(tags)


def check_tag(tag: str, where: str) -> None:
    """Raises ApiError 400 when a text is no tag."""
    if _TAG.fullmatch(tag) is None:
        raise ApiError("invalid_value", f"'{where}' has {tag[:64]!r}; a tag is {_TAG_RULE}.", param=where)


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The key under which a repeated request is the same request; raises ApiError 400 for one that is too long."""
    key = headers.get(IDEMPOTENCY_HEADER)
    if not key:
        return None
    if len(key) > MAX_IDEMPOTENCY_CHARACTERS or not key.isprintable():
        message = f"'Idempotency-Key' must be 1 to {MAX_IDEMPOTENCY_CHARACTERS} printable characters."
        raise ApiError("invalid_value", message, param=IDEMPOTENCY_HEADER)
    return key


def key_reused() -> ApiError:
    """The refusal of another request under the same key."""
    message = "This Idempotency-Key was sent before with another request; send a new key for a new request."
    return ApiError("idempotency_key_reused", message, param=IDEMPOTENCY_HEADER)


def _seconds(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:10]), _LONGEST_SECONDS)
