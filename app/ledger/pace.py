"""How often a process writes: the less there is to say, the more of it is said at once. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.ledger.entries import MAX_ENTRIES
from app.ledger.watch import HEARTBEAT_SECONDS, QUIET_HEARTBEAT_SECONDS
from app.prices import PICO_PER_USD

if TYPE_CHECKING:
    from app.ledger.lease import Lease

PAGE_SECONDS, FEW_PAGE_SECONDS = 5.0, 20.0
"""Between two pages; the longer while only a FEW entries wait. The first one after a pause is written at once."""
FEW = 8
PUBLISH_SECONDS, LITTLE_PUBLISH_SECONDS = 30.0, 600.0
"""How old the item's view of what a lease spent may be, the longer for less than LITTLE_PICO; blocks that are asked for
carry it sooner."""
LITTLE_PICO = PICO_PER_USD // 100
IDLE_SECONDS, LITTLE_IDLE_SECONDS = 300.0, 1_200.0
"""A lease that nothing used for so long goes back, the later one when it is LITTLE_SHARE of its limit and half of that
is left to others: giving it back costs seldom callers two writes a scope each time."""
LITTLE_SHARE = 200
NOTICED_SHARE = 100
"""A hundredth of a limit that the item does not say yet is said at once: whoever watches a small budget sees it go."""


def page_due(waiting: int, seconds: float) -> bool:
    """Whether to write the entries that wait, so long after the last page."""
    if waiting > MAX_ENTRIES // 2:
        return True
    return waiting > 0 and seconds >= (FEW_PAGE_SECONDS if waiting < FEW else PAGE_SECONDS)


def idle_seconds(lease: Lease) -> float:
    """How long a lease is kept that nothing uses."""
    little = (lease.amt - lease.total) * LITTLE_SHARE <= lease.limit and 2 * lease.avail >= lease.limit
    return LITTLE_IDLE_SECONDS if little else IDLE_SECONDS


def beat_seconds(entries: int) -> float:
    """Until the next heartbeat of a process that made so many entries since the last one."""
    return QUIET_HEARTBEAT_SECONDS if entries < FEW else HEARTBEAT_SECONDS


def publish_due(lease: Lease, now: float) -> bool:
    """Whether to tell the item what was spent."""
    unsaid = lease.filed - lease.published
    if unsaid <= 0 or lease.block:
        return False
    if unsaid * NOTICED_SHARE >= lease.limit:
        return True
    return now - lease.published_at >= (LITTLE_PUBLISH_SECONDS if unsaid < LITTLE_PICO else PUBLISH_SECONDS)
