"""The table is away, answers get lost, a replica falls silent."""

from __future__ import annotations

import contextlib
import logging

import pytest

from app.errors import ApiError
from app.ledger import MONTHLY, Payer, keeper, service
from app.ledger.watch import DEAD_SECONDS, EMERGENCY_SECONDS
from tests.app.ledger.conftest import BUDGET, WORST, Made, answered, refusal, spend

pytestmark = pytest.mark.process


async def test_while_the_ledger_is_away_the_lease_then_the_emergency_part_then_nothing(
    make: Made, payer: Payer
) -> None:
    ledger, aws, _ = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, BUDGET, by="ada", why="a test")
    await spend(ledger, payer, 0)
    aws.away = True
    served = 0
    while await answered(spend(ledger, payer, WORST)):
        served += 1
    assert (await refusal(spend(ledger, payer, WORST))).code == "ledger_unavailable"
    assert served * WORST <= BUDGET // 400 + 3 * WORST, "a bounded allowance, taken before"
    assert served >= 2
    aws.away = False
    await ledger.stop()
    assert (await ledger.account(f"tenant:{payer.tenant}")).spent == served * WORST


async def test_a_process_that_could_not_say_that_it_lives_for_an_hour_spends_nothing_on_old_leases(
    make: Made, payer: Payer
) -> None:
    ledger, aws, clock = make()
    await spend(ledger, payer, 10, worst=10**9)
    aws.away = True
    clock.now += EMERGENCY_SECONDS - 1
    assert ledger.take(payer, 1, "in time") is not None
    clock.now += 1
    assert ledger.take(payer, 1, "too late") is None
    assert (await refusal(ledger.reserve(payer, 1, "too late"))).code == "ledger_unavailable"
    with pytest.raises(keeper.LedgerAwayError):
        await ledger.tick()
    aws.away = False
    assert all(lease.closing for lease in ledger.book.draining)
    await spend(ledger, payer, 10)


async def test_an_answer_that_is_lost_changes_nothing(make: Made, payer: Payer) -> None:
    ledger, aws, _ = make()
    scope = f"tenant:{payer.tenant}"
    await ledger.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    await spend(ledger, payer, 10)
    aws.away, aws.late = True, True
    served = 0
    for _ in range(3):
        await ledger.flush()
        with contextlib.suppress(ApiError):
            await spend(ledger, payer, 10, worst=BUDGET // 2)
            served += 1
    aws.away = False
    await spend(ledger, payer, 10, worst=BUDGET // 2)
    await ledger.stop()
    item = await ledger.table.read(scope, "M2026-11")
    assert item is not None
    spent = 20 + 10 * served
    assert (item.spent, item.avail, item.slots, item.susp) == (spent, BUDGET - spent, {}, {})
    assert served < 3


async def test_a_replica_that_fell_silent_keeps_its_money_in_suspense_and_settles_it_itself_when_it_comes_back(
    make: Made, payer: Payer
) -> None:
    (silent, _, _), (watcher, _, clock) = make(), make()
    scope = f"tenant:{payer.tenant}"
    await silent.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    await spend(silent, payer, 400)
    await silent.flush()
    await spend(watcher, payer, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "WATCH_SECONDS", 0.0)
        await watcher.tick()
        for _ in range(2):
            clock.now += DEAD_SECONDS
            await watcher.tick()
    account = await watcher.account(scope)
    assert account.suspense > 0
    assert account.left is not None
    item = await watcher.table.read(scope, "M2026-11")
    assert item is not None
    assert {handle.partition(".")[0] for handle in item.susp} == {silent.book.boot}
    # It only slept: what it reserved and spends now is still covered, and it files its own evidence.
    await spend(silent, payer, 300)
    await silent.stop()
    await watcher.stop()
    account = await watcher.account(scope)
    assert (account.spent, account.reserved, account.suspense, account.left) == (800, 0, 0, BUDGET - 800)


async def test_a_ledger_that_is_away_is_an_error_to_the_asker_and_a_dead_meter(make: Made, payer: Payer) -> None:
    ledger, aws, clock = make()
    await spend(ledger, payer, 10)
    assert ledger.alive()
    aws.away = True
    assert (await refusal(ledger.month(payer.tenant))).code == "ledger_unavailable"
    clock.now += service.ALIVE_SECONDS
    assert not ledger.alive()
    aws.away = False
    await ledger.flush()
    assert ledger.alive()


async def test_what_cannot_be_written_at_the_end_is_in_the_log(
    make: Made, payer: Payer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "STOP_SECONDS", 0.0)
    ledger, aws, _ = make()
    await spend(ledger, payer, 10)
    aws.away = True
    with caplog.at_level(logging.ERROR, logger="app.ledger.service"):
        await ledger.stop()
    (found,) = [record.__dict__["fields"] for record in caplog.records if record.levelno == logging.ERROR]
    assert (found["tenant"], found["pico"]) == (payer.tenant, "10")
