"""Retries stay a tenth of the requests, whatever fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.resilience.budget import RESERVE, SHARE, RetryBudget


@given(st.lists(st.booleans(), max_size=400))
def test_no_stretch_of_requests_gets_more_than_its_share_and_the_reserve(steps: list[bool]) -> None:
    budget = RetryBudget()
    retries = 0
    for requests, asks_again in enumerate(steps, 1):
        budget.earn()
        retries += asks_again and budget.take()
        assert retries <= RESERVE + SHARE * requests + 1e-6


def test_when_every_request_fails_one_in_ten_is_repeated() -> None:
    budget = RetryBudget()
    taken = 0
    for _ in range(1_000):
        budget.earn()
        taken += budget.take()
    assert 100 <= taken <= 110


def test_a_quiet_replica_saves_no_more_than_its_reserve() -> None:
    budget = RetryBudget()
    for _ in range(1_000):
        budget.earn()
    assert budget.saved == RESERVE
