"""A lease as its holder sees it: what may still be spent, and which step to send next. No clock, no network."""

from __future__ import annotations

from enum import Enum

from app.ledger.item import UNBOUNDED_PICO, Bump, Close, Item, Op, Open, Resolve, Slot, old_tombs

EMERGENCY_SHARE = 400
"""Each replica keeps a quarter of a percent of a limit for the time when the ledger does not answer."""
EMERGENCY_UNBOUNDED_PICO = 10**12
"""The same of a scope without a budget: one dollar."""
BLOCK_SHARE = 100
"""A block beyond what the call at hand needs is at most a percent of the limit, divided by those who hold leases."""
TOMBS_AT_ONCE = 10


class State(Enum):
    """Where a lease is in its life."""

    NEW = "new"
    OPEN = "open"
    LOST = "lost"
    """Reclaimed by a watcher: it admits nothing, and is settled by its own pages once nothing is in flight."""
    DONE = "done"


class Lease:
    """Money of one scope and window that this process may spend without asking.

    `total <= committed <= amt` unless a call cost more than its worst case: then an overrun is sent.
    """

    __slots__ = (
        "amt",
        "avail",
        "block",
        "buried",
        "burn",
        "closing",
        "committed",
        "emergency",
        "filed",
        "flying",
        "handle",
        "holders",
        "limit",
        "line",
        "n",
        "published",
        "published_at",
        "refused_until",
        "scope",
        "state",
        "total",
        "wanted",
        "window",
    )

    def __init__(self, scope: str, window: str, handle: str) -> None:
        self.scope = scope
        self.window = window
        self.handle = handle
        self.state = State.NEW
        self.n = 0
        self.amt = 0
        self.total = 0
        """Billed by what was settled."""
        self.committed = 0
        """`total` and everything that is reserved."""
        self.filed = 0
        """Of `total`, what stands in pages that the table has."""
        self.published = 0
        """Of `filed`, what the item says."""
        self.emergency = 0
        """Of `amt`, kept for the time when the ledger does not answer."""
        self.line = -1
        """Up to which `committed` may grow now."""
        self.block = 0
        """To ask for at the next step."""
        self.closing = False
        self.flying: Op | None = None
        """Sent, and its fate is not known: it is sent again as it is, and nothing else."""
        self.avail = self.limit = 0
        self.holders = 1
        self.buried: tuple[str, ...] = ()
        self.burn = 0
        """Pico-dollars that this process spends of it in the time that a block should last."""
        self.published_at = 0.0
        self.wanted = 0
        """What the last call that found no room needed."""
        self.refused_until = 0.0

    @property
    def kind(self) -> tuple[str, str]:
        """Of budget: its scope, and `M` or `D`."""
        return self.scope, self.window[0]

    @property
    def drained(self) -> bool:
        """Nothing is in flight and every entry is in a page."""
        return self.committed == self.total == self.filed

    def draw(self, away: bool) -> None:
        """Set the line: the emergency part is for when the ledger is away."""
        self.line = self.amt if away else self.amt - self.emergency
        if self.state is not State.OPEN or self.closing:
            self.line = -1

    def size(self, worst: int, burn: int, least: int = 0) -> int:
        """A block that serves calls of `worst` together and some time of the own pace, from what is seen to be there.

        All that is left when that pays for `least`, the smallest of them, and not for all; 0 when for none.
        """
        if self.state is State.NEW:
            self.emergency = self._for_an_outage()
        missing = max(0, self.committed + worst - (self.amt - self.emergency))
        if missing > self.avail and self.state is State.NEW:
            missing, self.emergency = missing - self.emergency, 0
        if missing > self.avail:
            return self.avail if least and missing - worst + least <= self.avail else 0
        fair = max(0, min(self.limit // BLOCK_SHARE, self.avail // 2)) // max(1, self.holders)
        wish = max(missing, min(max(2 * worst, burn), fair))
        return min(wish, self.avail)

    def _for_an_outage(self) -> int:
        """What to lease for the time when the ledger is away; nothing from a budget that is nearly used up."""
        if self.limit >= UNBOUNDED_PICO:
            return EMERGENCY_UNBOUNDED_PICO
        share = self.limit // EMERGENCY_SHARE
        return share if self.avail > self.limit // 4 else 0

    def next_op(self) -> Op | None:
        """The step to send, the same one until its fate is known; None when there is nothing to do."""
        if self.flying is None:
            self.flying = self._choose()
        return self.flying

    def _choose(self) -> Op | None:
        if self.state is State.NEW:
            return Open(self.handle, self.block) if self.block > 0 or self.committed > 0 else None
        if self.state is State.LOST:
            seen = Slot(self.n, self.amt, 0)
            return Resolve(self.handle, seen, self.total) if self.drained else None
        if self.state is State.DONE:
            return None
        if self.committed > self.amt:
            return Bump(self.handle, self.n, self.committed - self.amt, self.filed, overrun=True)
        if self.closing and self.drained:
            return Close(self.handle, self.n, self.amt, self.total)
        if self.block > 0 and not self.closing:
            return Bump(self.handle, self.n, self.block, self.filed, buried=self.buried)
        return None

    def publish(self) -> None:
        """Tell the item what was spent, without asking for more."""
        if self.flying is None and self.state is State.OPEN and self.filed > self.published:
            self.flying = Bump(self.handle, self.n, 0, self.filed, buried=self.buried)

    def done(self, op: Op, item: Item) -> None:
        """The step was taken; the item as it is after it. An answer to a step whose fate is known changes nothing."""
        self.see(item)
        if self.flying is not op:
            return
        self.flying = None
        if isinstance(op, Open | Bump):
            self.state = State.OPEN
            self._adopt(item.slots[self.handle])
            if isinstance(op, Open) or not op.overrun:
                self.block = 0
        elif isinstance(op, Close | Resolve):
            self.state = State.DONE
        self.draw(away=False)

    def refused(self, op: Op, old: Item) -> bool:
        """The condition did not hold on `old`: the step was taken before, or cannot be; whether it was.

        False with the state still NEW or OPEN means that the money was not there.
        """
        self.see(old)
        if self.flying is not op:
            return False
        slot = old.slots.get(self.handle)
        if slot is not None:
            taken = (isinstance(op, Open) and slot.n == 1) or (isinstance(op, Bump) and slot.n == op.n + 1)
            if taken:
                self.done(op, old)
                return True
            self.flying = None
            self.block = 0
            if self.state is State.OPEN:
                self._adopt(slot)
                self.draw(away=False)
            return False
        self.flying = None
        suspended = old.susp.get(self.handle)
        if suspended is not None:
            self.state, self.n, self.amt = State.LOST, suspended.n, suspended.amt
        elif isinstance(op, Open) and self.handle not in old.tomb:
            self.block = 0
            return False
        else:
            # Closed by this very step, or settled by others' evidence.
            self.state = State.DONE
        self.draw(away=False)
        return isinstance(op, Close | Resolve) and self.state is State.DONE

    def bury(self, tomb: dict[str, int], now: int) -> None:
        """Note which tombs of the item are old enough to be dropped with the next step."""
        self.buried = old_tombs(tomb, now, TOMBS_AT_ONCE)

    def _adopt(self, slot: Slot) -> None:
        """Take over what the item says: a copy of a step that was refused may have come later, and been taken."""
        self.n, self.amt, self.published = slot

    def see(self, item: Item) -> None:
        """Note what is there, and who else holds some of it."""
        self.avail, self.limit = item.avail, item.limit
        self.holders = max(1, len(item.slots))
