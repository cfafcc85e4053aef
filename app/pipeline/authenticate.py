"""Step: who is calling? A prodkit key in `Authorization: Bearer` becomes an identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import ApiError

if TYPE_CHECKING:
    from app.key_store import KeyStore
    from app.keys import Identity

HELP = "Send `Authorization: Bearer prodkit_...`; `python -m app.keys create --tenant NAME` makes a key."


async def authenticate(authorization: str | None, keys: KeyStore) -> Identity:
    """The identity behind an Authorization header; raises ApiError 401 `invalid_api_key`, never repeating the key."""
    presented = _presented(authorization)
    if not presented:
        raise ApiError("invalid_api_key", f"You didn't provide an API key. {HELP}", headers=_CHALLENGE)
    identity = await keys.lookup(presented) if presented.startswith("prodkit_") else None
    if identity is None:
        raise ApiError("invalid_api_key", f"Incorrect API key provided. {HELP}", headers=_CHALLENGE)
    return identity


def known_identity(authorization: str | None, keys: KeyStore) -> Identity | None:
    """The same without waiting; None for a key that has to be read, and for every other for which this raises."""
    presented = _presented(authorization)
    return keys.known(presented) if presented else None


def _presented(authorization: str | None) -> str:
    if authorization is None:
        return ""
    if authorization.startswith("Bearer "):  # as every client sends it
        return authorization[7:].strip()
    scheme, _, presented = authorization.strip().partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else ""


_CHALLENGE = {"www-authenticate": "Bearer"}
