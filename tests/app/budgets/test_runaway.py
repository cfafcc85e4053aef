from __future__ import annotations

import copy
import math
import random
import sys

import pytest

from app.budgets.history import BIN, BINS_AN_HOUR, HOUR, History
from app.budgets.runaway import LEAST_PICO, Habit, Runaway
from tests.app.budgets.month import DAY, WEEKEND

USD = 10**12
START = 1_790_208_000  # a Thursday, 00:00 UTC
DAYS = 28
SERIES = 4
MEAN_AN_HOUR = 30
MEAN_COST = 0.02 * USD


def spent_in_bin(chance: random.Random, number: int, times: float = 1.0) -> int:
    """What ten minutes of a tenant cost: requests by chance, more by day than by night, each of another price."""
    hour = number // BINS_AN_HOUR
    mean = times * MEAN_AN_HOUR / BINS_AN_HOUR * DAY[hour % 24] * (WEEKEND if hour // 24 % 7 in (2, 3) else 1)
    count, product = 0, chance.random()
    while product > math.exp(-mean):
        count, product = count + 1, product * chance.random()
    return int(sum(chance.lognormvariate(0, 0.9) for _ in range(count)) * MEAN_COST)


class Watched:
    """A tenant whose spending is judged each ten minutes."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._habit: Habit | None = None

    def take(self, number: int, pico: int) -> Runaway | None:
        now = START + (number + 1) * BIN - 1
        self.history.add(now, pico)
        if self._habit is None or self._habit.hour != now // HOUR:
            self._habit = Habit(self.history, now)
        return self._habit.judge(now)


def minutes_until_found(history: History, first: int, chance: random.Random, times: float) -> int | None:
    """How long after it began a multiple of the habit is found; None when not within three hours."""
    watched = Watched(copy.deepcopy(history))
    for number in range(first, first + 18):
        if watched.take(number, spent_in_bin(chance, number, times)):
            return (number - first + 1) * 10
    return None


def test_ten_times_the_habit_is_found_within_the_hour_and_false_alarms_are_rare(
    capsys: pytest.CaptureFixture[str],
) -> None:
    month = DAYS * 24 * BINS_AN_HOUR
    false, tenfold, threefold = 0, [], []
    for seed in range(SERIES):
        chance = random.Random(seed)
        watched = Watched(History())
        watched.history.add(START, 0)
        for number in range(month):
            watched.history.add(START + (number + 1) * BIN - 1, spent_in_bin(chance, number))
        tried = set(random.Random(seed).sample(range(month, 2 * month), 30))
        quiet = 0
        for number in range(month, 2 * month):
            if number in tried:
                tenfold.append(minutes_until_found(watched.history, number, random.Random(number), 10))
                threefold.append(minutes_until_found(watched.history, number, random.Random(number), 3))
            if watched.take(number, spent_in_bin(chance, number)):
                false += number > quiet  # one that goes on is one
                quiet = number + 18
    found = [minutes for minutes in tenfold if minutes is not None]
    shown = f"\n{len(tenfold)} runaways of ten times: found after {sorted(found)[len(found) // 2]} minutes (median), "
    shown += (
        f"{max(found)} at most; of three times: {sum(m is not None for m in threefold)} of {len(threefold)} within "
    )
    shown += f"three hours; false alarms: {false} in {SERIES} tenants' months"
    with capsys.disabled():
        sys.stdout.write(shown)
    assert len(found) == len(tenfold)
    assert max(found) <= 60
    assert false <= SERIES / 2


def quiet_weeks(weeks: int, pico_an_hour: int) -> History:
    history = History()
    history.add(START, 0)
    for hour in range(weeks * 7 * 24):
        history.add(START + (hour + 1) * HOUR - 1, pico_an_hour)
    return history


def judged(history: History, hours: float) -> Runaway | None:
    now = START + hours * HOUR - 1
    return Habit(history, now).judge(now)


def test_a_tenant_without_a_day_of_history_has_no_habit_to_break() -> None:
    history = History()
    history.add(START, 0)
    history.add(START + 20 * HOUR - 1, 1_000 * USD)
    assert judged(history, 20) is None


def test_cents_wake_nobody() -> None:
    history = quiet_weeks(4, pico_an_hour=100)
    history.add(START + (28 * 24 + 1) * HOUR - 1, LEAST_PICO * 9 // 10)
    assert judged(history, 28 * 24 + 1) is None


def test_the_first_dollars_after_weeks_of_nothing_are_out_of_habit() -> None:
    history = quiet_weeks(4, pico_an_hour=0)
    history.add(START + (28 * 24 + 1) * HOUR - 1, USD)
    found = judged(history, 28 * 24 + 1)
    assert found is not None
    assert found.spent == pytest.approx(USD, rel=0.01)
    assert found.times == math.inf


def test_growth_becomes_the_habit() -> None:
    history = quiet_weeks(4, pico_an_hour=USD)
    last = 28 * 24
    for hour in range(last, last + 60):
        history.add(START + (hour + 1) * HOUR - 1, 3 * USD)
    assert judged(history, last + 60) is None
