"""Cut a stream of the Responses API at a stop sequence, which that API has no parameter for, and end it in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from app.observability.metrics import STOP_CUTS, Metrics
from app.pipeline.attempt import OpenStream
from app.pipeline.choose import Plan
from app.pipeline.estimate import text_tokens
from app.pipeline.stop import StopMatcher
from app.pipeline.stream import MeteredStream, StreamEnd
from app.upstream import sse

_DELTA = "response.output_text.delta"
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TEXT_ENDS = frozenset({"response.output_text.done", "response.content_part.done", "response.output_item.done"}) | _ENDS
"""Events after which no more text of the running part follows."""


class Cutter:
    """Passes the events of one stream, in order, up to the first match; then ends the answer as OpenAI would.

    Text is held back only as long as it may begin a sequence. Each part of an answer is searched for itself. Events are
    numbered anew where some are missing; a shortened piece of text loses its log probabilities.
    """

    def __init__(self, stop: Sequence[str], usage: Callable[[], dict[str, Any]]) -> None:
        """`usage` gives the usage object of an answer that is cut now."""
        self._stop = stop
        self._usage = usage
        self._number = 0
        self._items: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, list[Any]] = {}
        self._delta: dict[str, Any] | None = None
        """The last piece of text, of the part that is being written."""
        self._matcher = StopMatcher(stop)
        self._text: list[str] = []
        self.cut = False
        """The answer has been ended here."""
        self.response: dict[str, Any] = {}
        """The response object, as far as it is known; whole after the last event."""

    def feed(self, raw: bytes) -> bytes:
        """What of one whole event is for the caller; nothing more after the cut. Raises ValueError for no JSON."""
        event = sse.read(raw)
        if self.cut:
            return b""
        if not event.data or event.data == b"[DONE]":
            return raw
        document = orjson.loads(event.data)
        kind = document.get("type") or event.name
        if kind == _DELTA:
            return self._feed_text(document, raw)
        passed = self._flush() if kind in _TEXT_ENDS else b""
        self._note(kind, document)
        return passed + self._send(document, raw)

    def error(self, code: str, message: str) -> bytes:
        """The event that tells the caller that the stream failed."""
        return self._send({"type": "error", "code": code, "message": message, "param": None})

    def _note(self, kind: str, document: dict[str, Any]) -> None:
        index = document.get("output_index", 0)
        if isinstance(document.get("response"), dict):
            self.response = document["response"]
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._items[index] = document.get("item") or {}
        elif kind == "response.content_part.done":
            self._parts.setdefault(index, []).append(document.get("part"))

    def _feed_text(self, document: dict[str, Any], raw: bytes) -> bytes:
        passed = b""
        if self._delta is None or _place(self._delta) != _place(document):
            passed = self._flush()
            self._matcher = StopMatcher(self._stop)
            self._text = []
        self._delta = document
        piece = document.get("delta") or ""
        certain = self._matcher.feed(piece)
        self._text.append(certain)
        if certain == piece:
            passed += self._send(document, raw)
        elif certain:
            passed += self._send_text(certain)
        return passed + self._end() if self._matcher.matched else passed

    def _flush(self) -> bytes:
        """Text that was held back and begins no sequence after all."""
        held = self._matcher.flush()
        if not held:
            return b""
        self._text.append(held)
        return self._send_text(held)

    def _send_text(self, text: str) -> bytes:
        assert self._delta is not None
        known = {name: value for name, value in self._delta.items() if name != "obfuscation"}
        return self._send({**known, "delta": text, "logprobs": []})

    def _end(self) -> bytes:
        """The events after the last text of an answer that ended there by itself."""
        assert self._delta is not None
        self.cut = True
        index, content_index = _place(self._delta)
        text = "".join(self._text)
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        where = {"output_index": index, "item_id": self._delta.get("item_id"), "content_index": content_index}
        item = {**self._items.get(index, {}), "status": "completed", "content": [*self._parts.get(index, ()), part]}
        self._items[index] = item
        self.response = {
            **self.response,
            "status": "completed",
            "completed_at": int(time.time()),
            "output": [self._items[number] for number in sorted(self._items)],
            "usage": self._usage(),
        }
        last: tuple[dict[str, Any], ...] = (
            {"type": "response.output_text.done", "text": text, "logprobs": [], **where},
            {"type": "response.content_part.done", "part": part, **where},
            {"type": "response.output_item.done", "item": item, "output_index": index},
            {"type": "response.completed", "response": self.response},
        )
        return b"".join(map(self._send, last))

    def _send(self, document: dict[str, Any], raw: bytes | None = None) -> bytes:
        """One event under the next number: as it came where that is its own."""
        number = self._number
        self._number += 1
        if raw is not None and document.get("sequence_number") == number:
            return raw
        return sse.write(orjson.dumps({**document, "sequence_number": number}), document.get("type", ""))


def _place(delta: dict[str, Any]) -> tuple[int, int]:
    return delta.get("output_index", 0), delta.get("content_index", 0)


class CutStream(MeteredStream):
    """A stream of the Responses API that ends at the plan's stop sequences. What arrived until then is paid for."""

    _passes_all = False

    def __init__(
        self,
        stream: OpenStream,
        plan: Plan,
        metrics: Metrics,
        *,
        deadline: float,
        heartbeat_seconds: float,
        on_end: Callable[[StreamEnd], None],
    ) -> None:
        """As a MeteredStream; each cut is counted."""
        super().__init__(stream, deadline=deadline, heartbeat_seconds=heartbeat_seconds, on_end=on_end)
        self._plan = plan
        self._metrics = metrics
        self._cutter = Cutter(plan.stop, self._cut_usage)

    @property
    def response(self) -> dict[str, Any]:
        """The response object of the last event."""
        return self._cutter.response

    def _pass(self, events: list[bytes]) -> bytes:
        passed = b"".join(map(self._cutter.feed, events))
        if self._cutter.cut and not self._ended_here:
            self._ended_here = True
            self._response.close()
            self._metrics.count(STOP_CUTS)
        return passed

    def _error_event(self, code: str, message: str) -> bytes:
        return self._cutter.error(code, message)

    def _cut_usage(self) -> dict[str, Any]:
        """OpenAI's count when it has come already, else ours, which says so."""
        usage = self._meter.usage
        given = usage is not None
        input_tokens = usage.input_tokens if usage else self._plan.input_tokens
        output_tokens = usage.output_tokens if usage else text_tokens(self._meter.output_bytes)
        return {
            "input_tokens": input_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens if usage else 0,
                "cache_write_tokens": usage.cache_write_tokens if usage else 0,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
            **({} if given else {"estimated": True}),
        }
