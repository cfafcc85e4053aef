"""The lines of a batch: checked as a file, then each answered by the very handler of its endpoint."""

import secrets
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.openai.endpoints import ENDPOINTS, find_model
from local.openai.errors import ApiError
from local.openai.faults import Fault
from local.openai.journal import Entry
from local.openai.models import Model
from local.openai.request import DEFAULT_MODERATION_MODEL, Request
from local.openai.state import Simulator
from local.openai.wire import Wire

MOST_LINES = 50_000
MOST_BYTES = 200 * 1024 * 1024
METHOD = "BATCH"
"""What a scripted fault matches as the method of a line."""
_MOST_ERRORS = 100
_GIVEN_UP = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


@dataclass(slots=True)
class Line:
    """One request of a batch, and its line in an output or error file once it is done."""

    custom_id: str
    body: dict[str, Any]
    model: Model
    id: str = field(default_factory=lambda: f"batch_req_{secrets.token_hex(16)}")
    result: dict[str, Any] | None = None
    failed: bool = False
    entry: Entry | None = None
    """What it used, once it was executed."""

    @property
    def done(self) -> bool:
        """Whether it has its result."""
        return self.result is not None

    def give_up(self, status: str) -> None:
        """End it without an answer, because its batch ended as `status`."""
        code, message = _GIVEN_UP[status]
        self.failed = True
        error = {"code": code, "message": message}
        self.result = {"id": self.id, "custom_id": self.custom_id, "response": None, "error": error}


def checked(simulator: Simulator, endpoint: str, content: bytes) -> tuple[list[Line], list[dict[str, Any]]]:
    """The lines of an input file, and what is wrong with it."""
    raw = content.splitlines()
    if not raw:
        return [], [_problem("empty_file", "The input file is empty.", None)]
    if len(raw) > MOST_LINES or len(content) > MOST_BYTES:
        text = f"A batch has at most {MOST_LINES} requests and {MOST_BYTES} bytes."
        return [], [_problem("batch_too_large", text, None)]
    lines: list[Line] = []
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, row in enumerate(raw, 1):
        try:
            line = _line(simulator, endpoint, row)
            if line.custom_id in seen:
                raise _BadLineError("duplicate_custom_id", f"The custom_id '{line.custom_id}' is used twice.")
            if lines and line.model is not lines[0].model:
                raise _BadLineError("mismatched_model", "All requests of a batch must be for one model.")
            seen.add(line.custom_id)
            lines.append(line)
        except _BadLineError as bad:
            problems.append(_problem(bad.code, str(bad), number))
            if len(problems) >= _MOST_ERRORS:
                break
    return lines, problems


async def run(simulator: Simulator, key: str, endpoint: str, line: Line) -> None:
    """Execute one line outside of every rate limit."""
    name = f"req_{secrets.token_hex(16)}"
    entry = Entry(name, METHOD, endpoint, key, {}, None, simulator.clock.now(), model=line.model.name)
    wire = _LineWire()
    request = _LineRequest(simulator, entry, wire, b"", "")
    request.body, request.model = line.body, line.model
    try:
        if not await request.strike():
            await ENDPOINTS[endpoint].handle(request)
    except ApiError as error:
        await wire.error(error)
    body, status = wire.body, wire.status
    line.failed = status != 200
    line.entry = None if line.failed else entry
    if not line.failed:
        entry.outcome = "answered"
        simulator.bill.book(entry, batch=True)
    response = {"status_code": status, "request_id": name, "body": body}
    line.result = {"id": line.id, "custom_id": line.custom_id, "response": response, "error": None}


class _BadLineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _LineRequest(Request):
    """A request that no limit of a minute counts."""

    def admit_tokens(self, tokens: int) -> None:
        """A batch has its own queue of tokens."""


class _LineWire(Wire):
    """Keeps the answer instead of sending it; what would break a connection is a server error here."""

    def __init__(self) -> None:
        self.status = 500
        self.body: Any = ApiError(500, "The server had an error.", "server_error", kind="server_error").body()
        self.headers = {}

    async def whole(self, status: int, data: bytes, content_type: str, extra: dict[str, str] | None = None) -> None:
        """Keep a JSON answer."""
        if content_type == "application/json":
            self.status, self.body = status, orjson.loads(data)

    async def error(self, error: ApiError) -> None:
        """Keep an error."""
        self.status, self.body = error.status, error.body()

    def disconnect(self) -> None:
        """Nothing to drop."""

    async def broken_json(self, value: Any, fault: Fault) -> None:
        """Nothing to cut."""


def _line(simulator: Simulator, endpoint: str, text: bytes) -> Line:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise _BadLineError("invalid_json_line", "This line is not parseable as valid JSON.")
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise _BadLineError("missing_required_parameter", "Missing required parameter: 'custom_id'.")
    if value.get("method") != "POST":
        raise _BadLineError("invalid_method", "Each request must have the method 'POST'.")
    if value.get("url") != endpoint:
        raise _BadLineError("invalid_url", f"The URL of each request must be the batch's endpoint, '{endpoint}'.")
    if not isinstance(body, dict):
        raise _BadLineError("missing_required_parameter", "Missing required parameter: 'body'.")
    if body.get("stream"):
        raise _BadLineError("invalid_request", "Streaming is not supported in a batch.")
    try:
        kind = ENDPOINTS[endpoint].kind
        usual = DEFAULT_MODERATION_MODEL if kind == "moderation" else ""
        model = find_model(simulator, str(body.get("model") or usual))
    except ApiError as error:
        raise _BadLineError("model_not_found", error.message) from None
    if model.kind != kind:
        raise _BadLineError("model_not_found", f"The model '{model.name}' cannot be used with {endpoint}.")
    return Line(custom_id, body, model)


def _problem(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}
