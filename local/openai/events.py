"""Server-sent events as the simulator passes them from an endpoint to the wire."""

from typing import NamedTuple

_PADDED_LENGTH = 16
_PADDING = "mK3qZ8vTn1XbR7wL"


class Event(NamedTuple):
    """The bytes of one event, and how many model tokens it carries (what it costs in time)."""

    data: bytes
    tokens: int = 0


def padding(piece: str, obfuscate: bool) -> dict[str, str]:
    """The `obfuscation` field that hides a token's length; none when the caller turned it off."""
    return {"obfuscation": _PADDING[: max(1, _PADDED_LENGTH - len(piece))]} if obfuscate else {}
