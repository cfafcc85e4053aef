"""An answer that is kept, and the one seam through which it goes to Valkey and comes back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson

KEPT = b"A"
"""The first byte of an answer that is stored; a claim begins otherwise."""
DIGEST_BYTES = 16
LENGTH_BYTES = 4
MAX_META_BYTES = 4_096
MAX_BODY_BYTES = 1 << 20
"""A longer answer is not kept, and not shared with other replicas."""


@dataclass(slots=True)
class Entry:
    """An answer as it was, with what its next reader needs."""

    body: bytes
    content_type: str
    model: str
    """The model that gave the answer."""
    status: int = 200
    made_at: float = 0.0
    """Unix seconds."""
    fresh_seconds: float = 0.0
    """From then on, how long it is as good as a new one."""
    stale_seconds: float = 0.0
    """After that, how long it may be given once more while a new one is made."""
    spare_seconds: float = 0.0
    """After that, how long it is there for callers whose budget nears its end, and for them alone."""
    fingerprint: str = ""
    """Of the request behind an idempotency key."""


_TYPES = {"content_type": str, "model": str, "status": int, "fingerprint": str}
_NUMBERS = ("made_at", "fresh_seconds", "stale_seconds", "spare_seconds")


def encode(key: str, entry: Entry) -> bytes:
    """What is stored under a key: KEPT, a digest over key and rest, length of the description, description and body.

    Everything that is kept outside this process passes here and through `decode`, with the tenant in the key: the
    place for a key of each tenant's own.
    """
    meta = orjson.dumps(
        {
            "content_type": entry.content_type,
            "model": entry.model,
            "status": entry.status,
            "made_at": entry.made_at,
            "fresh_seconds": entry.fresh_seconds,
            "stale_seconds": entry.stale_seconds,
            "spare_seconds": entry.spare_seconds,
            "fingerprint": entry.fingerprint,
        }
    )
    rest = b"".join((len(meta).to_bytes(LENGTH_BYTES, "big"), meta, entry.body))
    return KEPT + _digest(key, rest) + rest


def decode(key: str, value: bytes) -> Entry | None:
    """The entry in a stored value; None when it is damaged or was stored under another key."""
    rest = value[len(KEPT) + DIGEST_BYTES :]
    if value[: len(KEPT) + DIGEST_BYTES] != KEPT + _digest(key, rest):
        return None
    length = int.from_bytes(rest[:LENGTH_BYTES], "big")
    if not 0 < length <= MAX_META_BYTES:
        return None
    body_at = LENGTH_BYTES + length
    try:
        meta = orjson.loads(rest[LENGTH_BYTES:body_at])
        good = all(type(meta[name]) is kind for name, kind in _TYPES.items()) and all(
            type(meta[name]) in (int, float) for name in _NUMBERS
        )
        # They go into headers of the answer.
        good = good and (meta["content_type"] + meta["model"]).isprintable() and 200 <= meta["status"] < 600
        return Entry(body=rest[body_at:], **meta) if good else None
    except (ValueError, TypeError, KeyError):
        return None


def _digest(key: str, rest: bytes) -> bytes:
    digest = hashlib.sha256(key.encode() + b"\0")  # no key holds a NUL
    digest.update(rest)
    return digest.digest()[:DIGEST_BYTES]
