"""Requests that come at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.ledger import MONTHLY, Payer, scopes_of, service
from tests.app.ledger.conftest import WORST, Made, answered, entry, refusal, spend

pytestmark = pytest.mark.process


async def test_requests_that_begin_together_make_a_new_payers_items_once(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    made: list[str] = []
    create = ledger.table.create

    async def counting(scope: str, window: str, limit: int) -> Any:
        made.append(scope)
        return await create(scope, window, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.table, "create", counting)
        await asyncio.gather(*(spend(ledger, payer, 5) for _ in range(30)))
    assert sorted(made) == sorted({*made}), "each once, however many need it"
    assert {*scopes_of(payer)[1:]} <= {*made}
    await ledger.stop()
    assert (await ledger.account(scopes_of(payer)[1])).spent == 150


async def test_requests_that_come_together_share_the_steps_of_a_lease(make: Made, payer: Payer) -> None:
    ledger, aws, _ = make()
    await spend(ledger, payer, 10)
    before = aws.written
    holds = await asyncio.gather(*(ledger.reserve(payer, 10**10, f"r{index}") for index in range(50)))
    assert aws.written - before <= 4 * 4
    for hold in holds:
        ledger.settle(hold, entry(payer, hold.id, 1))
    await ledger.stop()
    assert await ledger.month(payer.tenant) == 60


async def test_many_first_requests_ask_a_slow_table_as_often_as_one_does(make: Made, payer: Payer) -> None:
    (alone, one, _), (crowded, many, _) = make(), make()
    await spend(alone, payer, 5)
    await alone.stop()
    many.slow = asyncio.Event()
    crowd = [asyncio.create_task(spend(crowded, payer, 5)) for _ in range(200)]
    await asyncio.sleep(0)
    many.slow.set()
    await asyncio.gather(*crowd)
    assert many.asked <= one.asked


async def test_of_requests_that_come_together_those_that_fit_are_answered(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, 20 * WORST, by="ada", why="a test")
    served = await asyncio.gather(*(answered(spend(ledger, payer, WORST)) for _ in range(50)))
    assert served.count(True) == 20
    await ledger.stop()
    assert await ledger.month(payer.tenant) == 20 * WORST


async def test_a_request_waits_for_money_no_longer_than_it_may_and_a_later_one_finds_it(
    make: Made, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RESERVE_SECONDS", 0.05)
    ledger, aws, _ = make()
    aws.slow = asyncio.Event()
    errors = await asyncio.gather(*(refusal(ledger.reserve(payer, WORST, f"r{index}")) for index in range(5)))
    assert {error.code for error in errors} == {"ledger_unavailable"}
    assert {error.headers["retry-after"] for error in errors} == {str(service.RETRY_SECONDS)}
    assert not ledger.book.holds
    aws.slow.set()
    monkeypatch.undo()
    await spend(ledger, payer, 10)
    await ledger.stop()
    assert await ledger.month(payer.tenant) == 10
