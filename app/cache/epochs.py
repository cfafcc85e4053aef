"""The version of what answers depend on: per tenant and tag, known to every replica, and never older than a lease."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

LEASE_SECONDS = 1.0
"""An invalidation is acknowledged after this long, whoever has not answered."""
TRUSTED_SECONDS = 0.9
"""How long a replica trusts what it knows. Shorter, so that clocks that run unequally fast do no harm."""
DEAD_SECONDS = 2.0
"""A replica that says nothing for so long asks for nothing any more: another one asks in its place."""
MOST_KNOWN = 50_000
"""Epochs that a replica remembers; the least recently used is asked for again."""

Event = tuple[str, str | None]
"""Id of an event, and the field of EPOCHS that it changed; None = all of them."""


def field_of(tenant: str, tag: str) -> str:
    """Where the epoch of a tenant's tag stands. A tenant's name holds no NUL; `tag` "" stands for all its answers."""
    return f"{tenant}\0{tag}"


class Epochs:
    """What one replica knows of the epochs, and for how long it may trust that.

    Pure: it is told events and times (seconds of any clock that never goes back) and asks for nothing itself.
    """

    def __init__(self, on_change: Callable[[str], None] = lambda _field: None) -> None:
        """`on_change` is called with each field that an event changes, before the event counts as seen."""
        self.seen = "0-0"
        """The last event applied."""
        self._on_change = on_change
        self._known: OrderedDict[str, str] = OrderedDict()
        self._trusted_until = float("-inf")
        self._round = 0

    @property
    def round(self) -> int:
        """Grows when everything known was dropped; for `learn`."""
        return self._round

    def live(self, now: float) -> bool:
        """Whether what is known may be used."""
        return now < self._trusted_until

    def renew(self, asked_at: float) -> None:
        """Everything that had happened when the server was asked is applied: trust it from then on."""
        self._trusted_until = max(self._trusted_until, asked_at + TRUSTED_SECONDS)

    def doubt(self) -> None:
        """Drop what is known; nothing is trusted before `renew`."""
        self._trusted_until = float("-inf")
        self._drop()

    def start(self, seen: str) -> None:
        """The same, and begin anew after `seen`."""
        self.seen = seen
        self.doubt()

    def apply(self, events: Iterable[Event]) -> None:
        """Take events in their order; one that was seen already changes nothing."""
        for event_id, field in events:
            if not _before(self.seen, event_id):
                continue
            if field is None:
                self._drop()
            else:
                self._remember(field, event_id)
            if field is not None:
                self._on_change(field)
            self.seen = event_id

    def missing(self, fields: Sequence[str]) -> list[str]:
        """Those that have to be asked for."""
        return [field for field in fields if field not in self._known]

    def learn(self, field: str, epoch: str, asked_in: int) -> None:
        """What the server answered when asked in round `asked_in`; an event that came meanwhile is newer."""
        known = self._known.get(field)
        if asked_in == self._round and (known is None or _before(known, epoch)):
            self._remember(field, epoch)

    def stamp(self, fields: Sequence[str], now: float) -> str | None:
        """The epochs of all the fields as one text; None when one is unknown or nothing may be trusted."""
        if now >= self._trusted_until:
            return None
        known = self._known
        try:
            if len(fields) == 1:
                return known[fields[0]]
            return ",".join([known[field] for field in fields])
        except KeyError:
            return None

    def _remember(self, field: str, epoch: str) -> None:
        self._known[field] = epoch
        self._known.move_to_end(field)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def _drop(self) -> None:
        self._round += 1
        self._known.clear()


def _before(one: str, other: str) -> bool:
    return _parts(one) < _parts(other)


def _parts(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


class Peers:
    """Which replicas are alive, by the beats that each sync shows. Times are of the caller's clock."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[str, float]] = {}
        self._missed: dict[str, float] = {}

    def heard(self, said: dict[str, str], now: float) -> None:
        """What each replica says of itself."""
        before = self._beats
        self._beats = {
            name: before[name] if name in before and before[name][0] == words else (words, now)
            for name, words in said.items()
        }
        self._missed = {name: since for name, since in self._missed.items() if name not in said}

    def alive(self, name: str, now: float) -> bool:
        """Whether a replica has said something new of late; one that was never heard of gets as long to begin."""
        known = self._beats.get(name)
        since = known[1] if known is not None else self._missed.setdefault(name, now)
        return now - since < DEAD_SECONDS
