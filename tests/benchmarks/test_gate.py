"""A request that costs much more CPU than before does not pass."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks._gate import TOLERANCE, kept_ratio, verdict
from benchmarks._statistics import Spread


def test_the_kept_ratio_is_prodkit_over_the_floor_in_their_least_disturbed_rounds() -> None:
    kept = {
        "prodkit": {"cpu_us_per_request": Spread(330, 300, 390)},
        "passthrough": {"cpu_us_per_request": Spread(120, 100, 150)},
    }
    assert kept_ratio(kept) == 3
    assert kept_ratio({"prodkit": kept["prodkit"]}) is None


def test_as_fast_as_before_passes_and_says_the_numbers() -> None:
    passed, line = verdict(330, 100, 3.0)
    assert passed
    assert line == "prodkit 330 µs CPU a request, floor 100 µs: 3.30 times the floor, kept result 3.00, bound 4.50"


def test_much_slower_fails_and_says_what_to_do() -> None:
    passed, line = verdict(451, 100, 3.0)
    assert not passed
    assert "more than 4.50" in line
    assert "make bench" in line


def test_without_a_kept_result_nothing_passes() -> None:
    passed, line = verdict(330, 100, None)
    assert not passed
    assert "run `make bench` and commit" in line


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0.1, 100), st.floats(0.1, 50))
def test_a_slower_machine_changes_nothing(own: float, floor: float, kept: float, factor: float) -> None:
    ratio = own / floor
    if abs(ratio - kept * TOLERANCE) > 1e-6 * ratio:
        assert verdict(own, floor, kept)[0] == verdict(own * factor, floor * factor, kept)[0]
