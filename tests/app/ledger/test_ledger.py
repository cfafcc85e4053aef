"""The ledger of a process over a table that speaks DynamoDB, on clocks that the test turns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.aws import Aws
from app.errors import ApiError
from app.ledger import DAILY, MONTHLY, Entry, Ledger, Payer, keeper, scopes_of, service
from app.ledger.watch import DEAD_SECONDS, EMERGENCY_SECONDS, HEARTBEAT_SECONDS
from tests.app.conftest import CloudParts

pytestmark = pytest.mark.process
NOW = 1_795_000_000.0  # 2026-11-18
WORST = 1_000
BUDGET = 1_000_000


class Clock:
    """Both clocks of a replica, turned by a test."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now


class FlakyAws(Aws):
    """The app's own clients, which are away when a test says; a `late` failure is an answer lost on its way back."""

    away = False
    late = False
    written = 0

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        if self.away and not self.late:
            raise TimeoutError
        answer = await super().call(service, operation, **parameters)
        self.written += operation in ("update_item", "put_item")
        if self.away:
            raise TimeoutError
        return answer


Made = Callable[..., tuple[Ledger, FlakyAws, Clock]]


@pytest.fixture
async def make(cloud: CloudParts) -> AsyncIterator[Made]:
    """Ledgers of replicas over one table."""
    made: list[Aws] = []

    def one(**options: Any) -> tuple[Ledger, FlakyAws, Clock]:
        aws, clock = FlakyAws("us-east-1", cloud.url), Clock()
        made.append(aws)
        return Ledger(aws, "ledger", clock=clock, wall_clock=clock.wall, **options), aws, clock

    yield one
    for aws in made:
        aws.close()


@pytest.fixture
def payer() -> Payer:
    tag = secrets.token_hex(4)
    return Payer(f"t-{tag}", f"k-{tag}", f"m-{tag}")


def entry(payer: Payer, name: str, pico: int) -> Entry:
    return Entry(name, NOW, *payer[:2], "f", "fast", payer.model, "default", 10, 0, 0, 5, 0, "v", pico, "ok", "up")


async def spend(ledger: Ledger, payer: Payer, pico: int, worst: int = WORST) -> None:
    name = secrets.token_hex(6)
    hold = ledger.take(payer, worst, name) or await ledger.reserve(payer, worst, name)
    ledger.settle(hold, entry(payer, name, pico))


async def refusal(work: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await work
    return caught.value


async def answered(work: Any) -> bool:
    try:
        await work
    except ApiError:
        return False
    return True


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


async def test_two_replicas_spend_a_budget_to_its_end_and_never_beyond(make: Made, payer: Payer) -> None:
    (first, _, _), (second, _, _) = make(), make()
    scope = f"tenant:{payer.tenant}"
    await first.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    spent, replicas = 0, [first, second]
    while replicas:
        for replica in list(replicas):
            if await answered(spend(replica, payer, 4 * WORST, worst=4 * WORST)):
                spent += 4 * WORST
            else:
                assert (await refusal(spend(replica, payer, 1, worst=4 * WORST))).code == "insufficient_quota"
                replicas.remove(replica)
    assert BUDGET * 98 // 100 <= spent <= BUDGET
    await first.stop()
    await second.stop()
    account = await first.account(scope)
    assert (account.spent, account.reserved, account.left) == (spent, 0, BUDGET - spent)


async def test_a_refusal_names_the_scope_the_reset_and_a_way_out(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.set_limit(f"key:{payer.key}", DAILY, 0, by="ada", why="a test")
    error = await refusal(ledger.reserve(payer, WORST, "r"))
    assert f"daily budget of key {payer.key}" in error.message
    assert "2026-11-19T00:00:00" in error.message
    assert f"`python -m app.ledger limit key:{payer.key} D`" in error.message
    assert error.headers["x-should-retry"] == "false"
    assert error.type == "insufficient_quota"


async def test_a_scope_without_money_is_not_asked_for_by_every_request(make: Made, payer: Payer) -> None:
    ledger, aws, clock = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, 10, by="ada", why="a test")
    await refusal(ledger.reserve(payer, WORST, "r"))
    before = aws.written
    for _ in range(20):
        await refusal(ledger.reserve(payer, WORST, "r"))
    assert aws.written == before
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, 10**9, by="ada", why="raised")
    clock.now += keeper.REFUSED_SECONDS
    await spend(ledger, payer, 10)


async def test_a_limit_below_what_is_spent_stops_grants_and_loses_nothing(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    scope = f"tenant:{payer.tenant}"
    await spend(ledger, payer, 900)
    await ledger.set_limit(scope, MONTHLY, 100, by="ada", why="lower")
    account = await ledger.account(scope)
    assert (account.limit, account.spent) == (100, 900)
    assert account.left is not None
    assert account.left < 0
    await refusal(ledger.reserve(payer, 10**9, "r"))
    await ledger.stop()
    assert (await ledger.account(scope)).spent == 900


async def test_a_default_is_a_limit_until_somebody_sets_another(make: Made, payer: Payer) -> None:
    ledger, _, _ = make(defaults=lambda scope, kind: 500 if scope.startswith("tenant:") and kind == MONTHLY else None)
    await refusal(ledger.reserve(payer, WORST, "r"))
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, None, by="ada", why="no budget")
    await spend(ledger, payer, 10)


@pytest.mark.parametrize(
    ("kind", "pico", "by", "problem"),
    [("Y", 1, "ada", "kind of window"), (MONTHLY, -1, "ada", "limit from 0"), (MONTHLY, 1, "", "by has 0 characters")],
)
async def test_a_limit_out_of_bounds_is_refused(make: Made, kind: str, pico: int, by: str, problem: str) -> None:
    ledger, _, _ = make()
    with pytest.raises(ValueError, match=problem):
        await ledger.set_limit("org", kind, pico, by=by, why="a test")


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


async def test_a_call_that_cost_more_than_its_worst_case_is_booked_and_the_budget_goes_below_zero(
    make: Made, payer: Payer
) -> None:
    ledger, _, _ = make()
    scope = f"tenant:{payer.tenant}"
    await ledger.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    await spend(ledger, payer, 5 * BUDGET)
    await ledger.stop()
    account = await ledger.account(scope)
    assert (account.spent, account.left) == (5 * BUDGET, -4 * BUDGET)


async def test_a_fact_that_nothing_was_reserved_for_is_booked(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.charge(payer, entry(payer, "fact", 77))
    await ledger.stop()
    assert await ledger.month(payer.tenant) == 77


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
    pages = await ledger.table.pages(ledger.book.boot, "2026-11-18")
    assert [each.id for page in pages for each in page.entries] == ["once"]


async def test_a_stream_is_extended_and_refused_at_the_line(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, 10_000, by="ada", why="a test")
    hold = await ledger.reserve(payer, WORST, "stream")
    slices = 0
    while await ledger.extend(hold, WORST):
        slices += 1
    assert 8 <= slices <= 9
    assert hold.worst == (slices + 1) * WORST


async def test_an_idle_lease_gives_back_what_it_holds(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    scope = f"tenant:{payer.tenant}"
    await ledger.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    await spend(ledger, payer, 10)
    for _ in range(5):
        clock.now += keeper.IDLE_SECONDS / 2 + HEARTBEAT_SECONDS
        await ledger.tick()
    item = await ledger.table.read(scope, "M2026-11")
    assert item is not None
    assert (item.spent, item.avail, item.slots) == (10, BUDGET - 10, {})


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
