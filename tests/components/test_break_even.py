from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components._break_even import SERVICES, break_even_gb, endpoint_usd, saved_usd_per_gb, worth_having

zones = st.integers(2, 3)
traffic = st.dictionaries(st.sampled_from(SERVICES), st.floats(0, 5_000))


@pytest.mark.parametrize(("count", "fixed", "least"), [(2, "14.60", 418), (3, "21.90", 626)])
def test_the_hours_of_an_endpoint_are_earned_back_by_what_nat_would_charge(count: int, fixed: str, least: int) -> None:
    assert endpoint_usd(count) == Decimal(fixed)
    assert saved_usd_per_gb(has_nat=True) == Decimal("0.035")
    assert break_even_gb(count, has_nat=True) == least


def test_without_nat_there_is_nothing_to_earn_back() -> None:
    assert break_even_gb(2, has_nat=False) is None
    assert worth_having(SERVICES, dict.fromkeys(SERVICES, 1e9), 2, has_nat=False) == []


@given(traffic, zones)
def test_exactly_those_that_reach_the_break_even_are_worth_having(gb: dict[str, float], count: int) -> None:
    chosen = worth_having(SERVICES, gb, count, has_nat=True)
    for service in SERVICES:
        through_nat = Decimal(gb.get(service, 0)) * saved_usd_per_gb(has_nat=True)
        if service in chosen:
            assert through_nat >= endpoint_usd(count)
        else:
            assert through_nat < endpoint_usd(count) + saved_usd_per_gb(has_nat=True)  # a whole GB is the step


@given(traffic, zones, st.floats(1, 10))
def test_more_traffic_never_takes_an_endpoint_away(gb: dict[str, float], count: int, factor: float) -> None:
    more = {service: amount * factor for service, amount in gb.items()}
    assert set(worth_having(SERVICES, gb, count, True)) <= set(worth_having(SERVICES, more, count, True))
