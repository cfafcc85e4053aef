"""Logs as JSON lines on stdout, with everything that looks like a key removed."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import orjson

REDACTED = "[redacted]"
MAX_TEXT = 8_192  # characters of one field; CloudWatch cuts an event at 256 KiB
MAX_DEPTH = 6

_KEYS = re.compile(
    r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}"  # OpenAI; "task-definition..." is not one
    r"|prodkit_[0-9a-f]{12}_[A-Za-z0-9_-]{20,}"
    r"|(?<![A-Za-z0-9])A(?:KIA|SIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS access keys
    r"|(?<=X-Amz-Signature=)[0-9a-f]+|(?<=X-Amz-Security-Token=)[^&\s\"]+"  # presigned requests, the cache's token
    r"|(?i:(?<=bearer )[A-Za-z0-9._~+/=-]{12,})"
)


# Nothing that the pattern finds lacks one of these. Looking for them first costs a tenth of the pattern's time.
_MARKS = ("sk-", "prodkit_", "AKIA", "ASIA", "X-Amz-S")
_BEARER = "bearer "


def redact(text: str) -> str:
    """`text` with every key, token and signature replaced."""
    if any(mark in text for mark in _MARKS) or _BEARER in text.lower():
        return _KEYS.sub(REDACTED, text)
    return text


def setup(level: str) -> None:
    """Send every logger of the process to stdout as JSON lines from `level` (`debug`, `info`, ...) on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "boto3", "urllib3", "httpx", "httpx2", "httpcore", "openai", "asyncio"):
        # Their debug lines hold headers and bodies, which are not ours to write down.
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def request_line(**fields: Any) -> None:
    """Write the one line about a finished request. Fields that are None are left out.

    Never the prompt or the answer: they are the tenant's. Names and units: see the README's table of log fields.
    """
    write({"level": "info", "event": "request", **fields})


def write(fields: Mapping[str, Any]) -> None:
    """Write one JSON line with the time in front."""
    write_line(encode({"time": _timestamp(time.time()), **fields}))


def write_line(line: str) -> None:
    """Write a line to stdout at once; a closed pipe loses the line, not the request."""
    # When nobody reads stdout any more there is no place left to say so.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def encode(fields: Mapping[str, Any]) -> str:
    """One line of JSON without keys, None fields and over-long texts; any value can be encoded."""
    cleaned = {_text(name): _clean(value, MAX_DEPTH) for name, value in fields.items() if value is not None}
    return orjson.dumps(cleaned).decode()


class JsonFormatter(logging.Formatter):
    """Log records as JSON lines; fields given by `extra={"fields": {...}}` are written beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        fields: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = getattr(record, "fields", None)
        if isinstance(extra, Mapping):
            fields |= extra
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return encode(fields)


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, float):
        return value
    if isinstance(value, Mapping) and depth:
        return {_text(key): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_clean(item, depth - 1) for item in value]
    return _text(value)


def _text(value: object) -> str:
    text = redact(str(value))[:MAX_TEXT]  # in this order: half a key would not look like one
    return text.encode("utf-8", "replace").decode()


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
