"""The exact response cache: the same question of the same tenant is paid for once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from app.valkey import ValkeyAwayError

if TYPE_CHECKING:
    from app.valkey import Valkey

log = logging.getLogger(__name__)

FORMAT = "1"  # of keys and values: a new one makes every old entry a miss
MAX_VALUE_BYTES = 1 << 20
DIGEST_BYTES = 16
LENGTH_BYTES = 4
MAX_META_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer as it was, with what the log line about a hit needs."""

    body: bytes
    content_type: str
    model: str
    """The model that gave the answer."""
    input_tokens: int
    output_tokens: int


class ResponseCache:
    """Answers in Valkey, by tenant, endpoint and canonical body. No answer in time is a miss, never a failure."""

    def __init__(self, valkey: Valkey, ttl_seconds: Callable[[], int]) -> None:
        """`ttl_seconds` says how long a new entry lives; 0 turns the cache off."""
        self._valkey = valkey
        self._ttl_seconds = ttl_seconds

    async def get(self, tenant: str, endpoint: str, canonical: bytes) -> CachedResponse | None:
        """The stored answer; None when there is none, when it is damaged, and when Valkey is away. Never raises."""
        if self._ttl_seconds() <= 0:
            return None
        key = cache_key(tenant, endpoint, canonical)
        try:
            value = await self._valkey.call("GET", key)
        except ValkeyAwayError:
            return None
        if value is None:
            return None
        response = unpack(key, value)
        if response is None:
            log.warning("damaged cache entry taken as a miss")
        return response

    async def put(self, tenant: str, endpoint: str, canonical: bytes, response: CachedResponse) -> bool:
        """Store an answer; False when it is too large, the cache is off or Valkey is away. Never raises."""
        ttl = self._ttl_seconds()
        key = cache_key(tenant, endpoint, canonical)
        value = pack(key, response)
        if ttl <= 0 or len(value) > MAX_VALUE_BYTES:
            return False
        try:
            await self._valkey.call("SET", key, value, "EX", ttl)
        except ValkeyAwayError:
            return False
        return True


def canonical(body: Mapping[str, Any]) -> bytes:
    """The same bytes for the same request however it was written: keys sorted, no spaces, without `stream`.

    An answer may so serve streaming and whole requests alike; `content_type` of the entry says which form is stored.
    Raises TypeError for what did not come from JSON.
    """
    return orjson.dumps({name: value for name, value in body.items() if name != "stream"}, option=orjson.OPT_SORT_KEYS)


def cache_key(tenant: str, endpoint: str, canonical_body: bytes) -> str:
    """The Valkey key of a request. The tenant stands in it in clear, so that its entries can be found and removed."""
    digest = hashlib.sha256()
    for part in (tenant.encode(), endpoint.encode(), canonical_body):
        digest.update(len(part).to_bytes(8, "big"))  # with lengths, so that no two splits of the same bytes collide
        digest.update(part)
    return f"cache:{FORMAT}:{tenant}:{digest.hexdigest()}"


def pack(key: str, response: CachedResponse) -> bytes:
    """A stored value: a digest over the key and the rest, the length of the description, the description, the body."""
    meta = orjson.dumps(
        {
            "content_type": response.content_type,
            "model": response.model,
            "input_tokens": response.input_tokens,
            "output_tokens": response.output_tokens,
        }
    )
    rest = len(meta).to_bytes(LENGTH_BYTES, "big") + meta + response.body
    return _digest(key, rest) + rest


def unpack(key: str, value: bytes) -> CachedResponse | None:
    """The answer in a stored value; None when the value is damaged or was stored under another key."""
    digest, rest = value[:DIGEST_BYTES], value[DIGEST_BYTES:]
    if digest != _digest(key, rest):
        return None
    length = int.from_bytes(rest[:LENGTH_BYTES], "big")
    if not 0 < length <= MAX_META_BYTES:
        return None
    body_at = LENGTH_BYTES + length
    try:
        return CachedResponse(body=rest[body_at:], **orjson.loads(rest[LENGTH_BYTES:body_at]))
    except (ValueError, TypeError):
        return None


def _digest(key: str, rest: bytes) -> bytes:
    return hashlib.blake2b(rest, digest_size=DIGEST_BYTES, key=hashlib.sha256(key.encode()).digest()).digest()
