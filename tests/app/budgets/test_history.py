from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.budgets.history import BIN, HOUR, KEPT_BINS, KEPT_HOURS, History

START = 1_794_000_000 // HOUR * HOUR


def even(hours: int, pico_an_hour: int) -> History:
    history = History()
    history.add(START, 0)
    for hour in range(1, hours + 1):
        history.add(START + hour * HOUR, pico_an_hour)
    return history


@given(st.lists(st.tuples(st.floats(0.1, 20_000), st.integers(0, 10**15)), max_size=30))
def test_nothing_is_lost_when_it_is_spread_over_the_time_since_the_last_look(looks: list[tuple[float, int]]) -> None:
    history = History()
    now = float(START)
    history.add(now, 0)
    for seconds, pico in looks:
        now += seconds
        history.add(now, pico)
    assert sum(history.hours.values()) == sum(pico for _, pico in looks)
    assert len(history.bins) <= KEPT_BINS


def test_what_it_keeps_ends() -> None:
    history = even(hours=KEPT_HOURS + 50, pico_an_hour=7)
    assert len(history.hours) <= KEPT_HOURS
    assert len(json.dumps(history.to_json())) < 16_384


def test_it_comes_back_as_it_was_kept() -> None:
    history = even(hours=5, pico_an_hour=10**12)
    history.skip(START + 8 * HOUR)
    history.add(START + 9 * HOUR, 5)
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history
    assert History.from_json(json.loads(json.dumps(History().to_json()))) == History()


def test_time_that_nobody_looked_at_is_no_spending_and_no_saving() -> None:
    history = even(hours=48, pico_an_hour=3_600)
    before = history.pace(START + 48 * HOUR)
    history.skip(START + 72 * HOUR)
    assert history.pace(START + 72 * HOUR) == pytest.approx(before, rel=0.01)
    assert START // HOUR + 60 not in history.hours


def test_an_even_pace_is_found_and_a_jump_counts_half_after_two_days() -> None:
    history = even(hours=336, pico_an_hour=3_600)
    now = START + 336 * HOUR
    assert history.pace(now) == pytest.approx(1.0)
    for hour in range(1, 49):
        history.add(now + hour * HOUR, 36_000)
    assert history.pace(now + 48 * HOUR) == pytest.approx(5.5, rel=0.03)


def test_a_minute_is_no_measure_of_a_month() -> None:
    history = History()
    history.add(START, 0)
    history.add(START + 60, 360)
    assert history.pace(START + 60) == 360 / HOUR
    assert History().pace(START) == 0


def test_the_last_hour_is_the_last_six_pieces_of_ten_minutes() -> None:
    history = History()
    history.add(START, 0)
    for piece in range(1, 13):
        history.add(START + piece * BIN - 1, 10**piece)
    assert history.last(6, START + 12 * BIN - 1) == pytest.approx(1_111_111 * 10**6 - 10**6, rel=0.01)
