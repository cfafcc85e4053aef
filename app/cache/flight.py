"""One question being answered for everybody who asks it meanwhile; a stream is read once and heard from its start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from app.cache.entry import MAX_BODY_BYTES
from app.errors import ApiError
from app.upstream import sse

if TYPE_CHECKING:
    from app.cache.entry import Entry
    from app.pipeline.messages import ByteStream, Write

MAX_AHEAD_BYTES = 256 * 1024
"""How far upstream is read ahead of the fastest reader; of a stream that is too long to share, of the slowest."""


@dataclass(slots=True)
class Landing:
    """What came of a flight: a kept or borrowed entry, or the leader's own headers with a body or a stream."""

    state: str
    """`hit`, `stale` or `join` when nothing was asked for; `miss` when the leader's call was made."""
    entry: Entry | None = None
    """Of a whole answer; None for a stream that is still being heard."""
    headers: list[tuple[str, str]] | None = None
    """For the leader's own caller."""
    status: int = 200
    age: float = 0.0
    """Seconds since a kept entry was made."""


class Lead(Protocol):
    """Who reads a stream in the task of the caller whose call it is."""

    def take(self) -> ByteStream:
        """For that caller."""

    def share(self) -> None:
        """Others hear it as well."""

    def leave(self) -> None:
        """Nobody hears it any more."""


class Flight:
    """What the requests for one key share. `task` does the work; it is cancelled when nobody is interested any more."""

    __slots__ = (
        "_interested",
        "_landing",
        "_relay",
        "_waiters",
        "background",
        "fingerprint",
        "key",
        "lead",
        "leader",
        "orphaned",
        "remote",
        "task",
        "token",
    )

    def __init__(self, key: str, token: str, leader: str, fingerprint: str, *, background: bool = False) -> None:
        """`leader` is the id of the key that pays; a `background` flight goes on without anybody waiting."""
        self.key = key
        self.token = token
        self.leader = leader
        self.fingerprint = fingerprint
        self.task: asyncio.Task[Any] | None = None
        self.lead: Lead | None = None
        """Of a stream, once it has begun."""
        self.remote = False
        """Another replica waits for this as well."""
        self.orphaned = False
        """The leader's own caller has left, or there never was one: the line of its record is the flight's to write."""
        self.background = background
        self._interested = 0
        self._landing: Landing | ApiError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._relay: Relay | None = None

    @property
    def relay(self) -> Relay:
        """The pieces of its stream; most answers are whole and have none."""
        if self._relay is None:
            self._relay = Relay()
        return self._relay

    @property
    def open(self) -> bool:
        """Whether one may join: what is too long to share has been let go."""
        return self._relay is None or self._relay.shareable

    @property
    def wanted(self) -> bool:
        """Whether anybody waits or reads, or nobody has to."""
        return self._interested > 0 or self.background or self.remote

    @property
    def alone(self) -> bool:
        """Whether the leader's own caller is the only one who is interested."""
        return self._interested == 1 and not (self.orphaned or self.background or self.remote)

    def led_by(self, task: asyncio.Task[Any] | None) -> None:
        """The task of the leader's own request does the work: its caller waits as well, until it `abandoned` this."""
        self.task = task
        self._interested += 1

    def abandoned(self) -> bool:
        """The leader's caller has gone; whether nobody else wants what its task does."""
        self._interested -= 1
        return not self.wanted

    def land(self, landing: Landing | ApiError) -> None:
        """Let everybody who waits go on; the first landing counts."""
        if self._landing is None:
            self._landing = landing.again() if isinstance(landing, ApiError) else landing
            _wake(self._waiters)

    def landed(self) -> Landing | None:
        """What came of it; None while it flies. Raises the ApiError that it came to."""
        landing = self._landing
        if isinstance(landing, ApiError):
            raise landing.again()
        return landing

    def end(self) -> None:
        """Nothing more comes of it, landed or not."""
        if self._landing is None:
            self.land(ApiError("upstream_incomplete", "The answer was given up; try again."))
        if self._relay is not None:
            self._relay.end()

    async def landing(self, *, counted: bool = False) -> Landing:
        """What came of it; raises the ApiError that it came to. A stream's caller reads it by a `Reader`.

        Being cancelled ends one's own interest, and the flight when it was the last; then the flight's end is waited
        for, so that what was used is accounted. The leader's interest is `counted` already.
        """
        if not counted:
            self._interested += 1
        stays = False
        try:
            while (landing := self.landed()) is None:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
            stays = landing.entry is None
            return landing
        except asyncio.CancelledError:
            stays = True
            if self.leave() and self.task is not None:
                await asyncio.wait([self.task])
            raise
        finally:
            if not stays:
                self._interested -= 1

    def leave(self) -> bool:
        """End one interest; True when that ended the flight, and its task is to be waited for."""
        self._interested -= 1
        return self._given_up()

    def unheard_elsewhere(self) -> None:
        """No other replica hears of it any more, which may have been the last interest."""
        self.remote = False
        self._given_up()

    def _given_up(self) -> bool:
        if self.wanted:
            return False
        if self.lead is not None:
            self.lead.leave()
        if self.task is None or self.task.done():
            return False
        self.task.cancel()
        return True


class Relay:
    """The pieces of a stream as they came; beyond MAX_BODY_BYTES nobody can join, and what all have is let go."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.ended = False
        self.shareable = True
        self.on_too_long: Callable[[], None] | None = None
        """Called once, when nobody can join any more."""
        self.readers: set[Reader] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._room: list[asyncio.Future[None]] = []
        self._let_go = 0

    def add(self, piece: bytes) -> None:
        """The next piece is here."""
        self.pieces.append(piece)
        self.size += len(piece)
        if self.size > MAX_BODY_BYTES and self.shareable:
            self._grew_too_long()
        if self._waiters:
            _wake(self._waiters)

    def pass_on(self, piece: bytes) -> None:
        """The next piece, which the only one who hears it has already."""
        self.size += len(piece)
        if self.size <= MAX_BODY_BYTES:
            self.pieces.append(piece)
        elif self.shareable:
            self.pieces.clear()
            self._grew_too_long()

    def end(self) -> None:
        """No more comes."""
        self.ended = True
        self.on_too_long = None  # it refers to the flight: else only the collector would free both
        _wake(self._waiters)

    def text(self) -> bytes:
        """All of it, without the comments that only filled a silence."""
        return b"".join([piece for piece in self.pieces if piece is not sse.HEARTBEAT])

    async def room(self) -> None:
        """Wait while the readers are too far behind."""
        if self.size <= MAX_AHEAD_BYTES:
            return
        while self.readers and self._ahead() > MAX_AHEAD_BYTES:
            self._release()
            waiter = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            await waiter
        self._release()

    async def more(self) -> None:
        """Wait for the next piece, or the end."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def moved(self) -> None:
        """A reader has read, or left."""
        if self._room:
            _wake(self._room)

    def _grew_too_long(self) -> None:
        self.shareable = False
        tell, self.on_too_long = self.on_too_long, None
        if tell is not None:
            tell()

    def _ahead(self) -> int:
        read = [reader.read for reader in self.readers]
        return self.size - (max(read) if self.shareable else min(read))

    def _release(self) -> None:
        """Let go of what every reader has, once nobody else can come."""
        if not self.shareable and self.readers:
            behind = min(reader.at for reader in self.readers)
            for index in range(self._let_go, behind):
                self.pieces[index] = b""
            self._let_go = max(self._let_go, behind)


class Reader:
    """One caller's way through a flight's stream: a `ByteStream`."""

    def __init__(
        self, flight: Flight, on_end: Callable[[bool], None] = lambda _left: None, *, at_end: bool = False
    ) -> None:
        """`on_end` is called once, with whether the caller left before the end; `at_end`: it has what came so far."""
        self._flight = flight
        self._relay = relay = flight.relay
        self.at = len(relay.pieces) if at_end else 0
        """Pieces read."""
        self.read = relay.size if at_end else 0
        """Bytes read."""
        self._open = True
        self._on_end: Callable[[bool], None] | None = on_end
        self._relay.readers.add(self)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        relay = self._relay
        while True:
            at, count = self.at, len(relay.pieces)
            if at < count and self._open:
                piece = relay.pieces[at] if count == at + 1 else b"".join(relay.pieces[at:])
                self.at = count
                self.read += len(piece)
                relay.moved()
                if piece:
                    return piece
            elif relay.ended or not self._open:
                self._tell(left=False)
                raise StopAsyncIteration
            else:
                await relay.more()

    async def flow(self, write: Write) -> None:
        """Nothing: what others read too is read by steps."""

    async def aclose(self) -> None:
        """Stop listening; the last to do so ends the stream, and waits until that is accounted. May be called twice."""
        if not self._open:
            return
        self._tell(left=not self._relay.ended or self.at < len(self._relay.pieces))
        self._open = False
        self._relay.readers.discard(self)
        self._relay.moved()
        flight = self._flight
        if flight.leave() and flight.task is not None:
            await asyncio.wait([flight.task])

    def _tell(self, *, left: bool) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(left)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
