"""A stop sequence is found wherever the text is split, and nothing is held back longer than needed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from app.pipeline.stop import StopMatcher

# Few letters, so that sequences overlap, nest and begin inside each other.
TEXTS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the match that is complete first, and of those the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    passed = ""
    for piece in pieces:
        passed += matcher.feed(piece)
        if matcher.matched:
            return passed, True
    return passed + matcher.flush(), False


@given(TEXTS, STOPS, st.data())
def test_the_cut_is_the_same_at_every_split(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert run(pieces, stops) == expected(text, stops)


@given(TEXTS, STOPS)
def test_only_what_may_begin_a_sequence_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    passed = matcher.feed(text)
    if matcher.matched:
        return
    held = text[len(passed) :]
    assert text == passed + held
    starts = {stop[:length] for stop in stops for length in range(1, len(stop))}
    assert held == max((start for start in starts if text.endswith(start)), key=len, default="")


def test_several_sequences_cut_at_the_one_that_is_complete_first() -> None:
    assert run(["xxabcd"], ["abcd", "bc"]) == ("xxa", True)
    assert run(["xxabc"], ["abc", "bc"]) == ("xx", True)
