from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components._capacity import Bottleneck, Load, bottleneck, quota_for, requests_by

loads = st.builds(
    Load,
    requests_per_minute=st.integers(1, 1_000_000),
    tokens_per_minute=st.integers(1, 1_000_000_000),
    in_flight_per_task=st.integers(1, 10_000),
    request_seconds=st.integers(1, 3_600),
    tokens_per_request=st.integers(1, 1_000_000),
)
tasks = st.integers(1, 1_000)


def load(requests: int = 500, tokens: int = 200_000) -> Load:
    return Load(requests, tokens, in_flight_per_task=40, request_seconds=20, tokens_per_request=1_500)


def test_a_task_carries_what_littles_law_says() -> None:
    assert load().task_requests == 120
    assert load().task_tokens == 180_000


def test_the_smallest_tier_feeds_two_tasks_and_tokens_are_scarce() -> None:
    assert load().useful_tasks == 2
    assert requests_by(load(), 2) == {
        Bottleneck.REQUESTS: 500,
        Bottleneck.TOKENS: Fraction(400, 3),
        Bottleneck.TASKS: 240,
    }
    assert bottleneck(load(), 2) is Bottleneck.TOKENS


@pytest.mark.parametrize(
    ("requests", "tokens", "count", "scarce"),
    [
        (240, 10_000_000, 3, Bottleneck.REQUESTS),
        (240, 10_000_000, 1, Bottleneck.TASKS),
        (240, 360_000, 2, Bottleneck.REQUESTS),
        (10_000, 200_000, 1, Bottleneck.TASKS),
        (10_000, 180_000, 1, Bottleneck.TOKENS),
    ],
)
def test_the_scarcest_is_named(requests: int, tokens: int, count: int, scarce: Bottleneck) -> None:
    assert bottleneck(load(requests, tokens), count) is scarce


@given(loads)
def test_useful_tasks_use_the_quota_and_one_less_does_not(load: Load) -> None:
    quota = min(Fraction(load.requests_per_minute), load.fed_by_tokens)
    assert load.useful_tasks >= 1
    assert (load.useful_tasks - 1) * load.task_requests < quota <= load.useful_tasks * load.task_requests


@given(loads, st.integers(0, 1_000_000), st.integers(0, 1_000_000_000))
def test_more_quota_never_feeds_fewer_tasks(load: Load, requests: int, tokens: int) -> None:
    larger = Load(
        load.requests_per_minute + requests,
        load.tokens_per_minute + tokens,
        load.in_flight_per_task,
        load.request_seconds,
        load.tokens_per_request,
    )
    assert larger.useful_tasks >= load.useful_tasks


@given(loads, tasks)
def test_the_quota_that_is_asked_for_is_enough_and_nothing_less_is(load: Load, count: int) -> None:
    requests, tokens = quota_for(load, count)

    def useful(requests: int, tokens: int) -> int:
        rest = (load.in_flight_per_task, load.request_seconds, load.tokens_per_request)
        return Load(requests, tokens, *rest).useful_tasks

    plenty = 10**15
    assert useful(requests, tokens) >= count
    assert requests == 1 or useful(requests - 1, plenty) < count
    assert tokens == 1 or useful(plenty, tokens - 1) < count


@given(loads, tasks)
def test_tasks_are_the_bottleneck_only_while_they_are_all_of_use(load: Load, count: int) -> None:
    if bottleneck(load, count) is Bottleneck.TASKS:
        assert count <= load.useful_tasks
    else:
        assert count >= load.useful_tasks
