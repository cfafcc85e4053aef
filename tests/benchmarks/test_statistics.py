"""Percentiles that failures cannot flatter, and medians that a lost round cannot hide."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._statistics import Spread, percentile, ratio_within, spread

TIMES = st.lists(st.floats(0, 100), min_size=1)


@given(TIMES, st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_did_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9


def test_percentiles_of_a_hundred_values_are_those_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]


def test_a_failure_is_an_endless_wait() -> None:
    values = [1.0] * 98
    assert percentile(values, 98, failures=2) == 1
    assert percentile(values, 99, failures=2) is None
    assert percentile([], 50) is None
    assert percentile([], 50, failures=3) is None


@given(TIMES)
def test_the_median_lies_within_its_range(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.least <= found.median <= found.most
    assert {found.least, found.most} <= set(values)


def test_a_figure_that_most_rounds_lack_is_none() -> None:
    assert spread([None, None, 1.0]) is None
    assert spread([]) is None
    assert spread([None, 1.0, 3.0]) == Spread(2.0, 1.0, 3.0)


def test_a_ratio_lies_within_its_bounds_nineteen_times_in_twenty() -> None:
    source = random.Random(1)

    def turns() -> list[tuple[float, float]]:
        disturbed = [source.choice([1.0, 1.8]) for _ in range(40)]
        return [(109 * more * source.gauss(1, 0.1), 100 * more * source.gauss(1, 0.1)) for more in disturbed]

    found = [ratio_within(turns()) for _ in range(1_000)]
    inside = sum(one is not None and one.least <= 1.09 <= one.most for one in found)
    assert 920 <= inside <= 980


def test_what_happens_in_few_turns_counts_for_as_much_as_it_costs() -> None:
    found = ratio_within([(100.0, 100.0)] * 9 + [(200.0, 100.0)])
    assert found is not None
    assert found.percent_more().median == pytest.approx(10)


def test_few_turns_have_no_ratio_that_could_be_relied_on() -> None:
    assert ratio_within([(7.0, 7.0)] * 4) is None
    assert ratio_within([(7.0, 7.0)] * 5) == Spread(1, 1, 1)
