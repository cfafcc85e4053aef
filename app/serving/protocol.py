"""uvicorn's protocol on a transport that sends the head of an answer together with the first bytes of its body.

uvicorn writes them one after the other and uvloop sends each at once: two system calls, and two packets, for an answer
that fits into one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

JOINED_BYTES = 64 * 1024
"""A longer piece is not copied to be joined to the head."""
_HEAD = b"HTTP/1.1 "
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
        elif isinstance(data, bytes) and data.startswith(_HEAD) and not data.startswith(_INTERIM):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """As the transport's."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """As the transport's: what was written is sent first."""
        self._flush()
        self._transport.close()

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

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


class Protocol(HttpToolsProtocol):
    """One connection of a caller."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(HeadWaits(cast(asyncio.Transport, transport)))
