"""The Batch API: a file of requests, worked off at half the price within a day, with a file of answers and of errors.

Nothing happens by itself: a batch is brought to where it would be by now whenever somebody looks at it. A day takes
`Options.day_seconds` of the simulator's clock, so that a test does not wait for one.
"""

import math
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from local.openai import files
from local.openai.batch_lines import Line, checked, run
from local.openai.checks import an_object, missing, one_of
from local.openai.errors import ApiError, bad, unknown_parameter
from local.openai.faults import Fault
from local.openai.files import DAY_SECONDS, File, page
from local.openai.request import Request
from local.openai.state import Simulator

BATCH_PERCENT = 50
"""Of the price of a direct call."""
ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/moderations")
# How long each step takes, of a day: 10 s to validate, 2 min to work, 10 s to write the files.
_VALIDATING, _WORKING, _FINALIZING = 10 / DAY_SECONDS, 120 / DAY_SECONDS, 10 / DAY_SECONDS
_FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_MOST_LISTED, _LISTED = 100, 20
_MOST_METADATA, _MOST_METADATA_KEY, _MOST_METADATA_VALUE = 16, 64, 512
_MOST_KEPT = 500


@dataclass(slots=True)
class Batch:
    """One batch. `started` is a time of the simulator's clock, the times it shows are in seconds since 1970."""

    key: str
    endpoint: str
    input_file: File
    metadata: dict[str, str] | None
    started: float
    day_seconds: float
    fault: Fault | None
    id: str = field(default_factory=lambda: f"batch_{secrets.token_hex(16)}")
    created_at: float = field(default_factory=time.time)
    status: str = "validating"
    times: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    model: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Ids by what they hold: `output` and `error`."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in ("completed", "failed", "expired", "cancelled")

    def reach(self, status: str, at: float) -> None:
        """Be in a state since `at` on the simulator's clock."""
        self.status = status
        self.times[f"{status}_at"] = int(self.created_at + at - self.started)

    def show(self) -> dict[str, Any]:
        """The batch object."""
        done = [line for line in self.lines if line.done]
        failed = sum(line.failed for line in done)
        stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file.id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.files.get("output"),
            "error_file_id": self.files.get("error"),
            "created_at": int(self.created_at),
            "expires_at": int(self.created_at + self.day_seconds),
            **{f"{name}_at": self.times.get(f"{name}_at") for name in stamps},
            "request_counts": {"total": len(self.lines), "completed": len(done) - failed, "failed": failed},
            "usage": self.usage() if self.is_over and self.lines else None,
            "metadata": self.metadata,
        }

    def usage(self) -> dict[str, Any]:
        """What is billed, at BATCH_PERCENT of the price."""
        spent = [line.entry for line in self.lines if line.entry is not None]
        read, written = sum(entry.input_tokens for entry in spent), sum(entry.output_tokens for entry in spent)
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": sum(entry.cached_tokens for entry in spent)},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }


async def find(simulator: Simulator, name: str) -> Batch:
    """The batch of an id as it is by now; 404 when there is none."""
    batch = simulator.batches.get(name)
    if batch is None:
        raise ApiError(404, f"No batch found with id '{name}'.")
    await _advance(simulator, batch)
    return batch


async def handle(request: Request, name: str) -> None:
    """Answer a request to /v1/batches or below it; `name` is the rest of the path."""
    simulator, method = request.simulator, request.entry.method
    identifier, _, part = name.partition("/")
    if not name and method == "POST":
        batch = _create(request)
        simulator.batches[batch.id] = batch
        if len(simulator.batches) > _MOST_KEPT:
            simulator.batches.popitem(last=False)
        await request.reply(batch.show())
    elif not name and method == "GET":
        shown = [(await find(simulator, one)).show() for one in reversed(list(simulator.batches))]
        await request.reply(page(shown, parse_qs(request.query), most=_MOST_LISTED, usual=_LISTED))
    elif method == "GET" and not part:
        await request.reply((await find(simulator, identifier)).show())
    elif method == "POST" and part == "cancel":
        batch = await find(simulator, identifier)
        if batch.is_over or batch.status == "finalizing":
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        batch.reach("cancelling", simulator.clock.now())
        await request.reply(batch.show())
    else:
        raise ApiError(404, f"Invalid URL ({method} {request.entry.path})")


def _create(request: Request) -> Batch:
    try:
        body = orjson.loads(request.raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise bad("We could not parse the JSON body of your request. The API expects a JSON payload.")
    for name in body:
        if name not in _FIELDS:
            raise unknown_parameter(name)
    for name in _FIELDS[:3]:
        if body.get(name) is None:
            raise missing(name)
    one_of(*ENDPOINTS)("endpoint", body["endpoint"])
    one_of("24h")("completion_window", body["completion_window"])
    file = files.find(request.simulator, str(body["input_file_id"]))
    if file.purpose != "batch":
        raise bad(f"Invalid file purpose '{file.purpose}'; expected 'batch'.", "input_file_id", "invalid_purpose")
    simulator = request.simulator
    seconds = simulator.options.day_seconds
    metadata = _metadata(body.get("metadata"))
    return Batch(request.key, body["endpoint"], file, metadata, simulator.clock.now(), seconds, request.fault)


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    pairs = an_object("metadata", value)
    if len(pairs) > _MOST_METADATA:
        raise bad(f"Invalid 'metadata': at most {_MOST_METADATA} pairs.", "metadata", "invalid_value")
    for key, text in pairs.items():
        if len(key) > _MOST_METADATA_KEY or not isinstance(text, str) or len(text) > _MOST_METADATA_VALUE:
            raise bad(f"Invalid 'metadata.{key[:64]}'.", "metadata", "invalid_value")
    return pairs


async def _advance(simulator: Simulator, batch: Batch) -> None:
    """Bring a batch to where it is by now."""
    now = simulator.clock.now()
    day = batch.day_seconds
    working_at = batch.started + _VALIDATING * day
    written_at = working_at + (_WORKING + _FINALIZING) * day
    if batch.status == "validating" and now >= working_at:
        _validate(simulator, batch, working_at)
    if batch.status == "cancelling":
        _finish(simulator, batch, "cancelled", now)
    if batch.status == "in_progress":
        share = 1.0 if _WORKING == 0 else (now - working_at) / (_WORKING * day) if day else 1.0
        await _work(simulator, batch, min(1.0, share))
        stuck = any(not line.done for line in batch.lines)
        if stuck and now >= batch.started + day:
            _finish(simulator, batch, "expired", batch.started + day)
        elif not stuck and now >= written_at - _FINALIZING * day:
            batch.reach("finalizing", written_at - _FINALIZING * day)
    if batch.status == "finalizing" and now >= written_at:
        _finish(simulator, batch, "completed", written_at)


def _validate(simulator: Simulator, batch: Batch, at: float) -> None:
    fault = batch.fault
    if fault is not None and fault.kind == "fail":
        error = fault.error()
        batch.errors = [{"code": error.code, "message": error.message, "param": None, "line": None}]
    else:
        batch.lines, batch.errors = checked(simulator, batch.endpoint, batch.input_file.content)
    if batch.errors:
        batch.lines = []
        batch.reach("failed", at)
        return
    batch.model = batch.lines[0].model.name
    batch.reach("in_progress", at)


async def _work(simulator: Simulator, batch: Batch, share: float) -> None:
    """Work off that share of the lines; of a batch that is to expire never more than its fault lets pass."""
    count = math.ceil(len(batch.lines) * share)
    if batch.fault is not None and batch.fault.kind == "expire":
        count = min(count, batch.fault.after)
    for line in batch.lines[:count]:
        if not line.done:
            await run(simulator, batch.key, batch.endpoint, line)


def _finish(simulator: Simulator, batch: Batch, status: str, at: float) -> None:
    """Write the files and end."""
    for line in batch.lines:
        if not line.done:
            line.give_up(status)
    for kind, wanted in (("output", False), ("error", True)):
        content = b"".join(orjson.dumps(line.result) + b"\n" for line in batch.lines if line.failed is wanted)
        if content:
            name = f"{batch.id}_{kind}.jsonl"
            expires = int(time.time()) + 30 * DAY_SECONDS
            batch.files[kind] = files.add(simulator, File(name, "batch_output", content, expires)).id
    batch.reach(status, at)
