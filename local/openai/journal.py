"""What the simulator was asked, and how each request ended: for tests, benchmarks and people."""

import asyncio
import dataclasses
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson

MOST_BODY_BYTES = 65_536


@dataclass(slots=True)
class Entry:
    """One request. Times in milliseconds since it was read; `key` is a hash; `outcome` is one of in_flight, answered,
    refused, disconnected (the caller left) and broken (a fault ended it)."""

    id: str
    method: str
    path: str
    key: str
    headers: dict[str, str]
    body: bytes | None
    started: float
    time: float = field(default_factory=time.time)
    model: str = ""
    stream: bool = False
    status: int = 0
    outcome: str = "in_flight"
    error_code: str | None = None
    fault: str | None = None
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str = "default"
    worked: bool = False
    """The model was asked, so there is something to bill."""
    sent_tokens: int = 0
    events: int = 0

    def as_json(self) -> dict[str, Any]:
        """The entry for the admin path; a body that was too long to keep, or is not JSON, is null."""
        values = dataclasses.asdict(self)
        del values["started"]
        try:
            values["body"] = orjson.loads(self.body) if self.body else None
        except orjson.JSONDecodeError:
            values["body"] = None
        return values


class Journal:
    """The last `size` requests, oldest first."""

    def __init__(self, size: int = 1_000) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def open(self, entry: Entry) -> None:
        """Record a request that has begun."""
        self.entries.append(entry)
        self.in_flight += 1
        self._quiet.clear()

    def close(self, entry: Entry, now: float) -> None:
        """Record that a request has ended, at `now` on the simulator's clock."""
        entry.duration_ms = (now - entry.started) * 1000
        self.in_flight -= 1
        if not self.in_flight:
            self._quiet.set()

    async def quiet(self, seconds: float) -> bool:
        """Wait until no request is in flight, at most `seconds` of real time; say whether that is so."""
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def clear(self) -> None:
        """Forget every request."""
        self.entries.clear()
