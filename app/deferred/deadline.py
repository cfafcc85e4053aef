"""How long a caller can wait: the header that defers a request, and where it is looked for afterwards. Pure."""

from __future__ import annotations

import re

from app.errors import ApiError

HEADER = "x-prodkit-deadline"
PATH = "/v1/deferred/"
"""Before a request's id."""
LEAST_SECONDS = 60
MOST_SECONDS = 24 * 3600
"""OpenAI's own window for a batch, and the only one it has."""
LEAST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 600.0
"""Between looks at a batch. The longest stays below the age at which waiting work is an alarm (900 s)."""
PAUSE_SHARE = 20
"""A batch, or a request, is looked at again after a twentieth of its age."""

_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,6})([smh])")


def deadline_seconds(text: str) -> int:
    """The duration in a header's value, like `24h`, `90m` or `3600s`; raises ApiError 400 that says what it takes."""
    found = _DURATION.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        message = f"'{HEADER}' is {text[:40]!r}; send a duration from 1m to 24h such as 24h, 90m or 3600s."
        raise ApiError("invalid_value", message, param=HEADER)
    return seconds
