"""HTTP/1.1 as bytes: requests made from a template, answers read piece by piece. No sockets here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SERIAL_DIGITS = 16
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
STREAM_END = b"data: [DONE]"
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Template:
    """A request of constant length with a place for a serial number inside its body."""

    before: bytes
    after: bytes

    def request(self, serial: int) -> bytes:
        """The request with this serial number; requests of different numbers are different questions."""
        return b"%b%016x%b" % (self.before, serial, self.after)


def template(path: str, headers: Mapping[str, str], body: bytes, mark: bytes) -> Template:
    """The POST of `body`, in which `mark` (SERIAL_DIGITS bytes, once) gives way to the serial number."""
    if len(mark) != SERIAL_DIGITS or body.count(mark) != 1:
        raise ValueError(f"the mark must stand in the body once and be {SERIAL_DIGITS} bytes long")
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    before, after = body.split(mark)
    return Template("\r\n".join(lines).encode() + before, after)


class AnswerReader:
    """Reads one answer. `feed` returns whether it is whole; `status` is known once its head is."""

    __slots__ = ("_body_bytes", "_head", "_length", "_tail", "ended", "status")

    def __init__(self) -> None:
        self.status = 0
        self.ended = False
        """The end mark of an event stream has been seen."""
        self._head = b""
        self._length: int | None = None
        self._body_bytes = 0
        self._tail = b""

    @property
    def body_bytes(self) -> int:
        """Bytes after the head that have arrived, framing included."""
        return self._body_bytes

    def feed(self, piece: bytes) -> bool:
        """Take what has arrived; raises ValueError for an answer without a length."""
        if not self.status:
            head, separator, piece = (self._head + piece).partition(HEAD_END)
            if not separator:
                self._head = head
                return False
            self._read_head(head)
        self._body_bytes += len(piece)
        if self._length is not None:
            return self._body_bytes >= self._length
        tail = self._tail + piece
        self.ended = self.ended or STREAM_END in tail
        self._tail = tail[-len(STREAM_END) :]
        return self._tail.endswith(LAST_CHUNK)

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        length = _LENGTH.search(head)
        if length is not None:
            self._length = int(length[1])
        elif _CHUNKED.search(head) is None:
            raise ValueError("the answer has neither a length nor chunks")


def request_length(head: bytes) -> int | None:
    """Bytes of the body behind a request's head; None when it comes in chunks."""
    if _CHUNKED.search(head):
        return None
    length = _LENGTH.search(head)
    return int(length[1]) if length else 0


def dechunked(data: bytes) -> tuple[bytes, bytes] | None:
    """The body of a chunked message at the start of `data`, and what follows it; None when it is not all there."""
    body = b""
    while True:
        size, separator, rest = data.partition(b"\r\n")
        if not separator:
            return None
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        body, data = body + rest[:length], rest[length + 2 :]
        if length == 0:
            return body, data
