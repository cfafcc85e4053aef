from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.answers import Answers, Found
from app.cache.entry import Entry
from app.cache.memory import OVERHEAD_BYTES, Memory, Road
from app.models import Models, default_document
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES
from app.valkey.client import Valkey
from tests.app.cache.conftest import place_of_text

MODELS, OTHER_MODELS = Models(default_document()), Models(default_document())

PLAN = make_plan(RESPONSES, {"model": "fast", "input": "hi"}, MODELS)


def entry(size: int = 10, fresh: float = 100, stale: float = 50) -> Entry:
    return Entry(bytes(size), "application/json", "m", fresh_seconds=fresh, stale_seconds=stale)


def test_an_entry_is_fresh_then_stale_then_gone() -> None:
    memory = Memory(1 << 20)
    memory.put("k", entry(), age=10, now=1_000)
    held = memory.find("k", 1_000)
    assert held is not None
    assert (held.made_at, held.fresh_until, held.gone_at) == (990, 1_090, 1_140)
    assert memory.find("k", 1_139.9) is held
    assert memory.find("k", 1_140) is None
    assert memory.size == 0


def test_a_wrong_clock_makes_an_answer_a_miss_or_lets_it_live_once_more_and_never_for_good() -> None:
    now, wall = 1_000.0, 5_000.0
    answers = Answers(cast(Valkey, None), 1 << 20, clock=lambda: now, wall_clock=lambda: wall)
    place = place_of_text("acme", "hi")
    place.at("1-0")
    kept = replace(entry(), made_at=5_000)
    wall += 3_600
    assert answers.accept(place, kept) is None
    wall -= 7_200
    assert answers.accept(place, kept) == Found(kept, "hit", 0.0)
    now += 149
    assert answers.held(place) == Found(kept, "stale", 149.0)
    now += 1
    assert answers.held(place) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40_000), st.booleans()), max_size=60))
def test_it_never_holds_more_than_it_may(steps: list[tuple[int, int, bool]]) -> None:
    memory = Memory(100_000)
    for name, size, is_road in steps:
        if is_road:
            request = ("acme", "/v1/responses", bytes(size), None)
            memory.remember(request, Road(MODELS, place_of_text("acme", "hi"), PLAN))
        else:
            memory.put(str(name), entry(size), age=0, now=0)
        assert 0 <= memory.size <= 100_000


def test_the_least_recently_used_goes_first() -> None:
    memory = Memory(4 * 3 * (OVERHEAD_BYTES + 10) // 3)
    for name in "abc":
        memory.put(name, entry(), age=0, now=0)
    assert memory.find("a", 1) is not None
    memory.put("d", entry(), age=0, now=0)
    assert [name for name in "abcd" if memory.find(name, 1)] == ["a", "c", "d"]


def test_what_is_too_large_is_given_back_and_not_held() -> None:
    memory = Memory(10_000)
    assert memory.put("k", entry(20_000), age=0, now=0).entry.body == bytes(20_000)
    assert memory.find("k", 1) is None
    assert memory.size == 0


def test_a_road_ends_with_the_models_document() -> None:
    memory = Memory(1 << 20)
    request = ("acme", "/v1/responses", b"{}", None)
    memory.remember(request, Road(MODELS, place_of_text("acme", "hi"), PLAN))
    assert memory.road(request, MODELS) is not None
    assert memory.road(("globex", *request[1:]), MODELS) is None
    assert memory.road(request, OTHER_MODELS) is None
    assert memory.road(request, MODELS) is None
    assert memory.size == 0


@pytest.mark.parametrize("length", [0, 662, 10_500])
def test_what_is_held_takes_no_more_memory_than_is_counted(length: int) -> None:
    memory = Memory(1 << 30)
    tracemalloc.start()
    try:
        for index in range(1_000):
            body = f"{index:010d}".encode() + bytes(length)
            made = Entry(body, "application/json", "m", 200, 1.0 + index, 3_600.0 + index, 60.0 + index)
            memory.put(f"{index:064d}", made, 0.5 + index, 0.25 + index)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= memory.size
