"""When a bill is final, and to whom what it says beyond the entries is given."""

from __future__ import annotations

import pytest

from app.ledger.audit import Tokens
from app.ledger.evidence import (
    AGREE_SECONDS,
    CLOSE_SECONDS,
    Bill,
    Lease,
    Residual,
    Seen,
    Silent,
    Verdict,
    days_of,
    dump_seen,
    is_over,
    judge,
    looked,
    parse_seen,
)
from app.ledger.item import Slot

DAY, MONTH, END = "2026-11-18", "M2026-11", 1_796_083_200.0
BILL = Bill({"m": Tokens(10, 5)}, {"m": 10**30})


def silent(boot: str, *scopes: str, amt: int = 100) -> Silent:
    leases = [Lease(scope, MONTH, f"{boot}.{number}", Slot(1, amt, 0)) for number, scope in enumerate(scopes)]
    return Silent(boot, [DAY], leases, {})


def verdicts(silents: list[Silent], pico: int, now: float) -> list[Verdict]:
    return judge(silents, {DAY: Residual(pico)}, {MONTH: END}, now)


def spent(found: list[Verdict]) -> dict[str, int]:
    return {resolve.handle: resolve.billed for verdict in found for _, resolve in verdict.resolves}


def test_a_bill_is_final_when_it_said_the_same_six_hours_ago_and_stays_so_over_a_restart() -> None:
    seen = looked(None, BILL, 100.0)
    assert not looked(seen, BILL, 99.0 + AGREE_SECONDS).final
    assert looked(seen, BILL, 100.0 + AGREE_SECONDS).final
    grown = BILL._replace(pico={"m": 11})
    assert looked(seen, grown, 100.0 + AGREE_SECONDS) == Seen(grown, 100.0 + AGREE_SECONDS)
    assert parse_seen(dump_seen(seen)) == seen
    assert is_over(DAY, 1_795_132_800.0)
    assert not is_over(DAY, 1_795_132_799.0)


def test_a_replica_s_days_are_those_in_which_it_may_have_had_calls() -> None:
    noon = 1_795_003_200.0
    assert days_of(noon, noon) == [DAY]
    assert days_of(noon - 10 * 3_600, noon) == ["2026-11-17", DAY]
    assert days_of(noon, noon + 10 * 3_600) == [DAY, "2026-11-19"]


def test_a_lost_call_that_only_one_can_have_made_is_given_to_that_one() -> None:
    (verdict,) = verdicts([silent("a", "org", "tenant:t", "key:k", "model:m")], 30, END - 1)
    assert spent([verdict]) == {"a.0": 30, "a.1": 30, "a.2": 30, "a.3": 30}
    assert [(entry.tenant, entry.pico) for page in verdict.pages for entry in page.entries] == [("t", 30)]


@pytest.mark.parametrize(
    "silents",
    [[silent("a", "org", "tenant:t", "tenant:u")], [silent("a", "org", "tenant:t"), silent("b", "org", "tenant:u")]],
    ids=["two tenants", "two replicas"],
)
def test_a_lost_call_that_several_can_have_made_is_given_to_nobody_while_the_window_is_open(
    silents: list[Silent],
) -> None:
    assert verdicts(silents, 30, END - 1) == []
    found = verdicts(silents, 130, END)
    assert sum(entry.pico for verdict in found for page in verdict.pages for entry in page.entries) == 130
    assert sum(resolve.billed for each in found for lease, resolve in each.resolves if lease.kind == "org") == 130


def test_who_has_no_lease_of_the_organisation_owes_nothing() -> None:
    found = verdicts([silent("a", "org", "tenant:t", amt=20), silent("b", "tenant:t")], 30, END - 1)
    assert spent(found) == {"a.0": 30, "a.1": 30, "b.0": 0}, "beyond its room: it cost more than its worst case"


def test_while_somebody_may_owe_pages_only_who_owes_nothing_is_settled() -> None:
    one = [silent("a", "org", "tenant:t")]
    for now in (END - 1, END):
        assert judge(one, {DAY: Residual(30)}, {MONTH: END}, now, complete=False) == []
        assert judge(one, {DAY: Residual(0)}, {MONTH: END}, now, complete=False) != []


def test_dollars_that_say_nothing_of_missing_tokens_are_no_evidence() -> None:
    one = [silent("a", "org", "tenant:t")]
    unclear = {DAY: Residual(0, clear=False)}
    assert judge(one, unclear, {MONTH: END}, END) == []
    (verdict,) = judge(one, unclear, {MONTH: END}, END + CLOSE_SECONDS)
    assert verdict.assumed
    assert spent([verdict]) == {"a.0": 100, "a.1": 100}
