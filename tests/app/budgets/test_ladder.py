from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.budgets.ladder import MINUTE, Place, Standing, step
from app.budgets.policy import STEPS, Policy, Rung, descending, read_policy
from app.budgets.window import Span, window_at
from tests.app.budgets.month import MODELS, planned_cost, play, requests

USD = 10**12
NOVEMBER = window_at(Span.MONTH, 1_794_000_000, UTC)
POLICY = Policy()


def standing(elapsed: float, spent: float, usd_a_month: float, limit: float = 100) -> Standing:
    """A budget of `limit` USD in a month, of which a share has passed."""
    now = NOVEMBER.start + elapsed * NOVEMBER.seconds
    return Standing(int(limit * USD), int(spent * USD), usd_a_month * USD / NOVEMBER.seconds, NOVEMBER, now)


def at(rung: Rung, standing: Standing, minutes_ago: float = 0) -> Place:
    return Place(rung, standing.now - minutes_ago * MINUTE, standing.window.name)


def test_an_even_month_within_its_budget_is_left_alone() -> None:
    for day in range(30):
        assert step(POLICY, standing(day / 30, 90 * day / 30, 90), Place()).rung is Rung.NORMAL


def test_pace_moves_the_ladder_long_before_the_money_is_gone() -> None:
    early = standing(elapsed=0.1, spent=15, usd_a_month=150)
    assert step(POLICY, early, Place()).rung is Rung.CHEAPER
    # The same spent share at the month's end is no reason for anything.
    assert step(POLICY, standing(elapsed=0.9, spent=85, usd_a_month=90), Place()).rung is Rung.NORMAL


def test_people_are_told_before_anything_is_degraded() -> None:
    told = step(POLICY, standing(elapsed=0.5, spent=48, usd_a_month=96), Place())
    assert told.rung is Rung.NOTIFY


@pytest.mark.parametrize(
    ("usd_a_month", "rung"),
    [
        (90, Rung.NORMAL),
        (96, Rung.NOTIFY),
        (120, Rung.SHORTER),
        (250, Rung.CHEAPER),
        (320, Rung.CACHED),
        (400, Rung.DEFERRED),
        (700, Rung.PRIORITY),
        (10_000, Rung.PRIORITY),
    ],
)
def test_each_rung_is_taken_when_the_one_before_costs_too_much(usd_a_month: float, rung: Rung) -> None:
    assert step(POLICY, standing(0, 0, usd_a_month), Place()).rung is rung


def test_the_cap_is_the_cap() -> None:
    assert step(POLICY, standing(0.5, 100, 1), Place()).rung is Rung.REFUSED
    assert step(POLICY, standing(0.5, 99.9, 0), Place()).rung is not Rung.REFUSED


def test_a_budget_of_zero_refuses_and_asks_for_nothing_else() -> None:
    assert step(POLICY, standing(0.5, 0, 0, limit=0), Place()).rung is Rung.REFUSED


def test_a_limit_set_below_what_is_spent_refuses_until_it_is_raised_or_the_window_ends() -> None:
    over = standing(0.5, spent=80, usd_a_month=50, limit=60)
    refused = step(POLICY, over, Place())
    assert refused.rung is Rung.REFUSED
    raised = replace(over, limit=200 * USD)
    assert step(POLICY, raised, refused).rung is Rung.NORMAL


def test_the_ladder_goes_up_at_once_and_down_after_a_while_with_room_to_spare() -> None:
    calm = standing(0.5, 35, 70)
    for rung in STEPS:
        assert step(POLICY, calm, at(rung, calm, minutes_ago=29)).rung is rung
        assert step(POLICY, calm, at(rung, calm, minutes_ago=30)).rung is Rung.NORMAL
    close = standing(0.5, 49, 99)  # SHORTER would do
    assert step(POLICY, close, Place()).rung is Rung.SHORTER
    barely = standing(0.5, 49, 96)  # normal would do as well, without room
    assert step(POLICY, barely, at(Rung.SHORTER, barely, minutes_ago=600)).rung is Rung.SHORTER


def test_a_new_window_begins_at_the_bottom() -> None:
    december = window_at(Span.MONTH, NOVEMBER.end, UTC)
    fresh = Standing(100 * USD, 0, 0.0, december, december.start)
    before = Place(Rung.REFUSED, NOVEMBER.end - 60, NOVEMBER.name)
    assert step(POLICY, fresh, before) == Place(Rung.NORMAL, december.start, december.name)


@given(
    st.floats(0, 1),
    st.floats(0, 200),
    st.floats(0, 10_000),
    st.floats(0, 200),
    st.sampled_from(list(Rung)),
    st.floats(0, 90),
)
def test_more_spending_never_means_a_lower_rung(
    elapsed: float, spent: float, pace: float, more: float, rung: Rung, minutes: float
) -> None:
    less_spent, more_spent = standing(elapsed, spent, pace), standing(elapsed, spent + more, pace)
    before = at(rung, less_spent, minutes)
    assert step(POLICY, less_spent, before).rung <= step(POLICY, more_spent, before).rung


@given(st.floats(0, 1), st.floats(0, 200), st.floats(0, 10_000), st.sampled_from(list(Rung)), st.floats(0, 90))
def test_what_was_decided_stays_decided_while_nothing_changes(
    elapsed: float, spent: float, pace: float, rung: Rung, minutes: float
) -> None:
    now = standing(elapsed, spent, pace)
    once = step(POLICY, now, at(rung, now, minutes))
    assert step(POLICY, now, once) == once


def test_a_document_prices_some_rungs_and_leaves_the_others() -> None:
    policy = read_policy({"cost_percent": {"cheaper": 60}, "aim_percent": 90, "spent_percents": [75]})
    assert (policy.cost(Rung.SHORTER), policy.cost(Rung.CHEAPER), policy.cost(Rung.CACHED)) == (0.75, 0.6, 0.28)
    assert (policy.aim_percent, policy.spent_percents) == (90, (75,))
    assert read_policy(None) == read_policy({}) == Policy()
    assert (policy.cost(Rung.NORMAL), policy.cost(Rung.REFUSED)) == (1.0, 0.12)


def test_prices_that_rise_from_rung_to_rung_are_found() -> None:
    assert descending({})
    assert descending({"shorter": 35})
    assert not descending({"shorter": 34})
    assert not descending({"priority": 23})


@pytest.mark.parametrize(("demand", "history_hours"), [(1.5, 0), (1.5, 336), (3.0, 0)])
def test_at_half_as_much_demand_again_everybody_is_answered_all_month_within_the_budget(
    demand: float, history_hours: int, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = planned_cost(requests(seed=2, mean_an_hour=10, window=NOVEMBER))
    result = play(
        requests(seed=1, mean_an_hour=10 * demand, window=NOVEMBER),
        limit,
        MODELS.budget,
        NOVEMBER,
        seen_hours=history_hours,
    )
    with capsys.disabled():
        sys.stdout.write("\n" + result.lines(f"{demand:.0%} of planned demand, {history_hours} hours of history"))
    assert result.answered >= 0.99 * result.asked
    assert 0.9 * limit < result.spent <= limit
    assert result.moved
    assert result.shortened


def test_without_the_ladder_the_same_month_ends_with_refusals() -> None:
    limit = planned_cost(requests(seed=2, mean_an_hour=10, window=NOVEMBER))
    blind = replace(MODELS.budget, cheaper={}, output_percent=100)
    result = play(requests(seed=1, mean_an_hour=15, window=NOVEMBER), limit, blind, NOVEMBER)
    assert result.answered < 0.9 * result.asked
    assert result.spent <= limit


def test_a_ladder_that_is_priced_wrong_still_lasts_the_month() -> None:
    limit = planned_cost(requests(seed=2, mean_an_hour=10, window=NOVEMBER))
    wrong = replace(MODELS.budget, cost_percent={rung: 90 - rung for rung in STEPS})
    result = play(requests(seed=1, mean_an_hour=15, window=NOVEMBER), limit, wrong, NOVEMBER)
    assert result.refused["no money"] == 0
    assert result.spent <= limit
