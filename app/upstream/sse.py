"""Server-sent events as bytes: cut a flow into whole events, read one, write one. Nothing here changes a byte."""

from __future__ import annotations

import re
from typing import NamedTuple

# A blank line ends an event. The atomic group keeps "\r\n" one line ending: without it "\r\n" alone would count as two.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Longest event held in memory; the last event of a Responses stream repeats the whole answer."""

HEARTBEAT = b": keep-alive\n\n"
"""A comment: every client ignores it, every proxy takes it as traffic."""

MEDIA_TYPE = "text/event-stream"


class EventTooLargeError(ValueError):
    """One event passed MAX_EVENT_BYTES."""


class Event(NamedTuple):
    """One event: its name (empty when the flow gives none) and its data lines joined by newlines."""

    name: str
    data: bytes


class Splitter:
    """Cuts a flow of arbitrary pieces into whole events; concatenated they are the flow, but for an unfinished tail."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.unfinished = bytearray()
        """What has come of an event whose end has not come yet."""
        self._searched = 0
        self._max = max_event_bytes

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that `piece` completes, each with its blank line; raises EventTooLargeError."""
        buffer = self.unfinished
        # As OpenAI writes them: a few whole events, most often one, which needs no copy.
        if not buffer and 13 not in piece and len(piece) <= self._max:
            events = piece.split(b"\n\n")
            unfinished = events.pop()
            if len(events) == 1 and not unfinished:
                return [piece]
            buffer += unfinished
            self._searched = len(unfinished)
            return [event + b"\n\n" for event in events]
        buffer += piece
        events = []
        start = 0
        # A blank line is at most 4 bytes, so one may begin 3 bytes before the new piece.
        for found in _BLANK_LINE.finditer(buffer, max(0, self._searched - 3)):
            events.append(bytes(buffer[start : found.end()]))
            start = found.end()
        if start:
            del buffer[:start]
        self._searched = len(buffer)
        if self._searched > self._max:
            raise EventTooLargeError(f"an event is longer than {self._max} bytes")
        return events


def read(raw: bytes) -> Event:
    """The name and data of one raw event; both empty for a comment."""
    found = plain(raw)
    if found is not None:
        return Event(*found)
    name = ""
    data = []
    for line in raw.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].removeprefix(b" ").decode("utf-8", "replace")
    return Event(name, b"\n".join(data))


def plain(piece: bytes) -> tuple[str, bytes] | None:
    """Name and data of a piece that is just one event as OpenAI writes them: perhaps a name, then one line of data."""
    name, at = "", 6
    # Slices, as each method of bytes that takes arguments costs three times as much.
    if piece[:6] != b"data: ":
        begins = piece.find(b"\ndata: ") + 1
        if piece[:7] != b"event: " or not begins:
            return None
        name, at = piece[7 : begins - 1].decode("utf-8", "replace"), begins + 6
    data = piece[at:-2]
    if piece[-2:] != b"\n\n" or 10 in data or 13 in piece or "\n" in name:
        return None
    return name, data


def write(data: bytes, name: str = "") -> bytes:
    """One event with single-line data."""
    return (b"event: %s\n" % name.encode() if name else b"") + b"data: %s\n\n" % data
