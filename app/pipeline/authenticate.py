"""Step: who is calling? A prodkit key in `Authorization: Bearer` becomes an identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import ApiError

if TYPE_CHECKING:
    from app.keys import Identity, KeyStore

HELP = "Send `Authorization: Bearer prodkit_...`; `python -m app.keys create --tenant NAME` makes a key."


async def authenticate(authorization: str | None, keys: KeyStore) -> Identity:
    """The identity behind an Authorization header; raises ApiError 401 `invalid_api_key`, never repeating the key."""
    scheme, _, presented = (authorization or "").strip().partition(" ")
    presented = presented.strip()
    if not presented or scheme.lower() != "bearer":
        raise ApiError("invalid_api_key", f"You didn't provide an API key. {HELP}", headers=_CHALLENGE)
    identity = await keys.lookup(presented) if presented.startswith("prodkit_") else None
    if identity is None:
        raise ApiError("invalid_api_key", f"Incorrect API key provided. {HELP}", headers=_CHALLENGE)
    return identity


_CHALLENGE = {"www-authenticate": "Bearer"}
