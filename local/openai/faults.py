"""Scripted faults: what to break, for which requests, how often."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from local.openai.errors import ApiError, coded

BEFORE = ("status", "delay", "html", "disconnect")
DURING = ("stall", "cut", "malformed", "slow_first_token", "drip", "error_event")
OF_BATCHES = ("fail", "expire")
KINDS = BEFORE + DURING + OF_BATCHES
MATCHES = ("method", "path", "model", "key")


@dataclass(slots=True)
class Fault:
    """One scripted fault.

    `match` has `method`, `path`, `model` and `key` (its hash), each optional. It strikes `times` matching requests
    (None: all), of those every `every`-th. `seconds` is the wait of delay, slow_first_token and drip; a drip sends a
    comment each `interval` seconds. stall, cut, malformed and error_event strike before event number `after` of a
    stream; a `clean` cut ends the stream properly, only too early. status and error_event answer with `status`, `code`,
    `message`, `retry_after` (seconds) and `headers`.

    A fault for POST /v1/batches may make the batch `fail`, with `code` and `message`, or `expire` when `after` of its
    lines are done. A match of the method BATCH and an endpoint's path strikes the lines of a batch.
    """

    kind: str
    match: dict[str, str] = field(default_factory=dict)
    times: int | None = 1
    every: int = 1
    seconds: float = 1.0
    interval: float = 1.0
    after: int = 0
    clean: bool = False
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    matched: int = 0

    def error(self) -> ApiError:
        """The error that a status or error_event fault answers with; `server_error` unless it says otherwise."""
        error = coded(self.code or "server_error", self.message, self.status)
        if self.code is None and self.status not in (None, 500):
            error.code = None
        error.headers = dict(self.headers)
        if self.retry_after is not None:
            error.headers["retry-after"] = f"{self.retry_after:g}"
            error.headers["retry-after-ms"] = f"{self.retry_after * 1000:g}"
        return error


def parse(value: Any) -> Fault:
    """A fault from JSON; ValueError names what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("a fault is an object")
    known = {item.name for item in dataclasses.fields(Fault)} - {"matched"}
    unknown = sorted(set(value) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; a fault has {', '.join(sorted(known))}")
    if value.get("kind") not in KINDS:
        raise ValueError(f"unknown kind {value.get('kind')!r}; choose {', '.join(KINDS)}")
    strange = sorted(set(value.get("match") or {}) - set(MATCHES))
    if strange:
        raise ValueError(f"unknown match {strange[0]!r}; match by {', '.join(MATCHES)}")
    return Fault(**value)


@dataclass(slots=True)
class Faults:
    """The faults in force, in the order they were added; the first that strikes is the only one."""

    active: list[Fault] = field(default_factory=list)

    def take(self, method: str, path: str, model: str, key: str) -> Fault | None:
        """The fault that strikes this request, if any."""
        here = {"method": method, "path": path, "model": model, "key": key}
        for fault in self.active:
            if any(here[name] != wanted for name, wanted in fault.match.items()):
                continue
            fault.matched += 1
            if fault.matched % fault.every:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.active.remove(fault)
            return fault
        return None
