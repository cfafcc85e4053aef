"""Budgets are looked at seldom, and never too late for a line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.budgets.ladder import Place, Standing, step
from app.budgets.policy import Policy, Rung
from app.budgets.rota import (
    BURST_PICO_A_SECOND,
    FAR_SECONDS,
    FREE_SECONDS,
    LIMITED_SECONDS,
    ORG_SECONDS,
    SOON_SECONDS,
    SURGE,
    UNUSED_SECONDS,
    Rota,
    Turn,
    seconds_until,
    without_limit,
)
from app.budgets.window import Span, window_at
from app.prices import PICO_PER_USD

ROUNDING = 1e-12
"""Of floats, which have no single pico-dollars of tens of thousands of dollars."""
POLICY = Policy()
MONTH = window_at(Span.MONTH, 1_794_000_000, UTC)
DAY_SECONDS = 86_400


def standing(limit_usd: float, counted_usd: float, days: float, usd_an_hour: float = 0.0) -> Standing:
    limit, counted = int(limit_usd * PICO_PER_USD), int(counted_usd * PICO_PER_USD)
    return Standing(limit, counted, usd_an_hour * PICO_PER_USD / 3_600, MONTH, MONTH.start + days * DAY_SECONDS)


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (standing(10_000, 100, 10, 0.4), FAR_SECONDS),
        (standing(100, 1, 1, 0.04), LIMITED_SECONDS),  # a dime more an hour leads past it
        (standing(0.1, 0, 1), SOON_SECONDS),
        (standing(100, 49.99, 15), SOON_SECONDS),
        (standing(100, 49.8, 15), 12.0),
        (standing(0, 0, 15), LIMITED_SECONDS),
        (standing(100, 200, 15), LIMITED_SECONDS),
    ],
    ids=["far off", "early in a month", "a dime", "near a share", "nearer than half a minute", "nothing", "spent"],
)
def test_the_nearer_a_line_the_sooner_the_next_look(found: Standing, seconds: float) -> None:
    place = step(POLICY, found, Place())
    assert seconds_until(POLICY, found, place, 0.0) == pytest.approx(seconds, abs=0.01)


@given(
    st.floats(0.01, 100_000), st.floats(0, 1.2), st.floats(0, 29.9), st.floats(0, 20), st.floats(0, 10 * PICO_PER_USD)
)
@example(68918.06993507782, 0.7924259628303376, 0.0, 0.0, 2110175426101.0)
def test_no_share_of_a_budget_is_passed_between_two_looks_at_the_pace_it_is_looked_at_for(
    limit_usd: float, share: float, days: float, usd_an_hour: float, rate: float
) -> None:
    found = standing(limit_usd, share * limit_usd, days, usd_an_hour)
    seconds = seconds_until(POLICY, found, step(POLICY, found, Place()), rate)
    assert SOON_SECONDS <= seconds <= FAR_SECONDS
    lines = [found.limit * percent // 100 for percent in (*POLICY.spent_percents, 100)]
    ahead = [line for line in lines if line > found.counted]
    spent = found.counted + max(BURST_PICO_A_SECOND, SURGE * rate) * seconds
    assert seconds == SOON_SECONDS or not ahead or spent <= min(ahead) * (1 + ROUNDING) + 1


@given(st.floats(1, 1_000_000), st.floats(0, 1), st.floats(0, 29.9), st.floats(0, 20))
def test_a_budget_that_is_left_alone_for_longer_is_on_no_rung_after_it(
    limit_usd: float, share: float, days: float, usd_an_hour: float
) -> None:
    found = standing(limit_usd, share * limit_usd, days, usd_an_hour)
    seconds = seconds_until(POLICY, found, step(POLICY, found, Place()), 0.0)
    if seconds > LIMITED_SECONDS:
        more = BURST_PICO_A_SECOND * seconds
        later = found.now + seconds
        worst = Standing(found.limit, int(found.counted + more), found.demand + more / 3_600, MONTH, later)
        assert step(POLICY, worst, Place()).rung is Rung.NORMAL


@dataclass
class Money:
    """Of the organisation."""

    reserved: int
    spent: int = 5
    suspense: int = 0
    limit: int | None = None


def limits(scope: str) -> tuple[int | None, int | None]:
    return (100, None) if scope == "tenant:a" else (None, None)


def test_who_waits_longest_is_first_and_who_was_never_looked_at_before_all() -> None:
    rota = Rota()
    rota.see(Money(1))
    for scope, at in (("tenant:a", 0.0), ("tenant:b", 1.0), ("model:m", 0.0), ("org", 0.0)):
        rota.note(scope, Turn(at, limits(scope), False, 30.0 if scope == "tenant:a" else without_limit(scope)))
    every = ["org", "tenant:a", "tenant:b", "model:m"]
    assert rota.due(every, limits, 29.0) == []
    assert rota.due(every, limits, 30.0) == ["tenant:a"]
    assert rota.due(every, limits, FREE_SECONDS + 1) == ["tenant:a", "tenant:b"]
    assert rota.due([*every, "key:new"], limits, UNUSED_SECONDS) == ["key:new", "tenant:a", "tenant:b", "model:m"]
    assert rota.due(every, lambda scope: (7, None), 2.0) == ["tenant:b", "tenant:a", "model:m"], "other limits"


def test_while_nobody_can_spend_only_what_is_degraded_is_looked_at_as_before() -> None:
    rota = Rota()
    for _ in range(2):
        rota.see(Money(0))
    for scope, degraded in (("tenant:a", False), ("tenant:c", True), ("org", False)):
        rota.note(scope, Turn(0.0, (None, None), degraded, SOON_SECONDS))
    assert rota.pause == ORG_SECONDS
    nothing = lambda scope: (None, None)  # noqa: E731
    assert rota.due(["tenant:a", "tenant:c"], nothing, 10.0) == ["tenant:c"]
    rota.see(Money(0, spent=6))  # a lease that was spent to its last dollar
    assert rota.due(["tenant:a", "tenant:c"], nothing, 10.0) == ["tenant:c", "tenant:a"]
    assert rota.pause == SOON_SECONDS
