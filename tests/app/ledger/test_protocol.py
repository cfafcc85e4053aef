from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.book import Book
from app.ledger.entries import Entry, Kept, Outcome, Page
from app.ledger.item import Item, SetLimit
from app.ledger.lease import Lease
from tests import ledger_check
from tests.ledger_check import waiting

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


KINDS = [
    Kept("t", key, "f", "fast", model, "v", outcome)
    for key, model, outcome in itertools.product(("k1", "k2"), ("m1", "m2"), (Outcome.CACHED, Outcome.JOINED))
]


@given(st.lists(st.one_of(st.sampled_from(KINDS), st.sampled_from(["write", "filed", "attempt"]))))
def test_an_answer_without_an_attempt_is_counted_in_exactly_one_page(happens: list[Kept | str]) -> None:
    book, asked = Book("b"), Counter[Kept]()
    pages: dict[str, Page] = {}

    def write() -> Page | None:
        page = book.page(0.0)
        if page is not None:
            pages[page.sequence] = page  # as often as it takes: it is the same one until it is filed
        return page

    for number, what in enumerate(happens):
        if isinstance(what, Kept):
            asked[what] += 1
            if not book.count(what):
                book.begin_count(what, f"r{number}.0", float(number))
        elif what == "attempt":
            book.note(waiting.entry(f"r{number}.1", 0.0, "t", 0))
        elif write() is not None and what == "filed":
            book.filed()
    while write() is not None:
        book.filed()
    entries = [entry for page in pages.values() for entry in page.entries]
    assert counted(entries) == asked
    assert book.unwritten == 0
    assert len({entry.id for entry in entries}) == len(entries)
    assert sum(entry.outcome == Outcome.OK for entry in entries) == happens.count("attempt")


def counted(entries: list[Entry]) -> Counter[Kept]:
    found = Counter[Kept]()
    for entry in entries:
        if entry.outcome != Outcome.OK:
            found[Kept(*entry[2:7], entry.version, Outcome(entry.outcome))] += entry.times
    return found


def step(lease: Lease, item: Item) -> bool:
    """Send the lease's next step; whether it was taken, now or before."""
    op = lease.next_op()
    assert op is not None
    if op.apply(item, 0):
        lease.done(op, item)
        return True
    return lease.refused(op, item)
