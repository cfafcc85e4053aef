"""The money of one process, in memory: reserve and settle ask nobody, so a request pays no round trip for them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from app.ledger.entries import MAX_ENTRIES, MAX_OPEN, Entry, Kept, Page, sequence
from app.ledger.lease import Lease, State

ORG = "org"


class Payer(NamedTuple):
    """Whom a call is charged to: the organisation, and these."""

    tenant: str
    key: str
    model: str


def scopes_of(payer: Payer) -> tuple[str, str, str, str]:
    """The scopes that a call is charged to."""
    return ORG, f"tenant:{payer.tenant}", f"key:{payer.key}", f"model:{payer.model}"


class Hold:
    """Money reserved for one attempt. Settled exactly once; settling again changes nothing."""

    __slots__ = ("id", "leases", "payer", "settled", "worst")

    def __init__(self, leases: tuple[Lease, ...], worst: int, payer: Payer, id_: str) -> None:
        self.leases = leases
        self.worst = worst
        """Reserved, in pico-dollars."""
        self.payer = payer
        self.id = id_
        self.settled = False

    def extend(self, more: int) -> bool:
        """Reserve more without asking anyone; False when a lease has no room left."""
        for lease in self.leases:
            if lease.committed + more > lease.line:
                return False
        for lease in self.leases:
            lease.committed += more
        self.worst += more
        return True


class _Count:
    """Answers that needed no attempt, of one kind, since the last page."""

    __slots__ = ("at", "id", "number")

    def __init__(self, id_: str, at: float) -> None:
        self.id = id_
        self.at = at
        self.number = 1


class Book:
    """Every lease of one process, what is reserved on them, and the entries that no page has yet."""

    def __init__(self, boot: str) -> None:
        """`boot` names this process and is never used again."""
        self.boot = boot
        self.current: dict[tuple[str, str], Lease] = {}
        self.draining: list[Lease] = []
        """Leases that admit nothing any more, until the table knows what was spent on them."""
        self.holds: dict[str, Hold] = {}
        self._generation = 0
        self._entries: deque[tuple[Entry, tuple[Lease, ...]]] = deque()
        self._kept: dict[Kept, _Count] = {}
        self._number = 0
        self._page: Page | None = None
        self._charged: dict[Lease, int] = {}

    @property
    def leases(self) -> list[Lease]:
        """Every lease that may still need a step."""
        return [*self.current.values(), *self.draining]

    @property
    def unwritten(self) -> int:
        """Entries that no page in the table has."""
        return len(self._entries) + len(self._kept) + (len(self._page.entries) if self._page else 0)

    def lease(self, scope: str, window: str) -> Lease:
        """The lease to spend from; a new one, still empty, when there is none or the last one ended."""
        lease = self.current.get((scope, window))
        if lease is None or lease.closing or lease.state in (State.LOST, State.DONE):
            self.retire(lease)
            self._generation += 1
            lease = Lease(scope, window, f"{self.boot}.{self._generation}")
            self.current[scope, window] = lease
        return lease

    def retire(self, lease: Lease | None) -> None:
        """Spend nothing more from a lease; what is left of it goes back once everything on it is settled."""
        if lease is None:
            return
        if self.current.get((lease.scope, lease.window)) is lease:
            del self.current[lease.scope, lease.window]
        lease.closing = True
        lease.draw(away=False)
        if lease.state is not State.DONE and lease not in self.draining:
            self.draining.append(lease)

    def forget(self) -> None:
        """Drop the leases that are done with, and those that never came to be."""
        self.draining = [
            lease
            for lease in self.draining
            if lease.state is not State.DONE and (lease.state is not State.NEW or lease.flying is not None)
        ]

    def take(self, leases: tuple[Lease, ...], worst: int, payer: Payer, id_: str) -> Hold | None:
        """Reserve `worst` on every lease; None when one of them has no room."""
        for lease in leases:
            committed = lease.committed + worst
            if committed > lease.line:
                break
            lease.committed = committed
        else:
            hold = self.holds[id_] = Hold(leases, worst, payer, id_)
            return hold
        for taken in leases:  # those before the one that has no room
            if taken is lease:
                break
            taken.committed -= worst
        return None

    def force(self, leases: tuple[Lease, ...], worst: int, payer: Payer, id_: str) -> Hold:
        """Reserve without looking: for facts, which are never refused."""
        for lease in leases:
            lease.committed += worst
        hold = self.holds[id_] = Hold(leases, worst, payer, id_)
        return hold

    def settle(self, hold: Hold, entry: Entry) -> int:
        """Put what an attempt cost in place of what was reserved for it; returns how many entries wait for a page then,
        0 when this one was settled before."""
        if hold.settled:
            return 0
        hold.settled = True
        self.holds.pop(hold.id, None)
        pico, leases, entries = entry.pico, hold.leases, self._entries
        more = pico - hold.worst
        for lease in leases:
            lease.committed += more
            lease.total += pico
        entries.append((entry, leases))
        return len(entries)

    def release(self, hold: Hold) -> None:
        """Give back what was reserved for an attempt that was never made."""
        if not hold.settled:
            hold.settled = True
            self.holds.pop(hold.id, None)
            for lease in hold.leases:
                lease.committed -= hold.worst

    def note(self, entry: Entry) -> None:
        """Keep an entry that costs nothing and had nothing reserved."""
        self._entries.append((entry, ()))

    def count(self, kept: Kept) -> bool:
        """Count one more answer that needed no attempt; False when it is the first of its kind, which has a name."""
        known = self._kept.get(kept)
        if known is None:
            return False
        known.number += 1
        return True

    def begin_count(self, kept: Kept, id_: str, at: float) -> None:
        """Count the first answer of its kind since the last page."""
        self._kept[kept] = _Count(id_, at)

    def drop_oldest(self) -> Entry | None:
        """Give up the oldest entry that waits for a page, for when memory ends; None when there is none."""
        if not self._entries:
            return next(iter(self._counted(1)), None)
        entry, leases = self._entries.popleft()
        for lease in leases:
            lease.filed += entry.pico
        return entry

    def page_of(self, entries: tuple[Entry, ...], at: float) -> Page:
        """A page for entries that are charged to no lease."""
        self._number += 1
        return Page(self.boot, sequence(at, self._number), entries, (), ())

    def page(self, at: float) -> Page | None:
        """The page to write next: the same one until it is `filed`."""
        if self._page is None and (self._entries or self._kept):
            taken = [self._entries.popleft() for _ in range(min(len(self._entries), MAX_ENTRIES))]
            sums: dict[tuple[Lease, ...], int] = {}
            for entry, leases in taken:
                sums[leases] = sums.get(leases, 0) + entry.pico
            charged: dict[Lease, int] = {}
            for leases, pico in sums.items():
                for lease in leases:
                    charged[lease] = charged.get(lease, 0) + pico
            self._number += 1
            self._charged = charged
            self._page = Page(
                self.boot,
                sequence(at, self._number),
                (*[entry for entry, _ in taken], *self._counted(MAX_ENTRIES - len(taken))),
                tuple((lease.scope, lease.window, lease.handle, pico) for lease, pico in charged.items()),
                tuple((hold.id, hold.payer.tenant, hold.payer.model, hold.worst) for hold in self._in_flight()),
            )
        return self._page

    def filed(self) -> None:
        """The table has the page."""
        for lease, pico in self._charged.items():
            lease.filed += pico
        self._page = None
        self._charged = {}

    def draw(self, away: bool, stopped: bool = False) -> None:
        """Set every lease's line: `away` opens the emergency part, `stopped` closes everything."""
        for lease in self.current.values():
            lease.draw(away)
            if stopped:
                lease.line = -1

    def _counted(self, most: int) -> list[Entry]:
        """Up to so many kinds of counted answers as entries; their counts begin anew."""
        taken = [(kept, self._kept.pop(kept)) for kept in list(itertools.islice(self._kept, most))]
        return [kept.entry(count.id, count.at, count.number) for kept, count in taken]

    def _in_flight(self) -> Sequence[Hold]:
        return list(itertools.islice(self.holds.values(), MAX_OPEN))
