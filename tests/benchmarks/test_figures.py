"""What is made of the rounds, and what is promised."""

import pytest

from benchmarks._figures import FIGURES, OTHERS, Round, goals, summary, with_added
from benchmarks._statistics import Spread

ROUNDS: list[Round] = [
    {
        "direct": {"p50_ms": 0.1, "p99_ms": 51.0},
        "prodkit": {"p50_ms": 0.4, "p99_ms": 52.0, "cpu_us_per_request": 300.0},
    },
    {
        "direct": {"p50_ms": 0.2, "p99_ms": 90.0},
        "prodkit": {"p50_ms": 0.6, "p99_ms": None, "cpu_us_per_request": 310.0},
    },
    {
        "direct": {"p50_ms": 0.1, "p99_ms": None},
        "prodkit": {"p50_ms": 0.3, "p99_ms": 51.0, "cpu_us_per_request": 320.0},
    },
]


def test_names_are_unique() -> None:
    names = [figure.name for figure in (*FIGURES, *OTHERS)]
    assert len(names) == len(set(names))


def test_what_is_added_is_against_the_direct_call_of_the_same_round() -> None:
    added = [with_added(one)["prodkit"]["added_p50_ms"] for one in ROUNDS]
    assert added == [pytest.approx(0.3), pytest.approx(0.4), pytest.approx(0.2)]
    assert "added_p50_ms" not in with_added(ROUNDS[0])["direct"]


def test_a_percentile_that_fell_on_a_failure_adds_nothing_that_could_be_shown() -> None:
    found = summary(ROUNDS)
    assert "added_p99_ms" not in found["prodkit"]
    assert found["prodkit"]["cpu_us_per_request"] == Spread(310.0, 300.0, 320.0)


def test_a_target_that_missed_a_round_is_still_summed_up() -> None:
    found = summary([*ROUNDS, {"direct": {"p50_ms": 0.1}, "prodkit": {}}])
    assert found["prodkit"]["cpu_us_per_request"].median == 310


def spreads(**values: float) -> dict[str, Spread]:
    return {name: Spread(value, value, value) for name, value in values.items()}


def test_a_promise_is_met_missed_or_not_measured() -> None:
    measured = {
        "prodkit": spreads(cpu_us_per_request=320.0, requests_per_second=2_999.0),
        "litellm": spreads(cpu_us_per_request=8_100.0),
    }
    found = {goal.text: goal.met for goal in goals(measured)}
    assert found["CPU time a request"] is True
    assert found["requests a second on one core, c=32"] is False
    assert found["requests for the CPU time of one of LiteLLM's"] is True
    assert found["requests for the CPU time of one of Portkey's"] is None


def test_a_tail_of_failures_is_a_missed_promise_and_no_missing_figure() -> None:
    text = "added latency, 99th percentile, 32 requests in flight"
    failing = {"prodkit": spreads(failed_percent=3.0)}
    assert [goal.met for goal in goals(failing) if goal.text == text] == [False]
    assert [goal.met for goal in goals({"prodkit": {}}) if goal.text == text] == [None]


def test_a_bound_itself_keeps_the_promise() -> None:
    at_bounds = spreads(cpu_us_per_request=330.0, requests_per_second=3_000.0, added_p50_ms=0.4, ready_seconds=1.5)
    assert [goal.met for goal in goals({"prodkit": at_bounds}) if goal.value is not None] == [True] * 4
