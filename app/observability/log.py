"""Logs as JSON lines on stdout, with everything that looks like a key removed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

REDACTED = "[redacted]"
MAX_TEXT = 8_192  # characters of one field; CloudWatch cuts an event at 256 KiB
MAX_DEPTH = 6
BATCH_SECONDS = 0.005
"""A line waits so long for others, and all of them cost one write."""

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
_PARTS = tuple(f".{thousandth:03d}Z" for thousandth in range(1000))
"""How a time ends."""
# Whatever is not plain JSON takes the careful way.
_PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


def redact(text: str) -> str:
    """`text` with every key, token and signature replaced."""
    if any(mark in text for mark in _MARKS) or _BEARER in text.lower():
        return _KEYS.sub(REDACTED, text)
    return text


def setup(level: str) -> None:
    """Send every logger of the process to stdout as JSON lines from `level` (`debug`, `info`, ...) on."""
    handler = _Handler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "boto3", "urllib3", "httpx", "httpx2", "httpcore", "openai", "asyncio"):
        # Their debug lines hold headers and bodies, which are not ours to write down.
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def request_line(fields: dict[str, Any]) -> None:
    """Write the one line about a finished request, which began with `request_fields`.

    Never the prompt or the answer: they are the tenant's. Names and units: see the README's table of log fields.
    """
    write_line(_line(fields))


def request_fields() -> dict[str, Any]:
    """What the line about a finished request begins with."""
    return {"time": _timestamp(time.time()), "level": "info", "event": "request"}


def write_line(line: str) -> None:
    """Write a line to stdout, inside `in_batches` within BATCH_SECONDS; a closed pipe loses it, not the request."""
    batch = _batch
    if batch is not None and threading.get_ident() == batch.thread:
        batch.add(line)
    else:
        _write_out(line + "\n")


@contextlib.contextmanager
def in_batches() -> Iterator[None]:
    """Inside the block, of this event loop, lines are collected for BATCH_SECONDS; none is left at its end.

    A process that is killed may lose its last lines.
    """
    global _batch
    batch = _batch = _Batch(asyncio.get_running_loop())
    try:
        yield
    finally:
        _batch = None
        batch.flush()


class _Batch:
    """Lines of one event loop's thread on their way to stdout."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        self._loop = loop
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        if not self._lines:
            self._loop.call_later(BATCH_SECONDS, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            lines.append("")
            _write_out("\n".join(lines))


_batch: _Batch | None = None


def _write_out(text: str) -> None:
    # When nobody reads stdout any more there is no place left to say so.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(text)
        sys.stdout.flush()


def encode(fields: Mapping[str, Any]) -> str:
    """One line of JSON without keys, None fields and over-long texts; any value can be encoded."""
    return _line({name: value for name, value in fields.items() if value is not None})


def _line(given: dict[str, Any]) -> str:
    try:
        line = orjson.dumps(given, option=_PLAIN)
    except TypeError:
        line = b""
    # Nearly every line is short and holds no mark of a key. A mark's letters are never escaped in JSON.
    if line and len(line) <= MAX_TEXT and not _marked(text := line.decode()):
        return text
    cleaned = {_text(name): _clean(value, MAX_DEPTH) for name, value in given.items()}
    return orjson.dumps(cleaned).decode()


def _marked(line: str) -> bool:
    # One by one: a loop or a pattern over the same takes several times as long, for each request. And a character that
    # is rare in a line first: to look for one costs a tenth of what a word does.
    return (
        "sk-" in line
        or "prodkit_" in line
        or ("I" in line and ("AKIA" in line or "ASIA" in line))
        or ("X" in line and "X-Amz-S" in line)
        or (" " in line and "bearer " in line.lower())
    )


class _Handler(logging.Handler):
    """Records of the standard library's loggers, in the order of all other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


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
    whole = int(seconds)
    return _whole_second(whole) + _PARTS[int((seconds - whole) * 1000)]


@functools.lru_cache(maxsize=2)  # of the running second, and of one before it
def _whole_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
