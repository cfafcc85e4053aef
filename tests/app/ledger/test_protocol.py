from __future__ import annotations

import pytest

from app.ledger.item import Item, SetLimit
from app.ledger.lease import Lease
from tests import ledger_check

TRACES = 10_000
MUTANT_TRACES = 3_000


def test_the_protocol_holds_over_ten_thousand_histories_of_loss_crashes_pauses_and_wrong_clocks() -> None:
    assert ledger_check.check(TRACES) == TRACES


@pytest.mark.parametrize("name", sorted(ledger_check.MUTANTS))
def test_the_check_catches_a_protocol_that_is_wrong(name: str) -> None:
    with ledger_check.mutant(name), pytest.raises(ledger_check.BrokenError, match=r"seed \d+: I\d"):
        ledger_check.check(MUTANT_TRACES)
    ledger_check.check(10)  # and the right one is back


def test_a_refused_step_whose_copy_is_taken_later_is_known_from_the_item() -> None:
    item, lease = Item(100, 100), Lease("org", "M2026-11", "b.1")
    lease.see(item)
    lease.block = 30
    assert step(lease, item)
    lease.block = 80
    refused = lease.next_op()
    assert refused is not None
    assert not step(lease, item)
    SetLimit(1, 100, 200).apply(item, 0)
    assert refused.apply(item, 0), "a copy that came late"
    lease.block = 10
    assert step(lease, item)
    assert (lease.n, lease.amt) == (2, 110)
    lease.closing = True
    assert step(lease, item)
    assert (item.avail, item.spent, item.slots) == (200, 0, {})


def step(lease: Lease, item: Item) -> bool:
    """Send the lease's next step; whether it was taken, now or before."""
    op = lease.next_op()
    assert op is not None
    if op.apply(item, 0):
        lease.done(op, item)
        return True
    return lease.refused(op, item)
