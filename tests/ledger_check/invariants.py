"""What must hold.

Always: I1, what is available, spent, leased, in suspense and set aside is the limit; I2, what was billed is no more
than the limit, calls that cost more than their worst case aside; I3, of a lease no more is published than stands in
pages, than was settled, than is reserved, than was leased. At rest: I4, what is spent is what was billed, and the rest
is available; I5, nothing is reserved, leased, in suspense or set aside; I6, an entry is in one page; I7, the tenants
together are the organisation.
"""

from __future__ import annotations

from app.ledger.lease import State
from tests.ledger_check.world import TENANTS, World


class BrokenError(AssertionError):
    """An invariant does not hold."""


def check(world: World) -> None:
    """I1 to I3, at any moment; raises BrokenError."""
    for scope, item in world.table.items():
        held = item.avail + item.spent + item.aside
        for slot in (*item.slots.values(), *item.susp.values()):
            held += slot.amt
        if held != item.limit:
            raise BrokenError(f"I1 {scope}: {held} is not the limit {item.limit}")
        if world.billed[scope] > world.most[scope] + world.over[scope]:
            raise BrokenError(f"I2 {scope}: billed {world.billed[scope]} of {world.most[scope]}")
    for replica in world.replicas:
        if replica.crashed:
            continue
        for lease in replica.book.current.values():
            if not lease.published <= lease.filed <= lease.total <= lease.committed:
                raise BrokenError(f"I3 {lease.handle}: {lease.published} {lease.filed} {lease.total} {lease.committed}")
            if lease.state is State.OPEN and lease.committed > lease.amt and not world.overruns:
                raise BrokenError(f"I3 {lease.handle}: {lease.committed} committed of {lease.amt}")


def check_rest(world: World) -> None:
    """I4 to I7, once everything came to rest and was judged; raises BrokenError."""
    for scope, item in world.table.items():
        if left := item.slots or item.susp or item.tomb or item.aside:
            raise BrokenError(f"I5 {scope}: {left} is still there")
        # What was given to several tenants by estimate is exact in sum; what was assumed is never too little.
        by_estimate = scope != "org" and (world.audits.shared or world.audits.assumed)
        least = item.spent + world.over[scope] if world.audits.assumed else item.spent
        exact = least >= world.billed[scope] if world.audits.assumed else item.spent == world.billed[scope]
        if (not exact and not by_estimate) or item.avail != item.limit - item.spent:
            raise BrokenError(f"I4 {scope}: spent {item.spent}, billed {world.billed[scope]}, avail {item.avail}")
    written = [page for pages in world.pages.values() for page in pages.values()]
    seen = [entry.id for page in written for entry in page.entries]
    if len(seen) != len(set(seen)):
        raise BrokenError("I6: an entry is in two pages")
    reserved = [hold.id for replica in world.replicas for hold in replica.book.holds.values() if not replica.running]
    if reserved:
        raise BrokenError(f"I5: {reserved} are still reserved")
    if sum(world.table[tenant].spent for tenant in TENANTS) != world.table["org"].spent:
        raise BrokenError("I7: the tenants' spend is not the organisation's")
