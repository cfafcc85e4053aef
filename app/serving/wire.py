"""The way to a caller: an answer that fits into one packet leaves in one.

uvicorn writes the head of an answer and its body one after the other and uvloop sends each at once: two system calls,
and two packets, for an answer that fits into one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

JOINED_BYTES = 64 * 1024
"""A longer piece is not copied to be joined to the head."""
LINGER_SECONDS = 30.0
"""A caller who takes nothing of the end of an answer for so long, on a connection that is to be closed, loses it."""
_ANSWER = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 100"


class HeadWaits(asyncio.Transport):
    """Holds a head back until more is written, the turn of the event loop ends, or the connection is closed.

    What begins like a head and is none is held for the same moment; the order stays whatever is written.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Everything but writing and closing is the transport's own."""
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self.write_on = transport.write
        """Writes what comes after a head and a first piece, so that nothing is held."""
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """As the transport's."""
        held = self._held
        if held:
            self._held = b""
            if len(data) <= JOINED_BYTES:
                self._transport.write(held + data)
            else:
                self._transport.write(held)
                self._transport.write(data)
        elif isinstance(data, bytes) and data.startswith(_ANSWER) and not data.startswith(_INTERIM):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write an answer of which nothing waits; what is held of another one goes first."""
        self._flush()
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """As the transport's."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """As the transport's: what was written is sent first, for as long as the caller takes it."""
        self._flush()
        self._transport.close()
        self._linger(math.inf)

    def abort(self) -> None:
        """As the transport's."""
        self._held = b""
        self._transport.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As the transport's."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As the transport's."""
        return self._transport.get_protocol()

    def is_reading(self) -> bool:
        """As the transport's."""
        return self._transport.is_reading()

    def get_write_buffer_size(self) -> int:
        """As the transport's, with what is held."""
        return self._transport.get_write_buffer_size() + len(self._held)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As the transport's."""
        self._transport.set_write_buffer_limits(high, low)

    def _linger(self, before: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent >= before:
            self._transport.abort()
        elif unsent:
            self._loop.call_later(LINGER_SECONDS, self._linger, unsent)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
