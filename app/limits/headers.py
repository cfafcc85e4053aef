"""OpenAI's rate-limit headers: how we write our own, and how we read theirs."""

from __future__ import annotations

import math

MINUTE_SECONDS = 60.0


def rate_headers(rpm: int, tpm: int, requests: float, tokens: float) -> dict[str, str]:
    """OpenAI's rate-limit headers for limits with this much left; three for each limit that is not 0."""
    headers = {}
    for unit, limit, left in (("requests", rpm, requests), ("tokens", tpm, tokens)):
        if limit:
            headers[f"x-ratelimit-limit-{unit}"] = str(limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, math.floor(left)))
            headers[f"x-ratelimit-reset-{unit}"] = go_duration(seconds_until(limit, left, limit))
    return headers


def retry_headers(wait: float) -> dict[str, str]:
    """When to come back, in the three headers that OpenAI's clients read."""
    milliseconds = max(1, math.ceil(round(wait * 1000, 6)))
    return {
        "retry-after": str(math.ceil(milliseconds / 1000)),
        "retry-after-ms": str(milliseconds),
        "x-should-retry": "true",
    }


def seconds_until(wanted: float, have: float, per_minute: float) -> float:
    """Seconds until a bucket that gains `per_minute` holds `wanted`."""
    return max(0.0, wanted - have) * MINUTE_SECONDS / per_minute


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond and never shorter than given: `0s`, `12ms`, `1.5s`, `6m0s`."""
    milliseconds = max(0, math.ceil(round(seconds * 1000, 6)))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
