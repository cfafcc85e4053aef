"""Step: which prompts may share OpenAI's prompt cache: those of one tenant, never those of two.

All tenants use one OpenAI project, and an answer says how much of its prompt was cached: without a key of its own a
tenant could find out what others ask. The key also leads requests of a tenant to where their beginnings are cached.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from app.pipeline.endpoints import CHAT, RESPONSES, Endpoint

FIELD = "prompt_cache_key"
MOST_REMEMBERED_CHARACTERS = 128
"""Of a caller's own key: a longer one is worked out each time, so that nobody fills the memory."""


def scoped(endpoint: Endpoint, document: Mapping[str, Any], tenant: str) -> Mapping[str, Any]:
    """The document with its tenant's prompt cache key: the caller's own, if it gave one, inside of its tenant."""
    if endpoint is not RESPONSES and endpoint is not CHAT:
        return document
    own = document.get(FIELD) or ""
    key = key_of(tenant, own) if len(own) <= MOST_REMEMBERED_CHARACTERS else key_of.__wrapped__(tenant, own)
    return {**document, FIELD: key}


@functools.lru_cache(maxsize=4_096)
def key_of(tenant: str, own: str) -> str:
    """What OpenAI is told: it names nobody, and no two tenants have the same."""
    return hashlib.blake2b(f"{tenant}\n{own}".encode(), digest_size=16).hexdigest()
