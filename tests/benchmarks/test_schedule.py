"""The open model's moments are fixed before the first answer."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._schedule import constant, poisson


def test_an_even_schedule_has_a_request_each_interval() -> None:
    assert constant(4, 1) == [0, 0.25, 0.5, 0.75]


@given(st.floats(1, 2_000), st.floats(0, 3), st.integers())
def test_arrivals_by_chance_are_in_order_in_time_and_the_same_for_every_target(
    rate: float, seconds: float, seed: int
) -> None:
    offsets = poisson(rate, seconds, seed)
    assert offsets == sorted(offsets)
    assert all(0 < offset < seconds for offset in offsets)
    assert offsets == poisson(rate, seconds, seed)


def test_arrivals_by_chance_keep_their_rate_and_come_in_bursts() -> None:
    offsets = poisson(640, 100, 7)
    assert len(offsets) / 100 == pytest.approx(640, rel=0.02)
    gaps = [after - before for before, after in itertools.pairwise(offsets)]
    assert max(gaps) > 5 / 640
    assert min(gaps) < 0.01 / 640
