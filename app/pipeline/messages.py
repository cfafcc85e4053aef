"""What goes into the pipeline and what comes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from app.keys import Identity
    from app.pipeline.record import Record


Write = Callable[[bytes, bytes], bool]
"""Takes a piece and the chunk of HTTP/1.1 in which it came, b"" for none; False = its reader is behind, or gone."""


class ByteStream(Protocol):
    """The bytes of a streamed answer, whole server-sent events at a time: an AsyncIterator[bytes] that closes."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def flow(self, write: Write) -> None:
        """Give what comes to `write`, where that is cheaper than a step for each piece, for as long as it returns True.

        Call it between two pieces; go on with the next when it returns. `write` must not raise.
        """

    async def aclose(self) -> None:
        """Stop: the upstream connection is closed at once and what arrived is accounted. May be called twice."""


@dataclass(slots=True)
class Call:
    """One authenticated request: `endpoint` is its path ("/v1/responses"), header names are lower case."""

    endpoint: str
    body: bytes
    identity: Identity
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    record: Record | None = None
    """Of the HTTP request, to be filled and written; None for a call that is none: the pipeline makes its own."""
    parent: Record | None = None
    """Of the HTTP request that makes this call to answer: its line counts for what came from outside, not this one."""
    on_left: Callable[[], bool] | None = None
    """Set by the pipeline while others may wait for what this call asks."""

    def left(self) -> bool:
        """Its caller has gone; whether the task that answers it is to be cancelled, or goes on for others."""
        return self.on_left is None or self.on_left()


@dataclass(slots=True)
class Reply:
    """One answer. Who takes a stream must exhaust it or call its `aclose()`: closing is what frees the upstream
    connection and settles the account."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | ByteStream
