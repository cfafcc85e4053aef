"""Wrong protocols that the check has to catch: each was somebody's idea of how to do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.ledger import auditor, evidence, lease
from app.ledger import item as items
from app.ledger.entries import Page, day_start
from app.ledger.evidence import Bill, Residual, Seen, Silent, Verdict
from app.ledger.item import Bump, Close, Item, Open, Reclaim, SetAside, Slot, Use
from tests.ledger_check import openai, waiting
from tests.ledger_check.waiting import Waiting
from tests.ledger_check.world import Replica, World


def _money_back(op: Reclaim, item: Item, now: int) -> bool:
    slot = item.slots.get(op.handle)
    if slot is None or slot.n != op.seen.n:
        return False
    item.avail += slot.amt - slot.set
    item.spent += slot.set
    item.tomb[op.handle] = now
    del item.slots[op.handle]
    return True


_DELTAS: dict[tuple[int, Bump], int] = {}


def _delta_settle(op: Bump, item: Item, now: int) -> bool:
    """Each copy that arrives adds the difference that its sender had in mind."""
    slot = item.slots.get(op.handle)
    if slot is None or (op.guarded and item.avail < op.block):
        return False
    delta = _DELTAS.setdefault((id(item), op), op.total - slot.set)
    item.avail -= op.block
    item.slots[op.handle] = Slot(slot.n + 1, slot.amt + op.block, slot.set + delta)
    return True


def _no_tomb(op: Open, item: Item, now: int) -> bool:
    if item.avail < op.block or op.handle in item.slots or op.handle in item.susp:
        return False
    item.avail -= op.block
    item.slots[op.handle] = Slot(1, op.block, 0)
    return True


def _unfenced_close(op: Close, item: Item, now: int) -> bool:
    item.avail += op.amt - op.total
    item.spent += op.total
    item.slots.pop(op.handle, None)
    item.tomb[op.handle] = now
    return True


def _trusts_old_leases(world: World, replica: Replica) -> None:
    replica.beat_at = world.clock(replica)
    replica.book.draw(away=False)


def _any_tomb(tomb: Mapping[str, int], now: int, most: int) -> tuple[str, ...]:
    return tuple(tomb)[:most]


def _one_look(before: Seen | None, bill: Bill, now: float) -> Seen:
    return Seen(bill, now, final=True)


def _begun(day: str, now: float) -> bool:
    return now >= day_start(day)


def _nothing_missing(day: str, bill: Bill, pages: Mapping[str, list[Page]]) -> Residual:
    return Residual(0)


def _anybody(one: Silent, silents: object) -> bool:
    return True


def _nothing_spent(one: Silent, leases: Any) -> Verdict:
    return Verdict(one.boot, [], evidence._resolves(one, leases, {}))


_BY_BILL = evidence._by_bill


def _no_page(one: Silent, known: Mapping[str, int]) -> Verdict:
    verdict = _BY_BILL(one, known)
    return Verdict(verdict.boot, [], verdict.resolves)


def _nothing_aside(op: SetAside, item: Item, now: int) -> bool:
    """There is room when the request is accepted, and anybody may take it meanwhile."""
    return item.avail >= op.pico


def _charged_again(request: Waiting) -> bool:
    return True


def _nothing_unresolved(items: object, day: str) -> int:
    return 0


def _one_for_all(op: Use, other: Use) -> Use:
    return op


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "money-back-on-expiry": (items.Reclaim, "apply", _money_back),
    "settle-without-number": (items.Bump, "apply", _delta_settle),
    "no-tombstone": (items.Open, "apply", _no_tomb),
    "close-without-number": (items.Close, "apply", _unfenced_close),
    "old-leases-trusted": (World, "come_back", _trusts_old_leases),
    "young-tombs-dropped": (lease, "old_tombs", _any_tomb),
    "one-look-is-final": (openai, "looked", _one_look),
    "a-day-that-runs-is-final": (openai, "is_over", _begun),
    "bill-unread": (openai, "_residual", _nothing_missing),
    "shared-while-open": (evidence, "_alone", _anybody),
    "close-gives-back": (evidence, "_as_spent", _nothing_spent),
    "audit-leaves-no-page": (evidence, "_by_bill", _no_page),
    "nothing-set-aside": (items.SetAside, "apply", _nothing_aside),
    "a-batch-is-taken-for-a-loss": (auditor, "unresolved", _nothing_unresolved),
    "one-step-for-all-and-not-their-sum": (items.Use, "plus", _one_for_all),
    "charged-without-record": (waiting, "may_charge", _charged_again),
}


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """The protocol with one thing wrong, inside the block."""
    where, what, wrong = MUTANTS[name]
    right = getattr(where, what)
    _DELTAS.clear()
    setattr(where, what, wrong)
    try:
        yield
    finally:
        setattr(where, what, right)
