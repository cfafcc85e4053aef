"""One request's way back to the caller: JSON, a paced stream, or one of the ways a connection breaks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from local.openai.clock import Clock
from local.openai.errors import ApiError
from local.openai.events import Event
from local.openai.faults import Fault
from local.openai.journal import Entry
from local.openai.latency import Pace

Send = Callable[[dict[str, Any]], Awaitable[None]]
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"


class Wire:
    """Sends one answer and writes into the journal entry what was sent."""

    def __init__(self, clock: Clock, entry: Entry, send: Send, transport: asyncio.Transport) -> None:
        self._clock = clock
        self._entry = entry
        self._send = send
        self._transport = transport
        self.headers: dict[str, str] = {}

    def _elapsed_ms(self) -> float:
        return (self._clock.now() - self._entry.started) * 1000

    async def _start(self, status: int, content_type: str, length: int | None, extra: dict[str, str]) -> None:
        self._entry.status = status
        headers = {"content-type": content_type, **self.headers, **extra}
        headers["openai-processing-ms"] = str(int(self._elapsed_ms()))
        if length is not None:
            headers["content-length"] = str(length)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self._entry.first_byte_ms = self._elapsed_ms()

    async def _body(self, data: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def _end(self, outcome: str) -> None:
        if self._entry.outcome == "in_flight":
            self._entry.outcome = outcome

    async def whole(self, status: int, data: bytes, content_type: str, extra: dict[str, str] | None = None) -> None:
        """Send one complete body."""
        await self._start(status, content_type, len(data), extra or {})
        self._end("answered" if status < 400 else "refused")
        await self._body(data, False)

    async def json(self, value: Any) -> None:
        """Send a 200 with `value`."""
        await self.whole(200, orjson.dumps(value), "application/json")

    async def error(self, error: ApiError) -> None:
        """Send an error in OpenAI's shape."""
        self._entry.error_code = error.code
        await self.whole(error.status, orjson.dumps(error.body()), "application/json", error.headers)

    async def html(self, status: int) -> None:
        """Send a proxy's HTML page where JSON is expected."""
        await self.whole(status, _HTML, "text/html")

    def disconnect(self) -> None:
        """Drop the connection."""
        self._end("broken")
        self._transport.abort()

    def close(self) -> None:
        """Close the connection after what was written, in the middle of the answer."""
        self._end("broken")
        self._transport.close()

    async def broken_json(self, value: Any, fault: Fault) -> None:
        """Send half of a JSON body: as if whole (malformed), then closing (cut), or then nothing more (stall)."""
        data = orjson.dumps(value)
        half = data[: len(data) // 2]
        if fault.kind == "malformed":
            await self.whole(200, half, "application/json")
            return
        await self._start(200, "application/json", len(data), {})
        await self._body(half, True)
        if fault.kind == "stall":
            await _forever()
        self.close()

    async def stream(self, events: Iterable[Event], pace: Pace, fault: Fault | None) -> None:
        """Send events as they become due; `fault` strikes before its event, or at the end of a shorter stream."""
        await self._start(200, "text/event-stream; charset=utf-8", None, {})
        slow = fault is not None and fault.kind in ("slow_first_token", "drip")
        struck = fault is None or slow
        for number, event in enumerate(events):
            if not struck and fault is not None and number == fault.after:
                struck = True
                if await self._strike(fault, number):
                    return
            if slow and fault is not None and event.tokens:
                slow = False
                await self._hold(fault)
            await pace.wait(event.tokens)
            await self._event(event)
        if not struck and fault is not None and await self._strike(fault, self._entry.events):
            return
        self._end("answered")
        await self._body(b"", False)

    async def _event(self, event: Event) -> None:
        await self._body(event.data, True)
        self._entry.events += 1
        self._entry.sent_tokens += event.tokens
        if event.tokens and self._entry.first_token_ms is None:
            self._entry.first_token_ms = self._elapsed_ms()

    async def _hold(self, fault: Fault) -> None:
        if fault.kind == "slow_first_token":
            await self._clock.sleep(fault.seconds)
            return
        end = self._clock.now() + fault.seconds
        while self._clock.now() < end:
            await self._body(b": keep-alive\n\n", True)
            await self._clock.sleep(fault.interval)

    async def _strike(self, fault: Fault, number: int) -> bool:
        """Break the stream; True when nothing may follow."""
        if fault.kind == "stall":
            await _forever()
        if fault.kind == "cut" and not fault.clean:
            self.close()
            return True
        if fault.kind == "malformed":
            await self._body(b'data: {"type": "response.output_text.delta", "delta": \n\n', True)
            return False
        self._end("broken")
        if fault.kind == "error_event":
            await self._body(self._error_event(fault.error(), number), True)
        await self._body(b"", False)
        return True

    def _error_event(self, error: ApiError, number: int) -> bytes:
        self._entry.error_code = error.code
        if self._entry.path.endswith("/responses"):
            flat = {"type": "error", "code": error.code, "message": error.message, "param": None}
            return b"event: error\ndata: " + orjson.dumps(flat | {"sequence_number": number}) + b"\n\n"
        return b"data: " + orjson.dumps(error.body()) + b"\n\n"


async def _forever() -> None:
    """Wait until the task is cancelled: the caller left or the simulator stops."""
    await asyncio.Event().wait()
