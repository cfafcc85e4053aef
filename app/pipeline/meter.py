"""What was used: read from an answer, or beside a stream as it passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from app.models import Usage
from app.pipeline.alike import Alike
from app.pipeline.endpoints import CHAT, RESPONSES, Endpoint

NATURAL_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""Reasons of a choice of Chat Completions to end that are no cut and no filter."""
NOTHING = Usage(input_tokens=0, cached_tokens=0, cache_write_tokens=0, output_tokens=0)


def usage_of(endpoint: Endpoint, answer: Mapping[str, Any]) -> Usage | None:
    """The usage inside a whole answer; None when there is none although the endpoint has it. Moderations are free."""
    if endpoint.kind == "moderation":
        return NOTHING
    return read_usage(answer.get("usage"))


def read_usage(usage: object) -> Usage | None:
    """OpenAI's usage object of any endpoint; None when it is not one. Input tokens include cached and written ones."""
    if not isinstance(usage, dict):
        return None
    # Responses speak of input and output, Chat Completions and embeddings of prompt and completion.
    modern = "input_tokens" in usage
    spent = usage.get("input_tokens" if modern else "prompt_tokens")
    if type(spent) is not int:
        return None
    details = usage.get("input_tokens_details" if modern else "prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        input_tokens=spent,
        cached_tokens=_count(details.get("cached_tokens")),
        cache_write_tokens=_count(details.get("cache_write_tokens")),
        output_tokens=_count(usage.get("output_tokens" if modern else "completion_tokens")),
        reasoning_tokens=_reasoning(usage.get("output_tokens_details" if modern else "completion_tokens_details")),
    )


def is_complete(endpoint: Endpoint, answer: Mapping[str, Any]) -> bool:
    """Whether a whole answer came to its natural end: a cut or filtered one must not be repeated from a cache."""
    if endpoint is RESPONSES:
        return answer.get("status") == "completed"
    if endpoint is CHAT:
        choices = answer["choices"]
        if not choices or not isinstance(choices, list):
            return False
        for choice in choices:
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if not isinstance(reason, str) or reason not in NATURAL_ENDS:
                return False
    return True


class StreamMeter(Protocol):
    """Reads the events of one stream in order."""

    usage: Usage | None
    """As OpenAI reports it, once it has."""
    output_bytes: int
    """UTF-8 bytes of text and arguments produced so far."""
    ended: bool
    """The event that ends a stream of this API has been seen."""
    error_code: str | None
    """The stream itself says that it failed."""
    answer: dict[str, Any]
    """What the last event that told of it said of the answer as a whole: its id, its model, its service tier."""

    @property
    def complete(self) -> bool:
        """The answer came to its natural end: what `is_complete` says of a whole one."""

    def see(self, name: str, data: bytes) -> bool:
        """Take one event, by its name and its data; False when the caller must not get it.

        Raises ValueError for data that is not JSON, and TypeError or AttributeError for another shape.
        """

    def more(self, piece: bytes) -> bool:
        """Take one whole event, which the caller gets, if it is more text like that before it; False = `see` it."""

    def error_event(self, code: str, message: str) -> tuple[str, dict[str, Any]]:
        """Name and data of the event that tells a client of this API that the stream failed."""

    def cut_events(self, reason: str, usage: Usage) -> list[tuple[str, dict[str, Any] | None]]:
        """Names and data (None: `[DONE]`) of the events that end an answer in order before OpenAI ends it."""


def stream_meter(endpoint: Endpoint, *, hides_usage: bool) -> StreamMeter:
    """The meter for a stream of an endpoint that streams."""
    return ChatMeter(hides_usage) if endpoint is CHAT else ResponsesMeter()


class ResponsesMeter(Alike):
    """Meter of the Responses API: typed events, the last of which repeats the answer with its usage."""

    _ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})

    def __init__(self) -> None:
        super().__init__()
        self.usage: Usage | None = None
        self.ended = False
        self.error_code: str | None = None
        self.complete = False
        self._sequence = -1

    def see(self, name: str, data: bytes) -> bool:
        """Take one event; every event is for the caller."""
        if not data or data == b"[DONE]":
            return True
        document = _object(data)
        kind = document.get("type") or name
        sequence = document.get("sequence_number")
        self._sequence = sequence if type(sequence) is int else self._sequence + 1
        if kind.endswith(".delta"):
            size = _bytes(document.get("delta"))
            self.output_bytes += size
            # Not from the first text, for which the caller waits.
            if self._tries and 0 < size < self.output_bytes:
                self._learn(name, data, document, document, "delta")
        elif kind in self._ENDS:
            self._end(kind, document)
        elif kind == "response.created":
            self._know(document)
        return True

    def more(self, piece: bytes) -> bool:
        """See `Alike`."""
        number = self._sequence + 1
        if self._numbered is not None:
            self._head = b"%b%d%b" % (self._numbered[0], number, self._numbered[1])
        if not super().more(piece):
            return False
        self._sequence = number
        return True

    def _end(self, kind: str, document: dict[str, Any]) -> None:
        self.ended = True
        self.complete = kind == "response.completed"
        response = document.get("response")
        if isinstance(response, dict):
            self.answer = response
            self.usage = read_usage(response.get("usage")) or self.usage
        if kind == "error":
            self.error_code = str(document.get("code") or kind)
        elif kind == "response.failed":
            error = response.get("error") if isinstance(response, dict) else None
            self.error_code = str((error or {}).get("code") or kind)

    def error_event(self, code: str, message: str) -> tuple[str, dict[str, Any]]:
        """The flat `error` event, numbered after the last one seen."""
        data = {"type": "error", "sequence_number": self._sequence + 1, "code": code, "message": message, "param": None}
        return "error", data

    def cut_events(self, reason: str, usage: Usage) -> list[tuple[str, dict[str, Any] | None]]:
        """`response.incomplete`, as OpenAI ends an answer that came to its cap."""
        response = {
            **self.answer,
            "status": "incomplete",
            "incomplete_details": {"reason": reason},
            "usage": {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "estimated": True,
            },
        }
        name = "response.incomplete"
        return [(name, {"type": name, "sequence_number": self._sequence + 1, "response": response})]

    def _know(self, document: dict[str, Any]) -> None:
        response = document.get("response")
        if isinstance(response, dict):
            self.answer = response


class ChatMeter(Alike):
    """Meter of Chat Completions: chunks of deltas, one last chunk with the usage, then `[DONE]`."""

    def __init__(self, hides_usage: bool) -> None:
        super().__init__()
        self.usage: Usage | None = None
        self.ended = False
        self.error_code: str | None = None
        self._hides_usage = hides_usage
        self._reasons: set[object] = set()
        self._running: dict[object, bool] = {}
        """By the number of a choice that has begun: whether it goes on."""

    @property
    def complete(self) -> bool:
        """Every choice that said why it ended came to its natural end."""
        return self.ended and self.error_code is None and bool(self._reasons) and self._reasons <= NATURAL_ENDS

    def see(self, name: str, data: bytes) -> bool:
        """Take one event; the chunk that holds nothing but the usage is hidden from a caller who did not ask for it."""
        if not data:
            return True
        if data == b"[DONE]":
            self.ended = True
            return True
        chunk = _object(data)
        error = chunk.get("error")
        if error is not None:
            self.ended = True
            self.error_code = str((error.get("code") or error.get("type")) if isinstance(error, dict) else "error")
            return True
        choices: Any = chunk.get("choices") or ()
        self.answer = chunk
        for choice in choices:
            delta = choice.get("delta")
            if delta:
                self.output_bytes += _delta_bytes(delta)
            reason = choice.get("finish_reason")
            if reason is not None:
                self._reasons.add(reason)
                self._head = b""  # text after it is to be seen: the choice goes on
            self._running[choice.get("index", 0)] = reason is None
        given = chunk.get("usage")
        if given is None:
            if self._tries and len(choices) == 1 and self._running[choices[0].get("index", 0)]:
                self._learn_from(name, data, chunk, choices[0].get("delta") or {})
            return True
        usage = read_usage(given)
        if usage is None:
            return True
        self.usage = usage
        return bool(choices) or not self._hides_usage

    def _learn_from(self, name: str, data: bytes, chunk: dict[str, Any], delta: dict[str, Any]) -> None:
        size = _bytes(delta.get("content"))
        # Not from the first text, for which the caller waits.
        if 0 < size < self.output_bytes and size == _delta_bytes(delta):
            self._learn(name, data, chunk, delta, "content")
            self._told = chunk

    def error_event(self, code: str, message: str) -> tuple[str, dict[str, Any]]:
        """An error object in a data line, which clients raise."""
        return "", {"error": {"message": message, "type": "upstream_error", "param": None, "code": code}}

    def cut_events(self, reason: str, usage: Usage) -> list[tuple[str, dict[str, Any] | None]]:
        """A chunk with `finish_reason: length` for each choice, which names the reason as Responses do; the usage for a
        caller who asked for it; `[DONE]`: no client raises."""
        known: dict[str, Any] = {name: self.answer[name] for name in ("id", "created", "model") if name in self.answer}
        known["object"] = "chat.completion.chunk"
        # One at least: a client that reads on has to be told why nothing comes.
        running = [index for index, runs in self._running.items() if runs] or [0]
        ended = [{"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"} for index in running]
        chunks = [{**known, "choices": ended, "incomplete_details": {"reason": reason}}]
        if not self._hides_usage:
            counts = {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "estimated": True,
            }
            chunks.append({**known, "choices": [], "usage": counts})
        return [*(("", chunk) for chunk in chunks), ("", None)]


def _reasoning(details: object) -> int:
    return _count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0


def _object(data: bytes) -> dict[str, Any]:
    document = orjson.loads(data)
    if not isinstance(document, dict):
        raise ValueError("the data of an event is not a JSON object")
    return document


def _delta_bytes(delta: dict[str, Any]) -> int:
    if len(delta) == 1 and "content" in delta:  # nearly all of them
        return _bytes(delta["content"])
    size = _bytes(delta.get("content")) + _bytes(delta.get("refusal"))
    for tool_call in delta.get("tool_calls") or ():
        size += _bytes((tool_call.get("function") or {}).get("arguments"))
        size += _bytes((tool_call.get("custom") or {}).get("input"))
    return size


def _bytes(text: object) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode())


def _count(value: object) -> int:
    return value if type(value) is int else 0
