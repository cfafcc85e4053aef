"""What is spent is on record, once, in the window that admitted it."""

from __future__ import annotations

import logging

import pytest

from app.ledger import MONTHLY, Payer, scopes_of, service
from app.ledger.pace import LITTLE_IDLE_SECONDS
from app.ledger.watch import EMERGENCY_SECONDS, QUIET_HEARTBEAT_SECONDS
from tests.app.ledger.conftest import BUDGET, NOW, WORST, Made, entry, spend

pytestmark = pytest.mark.process


async def test_what_is_spent_is_exact_in_every_scope(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    for _ in range(50):
        await spend(ledger, payer, 123_456_789_012, worst=10**12)
    await ledger.stop()
    for scope in scopes_of(payer)[1:]:
        account = await ledger.account(scope)
        assert (account.spent, account.reserved, account.suspense) == (50 * 123_456_789_012, 0, 0)
        assert account.limit is None
        assert account.left is None


async def test_after_the_first_request_a_reservation_asks_nobody(make: Made, payer: Payer) -> None:
    ledger, aws, clock = make()
    await spend(ledger, payer, 10)
    clock.now += 1
    await ledger.tick()
    aws.away = True
    hold = ledger.take(payer, 5, "next")
    assert hold is not None
    ledger.settle(hold, entry(payer, "next", 5))
    assert not ledger.book.holds


async def test_a_month_is_the_ledger_and_what_waits_and_the_next_month_is_new(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    await spend(ledger, payer, 10)
    assert await ledger.month(payer.tenant) == 10
    clock.now += 20 * 86_400
    assert await ledger.month(payer.tenant) == 0
    hold = await ledger.reserve(payer, WORST, "december")
    assert {lease.window for lease in hold.leases} == {"M2026-12"}


async def test_a_call_belongs_to_the_window_in_which_it_was_admitted(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    hold = await ledger.reserve(payer, WORST, "long")
    clock.now += 20 * 86_400
    ledger.settle(hold, entry(payer, "long", 10))
    await ledger.stop()
    item = await ledger.table.read(f"tenant:{payer.tenant}", "M2026-11")
    assert item is not None
    assert (item.spent, item.slots) == (10, {})


async def test_an_entry_counts_once_however_often_it_is_settled(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    hold = await ledger.reserve(payer, WORST, "once")
    for _ in range(3):
        ledger.settle(hold, entry(payer, "once", 10))
    await ledger.stop()
    assert await ledger.month(payer.tenant) == 10
    pages = ledger.table.pages(ledger.book.boot, "2026-11-18")
    assert [each.id async for page in pages for each in page.entries] == ["once"]


async def test_an_idle_lease_gives_back_what_it_holds(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    scope = f"tenant:{payer.tenant}"
    await ledger.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    await spend(ledger, payer, 10)
    for _ in range(5):
        clock.now += LITTLE_IDLE_SECONDS / 2 + QUIET_HEARTBEAT_SECONDS
        await ledger.tick()
    item = await ledger.table.read(scope, "M2026-11")
    assert item is not None
    assert (item.spent, item.avail, item.slots) == (10, BUDGET - 10, {})


async def test_memory_is_bounded_and_what_goes_beyond_is_in_the_log(
    make: Made, payer: Payer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "MAX_UNWRITTEN", 3)
    ledger, _, _ = make()
    with caplog.at_level(logging.ERROR, logger="app.ledger.service"):
        for index in range(5):
            ledger.note(entry(payer, f"n{index}", 0))
    assert ledger.book.unwritten == 3
    assert [record.__dict__["fields"]["id"] for record in caplog.records] == ["n0", "n1"]


async def test_a_process_that_holds_no_money_says_only_once_an_hour_that_it_lives(make: Made, payer: Payer) -> None:
    ledger, aws, clock = make()
    boot = ledger.book.boot
    await ledger.tick()
    for _ in range(20):
        clock.now += QUIET_HEARTBEAT_SECONDS
        await ledger.tick()
    assert aws.written == (await ledger.table.beats([boot]))[boot] == 1, "when it began"
    await spend(ledger, payer, 10)
    await ledger.tick()
    assert (await ledger.table.beats([boot]))[boot] == 2, "at once when it holds some, or it would be taken for dead"
    await ledger.tick()
    assert (await ledger.table.lives([boot]))[boot] == (NOW, NOW + clock.now)
    clock.now += EMERGENCY_SECONDS
    await spend(ledger, payer, 10)
    assert (await ledger.table.beats([boot]))[boot] == 3, "before: an audit finds the days of its calls by that"
