"""Who gets in when a replica is full, and how cheaply the others are sent away."""

from __future__ import annotations

import contextlib

import pytest

from app.errors import ApiError
from app.observability.metrics import SHED_REQUESTS, Metrics
from app.pipeline.bound import MAX_BODY_BYTES
from app.serving.gate import SMALL_BODY_BYTES, Gate

BACKGROUND = {"x-prodkit-priority": "background"}
INTERACTIVE = {"x-prodkit-priority": "Interactive"}


class Counts(Metrics):
    """Keeps what was counted."""

    def __init__(self) -> None:
        super().__init__("dev", "we", write=lambda _: None)
        self.counted: list[str] = []

    def count(self, name: str, value: float = 1) -> None:
        self.counted.append(name)
        super().count(name, value)


def refusal(gate: Gate, headers: dict[str, str]) -> ApiError:
    with pytest.raises(ApiError) as caught, gate.enter(headers):
        pass
    return caught.value


def body(size: int) -> dict[str, str]:
    return {"content-length": str(size)}


def test_more_requests_than_fit_are_shed_counted_and_told_when_to_come_back() -> None:
    metrics = Counts()
    gate = Gate(2, metrics, 0, chance=lambda least, _most: least)
    with gate.enter(), gate.enter():
        error = refusal(gate, {})
        assert (error.status, error.code, error.headers["retry-after"]) == (503, "overloaded", "1")
        assert metrics.in_flight == 2
    with gate.enter():
        assert metrics.in_flight == 1
    assert metrics.in_flight == 0
    assert metrics.counted == [SHED_REQUESTS]


def test_background_is_shed_first_and_told_to_stay_away_longer() -> None:
    gate = Gate(4, Counts(), 0, chance=lambda least, _most: least)
    with gate.enter(BACKGROUND), gate.enter():
        assert refusal(gate, BACKGROUND).headers["retry-after"] == "5"
        with gate.enter(INTERACTIVE), gate.enter():
            assert refusal(gate, INTERACTIVE).headers["retry-after"] == "1"


def test_those_who_are_shed_together_do_not_return_together() -> None:
    gate = Gate(0, Counts(), 0)
    assert len({refusal(gate, BACKGROUND).headers["retry-after"] for _ in range(200)}) > 5


def test_an_unknown_priority_is_named_with_the_ones_there_are() -> None:
    error = refusal(Gate(1, Counts(), 0), {"x-prodkit-priority": "urgent"})
    assert (error.status, error.param) == (400, "x-prodkit-priority")
    assert "interactive" in error.message
    assert "background" in error.message


def test_long_bodies_share_one_bound_and_small_ones_pass_it() -> None:
    gate = Gate(9, Counts(), 3 * SMALL_BODY_BYTES)
    with contextlib.ExitStack() as inside:
        inside.enter_context(gate.enter(body(2 * SMALL_BODY_BYTES)))
        assert refusal(gate, body(2 * SMALL_BODY_BYTES)).code == "overloaded"
        inside.enter_context(gate.enter(body(SMALL_BODY_BYTES)))
        assert gate.body_bytes == 2 * SMALL_BODY_BYTES
    assert gate.body_bytes == 0
    with gate.enter(body(2 * SMALL_BODY_BYTES)):
        pass


@pytest.mark.parametrize(
    "headers",
    [
        {"transfer-encoding": "chunked"},
        body(10**12),
        {"content-length": "9" * 5_000},
        {"content-length": "x"},
        {"content-length": "²"},
    ],
)
def test_a_body_of_no_known_length_counts_as_the_longest(headers: dict[str, str]) -> None:
    gate = Gate(9, Counts(), MAX_BODY_BYTES)
    with gate.enter(headers):
        assert gate.body_bytes == MAX_BODY_BYTES


def test_a_request_that_fails_inside_gives_its_room_back() -> None:
    metrics = Counts()
    gate = Gate(1, metrics, MAX_BODY_BYTES)
    with pytest.raises(ZeroDivisionError), gate.enter(body(MAX_BODY_BYTES)):
        raise ZeroDivisionError
    assert (gate.body_bytes, metrics.in_flight) == (0, 0)
