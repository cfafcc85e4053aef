"""A packed document is the same in memory, and cosine is exact."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.product.chunks import Passage
from app.product.vectors import Vector, pack, unpack

PASSAGES = [Passage(0, 5, "alpha"), Passage(3, 9, "beta β")]
NUMBERS = st.floats(-4, 4, width=16)


def test_a_packed_document_opens_with_its_places_and_model() -> None:
    segment = unpack(pack("m", PASSAGES, [[3.0, 4.0], [0.0, 2.0]]))
    assert segment.passages == PASSAGES
    assert segment.model == "m"
    assert segment.rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 1.0]]
    assert segment.size >= segment.rows.nbytes


def test_the_file_names_its_version_and_another_is_refused() -> None:
    file = orjson.loads(pack("m", PASSAGES, [[1.0], [1.0]]))
    assert (file["version"], file["dimensions"]) == (1, 1)
    with pytest.raises(ValueError, match="version 2"):
        unpack(orjson.dumps(file | {"version": 2}))


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0], [1.0], [1.0]], [1.0, 1.0]])
def test_passages_without_one_vector_each_are_refused(vectors: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="2 passages have vectors of shape"):
        pack("m", PASSAGES, vectors)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=20), st.integers(1, 25))
def test_the_nearest_are_the_ones_of_highest_cosine(rows: list[list[float]], k: int) -> None:
    asked = [1.0, -2.0, 0.5]
    segment = unpack(pack("m", [Passage(n, n + 1, "x") for n in range(len(rows))], rows))
    found = segment.nearest(Vector("m", asked), k)
    scores = [_cosine(row, asked) for row in rows]
    assert len(found) == min(k, len(rows))
    for (score, passage), expected in zip(found, sorted(scores, reverse=True), strict=False):
        assert score == pytest.approx(expected, abs=1e-5)
        assert scores[passage.start] == pytest.approx(expected, abs=1e-5)


def test_a_vector_of_another_model_or_length_finds_nothing() -> None:
    segment = unpack(pack("m", PASSAGES, [[1.0, 0.0], [0.0, 1.0]]))
    assert segment.nearest(Vector("other", [1.0, 0.0]), 2) == []
    assert segment.nearest(Vector("m", [1.0]), 2) == []


def _cosine(one: list[float], other: list[float]) -> float:
    length = sum(x * x for x in one) ** 0.5 * sum(x * x for x in other) ** 0.5
    return sum(x * y for x, y in zip(one, other, strict=True)) / length if length else 0.0
