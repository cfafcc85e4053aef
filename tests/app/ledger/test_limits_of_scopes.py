"""What a budget refuses, and to whom."""

from __future__ import annotations

import pytest

from app.ledger import DAILY, MONTHLY, ORG, Default, Ledger, Payer, keeper
from tests.app.ledger.conftest import BUDGET, WORST, Clock, Made, answered, refusal, spend

pytestmark = pytest.mark.process


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
    assert f"`python -m app.budgets set key:{payer.key} day USD --why '...'`" in error.message
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
    other, _, _ = make()
    await other.set_limit(f"tenant:{payer.tenant}", MONTHLY, 10**9, by="ada", why="raised elsewhere")
    clock.now += keeper.REFUSED_SECONDS
    await spend(ledger, payer, 10)


async def test_a_limit_that_is_set_elsewhere_holds_in_items_that_are_there_and_in_those_to_come(
    make: Made, payer: Payer
) -> None:
    (ledger, _, clock), (other, _, _) = make(), make()
    await spend(ledger, payer, 10)
    newer = payer._replace(tenant=f"{payer.tenant}-newer")
    for tenant in (payer.tenant, newer.tenant):  # by somebody who does not know the owner's zone, or in that moment
        await other.table.set_standing(f"tenant:{tenant}", MONTHLY, 10**9, "ada", "a test")
    await spend(ledger, newer, 10)
    clock.now += keeper.LIMITS_SECONDS
    await ledger.tick()
    for tenant in (payer.tenant, newer.tenant):
        assert (await ledger.account(f"tenant:{tenant}")).limit == 10**9


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


async def test_a_limit_goes_back_to_the_default_also_where_nobody_leases_and_by_whom_does_not_know_it(
    make: Made, payer: Payer
) -> None:
    def defaults(scope: str, kind: str) -> int | None:
        return BUDGET if scope.startswith("tenant:") and kind == MONTHLY else None

    ledger, _, clock = make(defaults=defaults)
    scope = f"tenant:{payer.tenant}"
    for pico, limit in ((10, 10), (Default.LIMIT, BUDGET), (None, None), (0, 0)):
        await ledger.set_limit(scope, MONTHLY, pico, by="ada", why="a test")
        assert (await ledger.account(scope)).limit == limit
    assert (await refusal(ledger.reserve(payer, WORST, "none"))).code == "insufficient_quota"
    stranger, _, _ = make()
    await stranger.table.set_standing(scope, MONTHLY, Default.LIMIT, "ada", "as the command does")
    clock.now += keeper.LIMITS_SECONDS
    await ledger.tick()
    assert (await ledger.account(scope)).limit == BUDGET
    item = await ledger.table.read(scope, "M2026-11")
    assert item is not None
    assert item.limit == BUDGET, "not only in what is told"
    await spend(ledger, payer, 10)
    assert scope in await ledger.table.ever_limited(), "who set what stays on record"


@pytest.mark.parametrize(
    ("kind", "pico", "by", "problem"),
    [("Y", 1, "ada", "kind of window"), (MONTHLY, -1, "ada", "limit from 0"), (MONTHLY, 1, "", "by has 0 characters")],
)
async def test_a_limit_out_of_bounds_is_refused(make: Made, kind: str, pico: int, by: str, problem: str) -> None:
    ledger, _, _ = make()
    with pytest.raises(ValueError, match=problem):
        await ledger.set_limit("org", kind, pico, by=by, why="a test")


async def test_a_stream_is_extended_and_refused_at_the_line(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, 10_000, by="ada", why="a test")
    hold = await ledger.reserve(payer, WORST, "stream")
    slices = 0
    while await ledger.extend(hold, WORST):
        slices += 1
    assert 8 <= slices <= 9
    assert hold.worst == (slices + 1) * WORST


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


async def test_in_a_deploy_the_newer_setting_holds_and_the_limit_does_not_move_to_and_fro(
    make: Made, payer: Payer, table: str
) -> None:
    def replica(usd: int, began: float) -> tuple[Ledger, Clock]:
        ledger, _, clock = make(table=table, starts=began, defaults=lambda scope, kind: usd if scope == ORG else None)
        return ledger, clock

    async def limits() -> set[int | None]:
        for ledger, clock in replicas:
            clock.now += keeper.QUIET_LIMITS_SECONDS + keeper.LIMITS_SECONDS
            await ledger.tick()
        return {(await ledger.account(ORG)).limit for ledger, _ in replicas}

    replicas = [replica(100 * WORST, 0.0)]
    await spend(replicas[0][0], payer, 5)
    assert await limits() == {100 * WORST}
    replicas.append(replica(200 * WORST, 1_000.0))
    await spend(replicas[1][0], payer, 5)
    for old, _ in [*replicas, *replicas]:
        await spend(old, payer, 5)
        assert await limits() == {200 * WORST}
    found = await replicas[0][0].table.read(ORG, "M2026-11")
    assert found is not None
    assert found.ver == 2, "set once, and nobody set it back"
    replicas.append(replica(100 * WORST, 500.0))  # one of before that was slow to begin
    await spend(replicas[2][0], payer, 5)
    assert await limits() == {200 * WORST}
    replicas.append(replica(100 * WORST, 2_000.0))  # the deploy is rolled back
    await spend(replicas[3][0], payer, 5)
    assert await limits() == {100 * WORST}
    await replicas[0][0].set_limit(ORG, MONTHLY, 300 * WORST, by="ada", why="by hand")
    assert await limits() == {300 * WORST}
    stranger, _, _ = make(table=table)
    assert stranger.limit_of(ORG, MONTHLY) is None
    await stranger.set_limit(ORG, MONTHLY, Default.LIMIT, by="ada", why="over")
    assert stranger.limit_of(ORG, MONTHLY) == 100 * WORST, "the settings of those who serve"
    assert await stranger.table.ever_limited() == {ORG}


async def test_a_stream_that_is_refused_leaves_what_is_kept_for_an_outage(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, BUDGET, by="ada", why="a test")
    hold = await ledger.reserve(payer, WORST, "r.1")
    while await ledger.extend(hold, WORST):
        pass
    kept = [lease for lease in hold.leases if lease.emergency]
    assert kept
    assert all(lease.line == lease.amt - lease.emergency >= lease.committed for lease in kept)
