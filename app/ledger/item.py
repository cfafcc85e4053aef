"""One budget item of the table, and each step of the lease protocol on it: what must hold, and what it changes.

Every step is one conditional update. `apply` is its meaning, `update` the same in DynamoDB's words; a test runs both
side by side. A step that is sent twice, late or after its holder died changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

UNBOUNDED_PICO = 10**24
"""Limit of a scope without a budget, a trillion dollars: the same steps count its spend exactly and refuse nothing."""
TOMB_SECONDS = 3_600
"""A late copy of an `open` is refused for so long; no client or network keeps one for minutes."""


ASIDE_OF = "a"
"""Before a day, in the name of an attribute."""


class Slot(NamedTuple):
    """Money leased to a holder: under which sequence number, how much, and how much of it is known to be spent."""

    n: int
    amt: int
    set: int


@dataclass(slots=True)
class Item:
    """A scope's money in one window: `avail + spent + leased + suspended + aside = limit`, always."""

    limit: int
    avail: int
    spent: int = 0
    ver: int = 1
    slots: dict[str, Slot] = field(default_factory=dict)
    susp: dict[str, Slot] = field(default_factory=dict)
    """Leases of holders that fell silent: still counted, until there is evidence of what they spent."""
    tomb: dict[str, int] = field(default_factory=dict)
    aside: int = 0
    """Set aside for requests that wait for a batch: each one's own record says how much of it is whose."""
    asides: dict[str, int] = field(default_factory=dict)
    """Of it, what those have that were accepted on a UTC day, such as `1122`: in the organisation's item alone."""

    def copy(self) -> Item:
        """A picture that later steps do not change."""
        maps = (dict(self.slots), dict(self.susp), dict(self.tomb))
        return Item(self.limit, self.avail, self.spent, self.ver, *maps, self.aside, dict(self.asides))

    @property
    def used(self) -> int:
        """Spent for certain: settled, and reported by those who hold leases."""
        return self.spent + sum(slot.set for slot in (*self.slots.values(), *self.susp.values()))

    @property
    def leased(self) -> int:
        """Leased and not reported as spent, which may be reserved or free again soon; and what is set aside."""
        return self.aside + sum(slot.amt - slot.set for slot in self.slots.values())

    @property
    def suspense(self) -> int:
        """In leases of holders that fell silent, not known to be spent and not known to be free."""
        return sum(slot.amt - slot.set for slot in self.susp.values())


class Update(NamedTuple):
    """A step in DynamoDB's words; integers in `values` are Numbers, a Slot is a map."""

    change: str
    condition: str
    names: dict[str, str]
    values: dict[str, Any]


class Op(Protocol):
    """One step."""

    def apply(self, item: Item, now: int) -> bool:
        """Change the item when the condition holds; whether it did."""

    def update(self, now: int) -> Update:
        """The same for DynamoDB."""


@dataclass(frozen=True, slots=True)
class Open:
    """Lease a first block; an empty one is always granted, for facts that are spent already."""

    handle: str
    block: int

    def apply(self, item: Item, now: int) -> bool:
        h = self.handle
        if (self.block > 0 and item.avail < self.block) or h in item.slots or h in item.susp or h in item.tomb:
            return False
        item.avail -= self.block
        item.slots[h] = Slot(1, self.block, 0)
        return True

    def update(self, now: int) -> Update:
        return Update(
            "SET avail = avail - :b, slots.#h = :slot",
            "attribute_not_exists(slots.#h) AND attribute_not_exists(susp.#h) AND attribute_not_exists(tomb.#h)"
            + (" AND avail >= :b" if self.block > 0 else ""),
            {"#h": self.handle},
            {":b": self.block, ":slot": Slot(1, self.block, 0)},
        )


@dataclass(frozen=True, slots=True)
class Bump:
    """Lease more (or nothing more), and say how much is spent in all: a total, never a difference."""

    handle: str
    n: int
    block: int
    total: int
    overrun: bool = False
    """The money is spent already: it is taken even when there is none, and the item goes below zero."""
    buried: tuple[str, ...] = ()
    """Old tombs to drop on the way."""

    def apply(self, item: Item, now: int) -> bool:
        slot = item.slots.get(self.handle)
        if slot is None or slot.n != self.n or (self.guarded and item.avail < self.block):
            return False
        item.avail -= self.block
        item.slots[self.handle] = Slot(slot.n + 1, slot.amt + self.block, self.total)
        for handle in self.buried:
            item.tomb.pop(handle, None)
        return True

    @property
    def guarded(self) -> bool:
        return self.block > 0 and not self.overrun

    def update(self, now: int) -> Update:
        drop = {f"#t{index}": handle for index, handle in enumerate(self.buried)}
        remove = f" REMOVE {', '.join(f'tomb.{name}' for name in drop)}" if drop else ""
        return Update(
            "SET avail = avail - :b, slots.#h.amt = slots.#h.amt + :b, slots.#h.#set = :total, slots.#h.n = :next"
            + remove,
            "slots.#h.n = :n" + (" AND avail >= :b" if self.guarded else ""),
            {"#h": self.handle, "#set": "set", **drop},
            {":b": self.block, ":total": self.total, ":n": self.n, ":next": self.n + 1},
        )


@dataclass(frozen=True, slots=True)
class Close:
    """Give back what is left; the holder knows `amt`, as nobody else changes it under this number."""

    handle: str
    n: int
    amt: int
    total: int

    def apply(self, item: Item, now: int) -> bool:
        slot = item.slots.get(self.handle)
        if slot is None or slot.n != self.n:
            return False
        item.avail += self.amt - self.total
        item.spent += self.total
        item.tomb[self.handle] = now
        del item.slots[self.handle]
        return True

    def update(self, now: int) -> Update:
        return Update(
            "SET avail = avail + :back, spent = spent + :total, tomb.#h = :now REMOVE slots.#h",
            "slots.#h.n = :n",
            {"#h": self.handle},
            {":back": self.amt - self.total, ":total": self.total, ":now": now, ":n": self.n},
        )


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A holder fell silent: its lease goes to suspense with every dollar in it. Expiry is no evidence."""

    handle: str
    seen: Slot

    def apply(self, item: Item, now: int) -> bool:
        slot = item.slots.get(self.handle)
        if slot is None or slot.n != self.seen.n:
            return False
        item.susp[self.handle] = self.seen
        del item.slots[self.handle]
        return True

    def update(self, now: int) -> Update:
        return Update(
            "SET susp.#h = :slot REMOVE slots.#h",
            "slots.#h.n = :n",
            {"#h": self.handle},
            {":slot": self.seen, ":n": self.seen.n},
        )


@dataclass(frozen=True, slots=True)
class Resolve:
    """Evidence of what a suspended lease spent: from its holder, or from OpenAI's own count."""

    handle: str
    seen: Slot
    billed: int

    def apply(self, item: Item, now: int) -> bool:
        slot = item.susp.get(self.handle)
        if slot is None or slot.n != self.seen.n:
            return False
        item.avail += self.seen.amt - self.billed
        item.spent += self.billed
        item.tomb[self.handle] = now
        del item.susp[self.handle]
        return True

    def update(self, now: int) -> Update:
        return Update(
            "SET avail = avail + :back, spent = spent + :billed, tomb.#h = :now REMOVE susp.#h",
            "susp.#h.n = :n",
            {"#h": self.handle},
            {":back": self.seen.amt - self.billed, ":billed": self.billed, ":now": now, ":n": self.seen.n},
        )


@dataclass(frozen=True, slots=True)
class Bury:
    """Drop old tombs of an item that nobody leases from any more; whoever leases drops them on the way."""

    handles: tuple[str, ...]

    def apply(self, item: Item, now: int) -> bool:
        for handle in self.handles:
            item.tomb.pop(handle, None)
        return True

    def update(self, now: int) -> Update:
        names = {f"#t{index}": handle for index, handle in enumerate(self.handles)}
        return Update(f"REMOVE {', '.join(f'tomb.{name}' for name in names)}", "attribute_exists(pk)", names, {})


def old_tombs(tomb: Mapping[str, int], now: int, most: int) -> tuple[str, ...]:
    """The first tombs that no copy of an `open` can be late enough to need."""
    return tuple(islice((handle for handle, at in tomb.items() if at < now - TOMB_SECONDS), most))


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Another limit. What is leased stays leased; below it nothing more is granted."""

    ver: int
    before: int
    limit: int

    def apply(self, item: Item, now: int) -> bool:
        if item.ver != self.ver:
            return False
        item.avail += self.limit - self.before
        item.limit = self.limit
        item.ver += 1
        return True

    def update(self, now: int) -> Update:
        return Update(
            "SET avail = avail + :more, #limit = :limit, ver = :next",
            "ver = :ver",
            {"#limit": "limit"},
            {":more": self.limit - self.before, ":limit": self.limit, ":ver": self.ver, ":next": self.ver + 1},
        )


@dataclass(frozen=True, slots=True)
class SetAside:
    """Keep the worst case of a call that is made later, by whom nobody knows: no process holds it.

    This and `Use` are in one transaction with the record of the call, whose own condition lets each happen once.
    """

    pico: int
    day: str = ""
    """On which it was accepted, as `Item.asides` has it; nothing where that is not kept."""

    def plus(self, other: SetAside | Use) -> SetAside:
        """The same for two calls of a day at once."""
        assert isinstance(other, SetAside)
        return replace(self, pico=self.pico + other.pico)

    def apply(self, item: Item, now: int) -> bool:
        if item.avail < self.pico:
            return False
        item.avail -= self.pico
        item.aside += self.pico
        if self.day:
            item.asides[self.day] = item.asides.get(self.day, 0) + self.pico
        return True

    def update(self, now: int) -> Update:
        names = {"#d": f"{ASIDE_OF}{self.day}"} if self.day else {}
        change = f"SET avail = avail - :pico ADD aside :pico{', #d :pico' if names else ''}"
        return Update(change, "avail >= :pico", names, {":pico": self.pico})


@dataclass(frozen=True, slots=True)
class Use:
    """What such a call cost, or nothing, in place of what was set aside for it: a fact, which nothing refuses."""

    pico: int
    billed: int
    day: str = ""
    """The same as it was set aside with."""

    def plus(self, other: SetAside | Use) -> Use:
        """The same for two calls of a day at once."""
        assert isinstance(other, Use)
        return replace(self, pico=self.pico + other.pico, billed=self.billed + other.billed)

    def apply(self, item: Item, now: int) -> bool:
        item.avail += self.pico - self.billed
        item.spent += self.billed
        item.aside -= self.pico
        if self.day:
            item.asides[self.day] = item.asides.get(self.day, 0) - self.pico
        return True

    def update(self, now: int) -> Update:
        names = {"#d": f"{ASIDE_OF}{self.day}"} if self.day else {}
        return Update(
            f"SET avail = avail + :back, spent = spent + :billed ADD aside :less{', #d :less' if names else ''}",
            "attribute_exists(pk)",
            names,
            {":back": self.pico - self.billed, ":billed": self.billed, ":less": -self.pico},
        )
