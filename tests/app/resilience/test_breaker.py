"""A breaker opens when most calls fail, lets one probe through, and is never stuck."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from app.resilience.breaker import (
    FEWEST_OUTCOMES,
    JITTER,
    MOST_OPEN_SECONDS,
    OPEN_SECONDS,
    WINDOW_SECONDS,
    Breaker,
    Entry,
)


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def breaker(time: Time, opened: list[float], chance: float = 0.0) -> Breaker:
    return Breaker(lambda: opened.append(time.now), clock=time, chance=lambda: chance)


def outcomes(under: Breaker, *healthy: bool | None) -> None:
    for outcome in healthy:
        under.settle(under.enter(), outcome)


def test_it_opens_when_most_of_enough_calls_fail_and_not_before() -> None:
    opened: list[float] = []
    under = breaker(Time(), opened)
    outcomes(under, *[False] * (FEWEST_OUTCOMES - 1))
    assert opened == []
    outcomes(under, False)
    assert under.enter() is Entry.REFUSED
    assert len(opened) == 1


def test_half_of_the_calls_failing_is_for_the_retries() -> None:
    under = breaker(Time(), [])
    outcomes(under, *[True, False] * 100)
    assert under.closed


def test_old_failures_are_forgotten() -> None:
    time = Time()
    under = breaker(time, [])
    outcomes(under, *[False] * (FEWEST_OUTCOMES - 1))
    time.now += WINDOW_SECONDS
    outcomes(under, False)
    assert under.closed


def test_outcomes_that_say_nothing_are_not_counted() -> None:
    under = breaker(Time(), [])
    outcomes(under, *[None] * 100)
    assert under.closed


def test_one_probe_decides_for_all() -> None:
    time = Time()
    under = breaker(time, [])
    outcomes(under, *[False] * FEWEST_OUTCOMES)
    time.now += OPEN_SECONDS
    probe = under.enter()
    assert probe is Entry.PROBE
    assert [under.enter() for _ in range(100)] == [Entry.REFUSED] * 100
    under.settle(probe, healthy=True)
    assert under.closed
    outcomes(under, *[False] * (FEWEST_OUTCOMES - 1))
    assert under.closed, "it counts from nothing again"


def test_each_probe_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    time, opened = Time(), list[float]()
    under = breaker(time, opened)
    outcomes(under, *[False] * FEWEST_OUTCOMES)
    waits = []
    for _ in range(6):
        waits.append(under.seconds_left)
        time.now += under.seconds_left
        outcomes(under, False)
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert len(opened) == 7


def test_replicas_do_not_probe_together() -> None:
    waits = set()
    for chance in (0.0, 0.5, 1.0):
        under = breaker(Time(), [], chance)
        outcomes(under, *[False] * FEWEST_OUTCOMES)
        waits.add(under.seconds_left)
    assert waits == {OPEN_SECONDS, OPEN_SECONDS * (1 + JITTER / 2), OPEN_SECONDS * (1 + JITTER)}


def test_a_probe_that_is_given_up_lets_the_next_call_find_out() -> None:
    time = Time()
    under = breaker(time, [])
    outcomes(under, *[False] * FEWEST_OUTCOMES)
    time.now += OPEN_SECONDS
    outcomes(under, None)
    assert under.enter() is Entry.PROBE


def test_calls_from_before_it_opened_change_nothing() -> None:
    under = breaker(Time(), [])
    early = under.enter()
    outcomes(under, *[False] * FEWEST_OUTCOMES)
    under.settle(early, healthy=True)
    assert not under.closed


class Breakers(RuleBasedStateMachine):
    """Whatever the order of calls: one probe at most, and it can always be closed again."""

    inside = Bundle("inside")

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.under = breaker(self.time, [], 1.0)
        self.probes = 0

    @rule(target=inside)
    def enter(self) -> object:
        entry = self.under.enter()
        self.probes += entry is Entry.PROBE
        return multiple() if entry is Entry.REFUSED else entry

    @rule(entry=consumes(inside), healthy=st.sampled_from([True, False, None]))
    def settle(self, entry: Entry, healthy: bool | None) -> None:
        self.probes -= entry is Entry.PROBE
        self.under.settle(entry, healthy)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds

    @invariant()
    def one_probe_at_most(self) -> None:
        assert self.probes in (0, 1)

    @invariant()
    def it_never_stays_away_for_long(self) -> None:
        assert self.under.seconds_left <= MOST_OPEN_SECONDS * (1 + JITTER)


TestBreakers = Breakers.TestCase
