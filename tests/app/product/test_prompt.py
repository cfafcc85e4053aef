"""Text out of a document stays data, and a citation is only one when its source was shown."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.product.index import Hit
from app.product.prompt import INSTRUCTIONS, cited, numbered, request_input

HITS = [Hit("doc_a", "a.md", 0, 5, "alpha", 0.9), Hit("doc_b", "b.md", 7, 11, "beta", 0.5)]
SOURCES = numbered(HITS)


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Yes [1].", [1]),
        ("First [2], then [1], again [2].", [2, 1]),
        ("Both [1][2].", [1, 2]),
        ("Both [1, 2].", [1, 2]),
        ("Both [2; 1].", [2, 1]),
        ("Invented [3] and [0] and [99].", []),
        ("An array[i] and [one] and 1 and (2).", []),
        ("", []),
    ],
)
def test_a_citation_is_a_shown_number_in_brackets(answer: str, numbers: list[int]) -> None:
    assert [source.number for source in cited(answer, SOURCES)] == numbers


@given(st.text())
def test_no_answer_cites_a_source_that_was_not_shown(answer: str) -> None:
    found = cited(answer, SOURCES)
    assert set(found) <= set(SOURCES)
    assert len(found) == len(set(found))


@given(st.text(), st.text(min_size=1))
def test_no_passage_leaves_its_frame(text: str, name: str) -> None:
    sources = numbered([Hit("doc_a", name, 0, 1, text, 1.0)])
    shown, asked = request_input("why?", sources)
    head, *lines = str(shown["content"]).split("\n")
    assert head == "Sources:"
    assert [orjson.loads(line) for line in lines] == [{"source": 1, "document": name, "text": text}]
    assert asked["content"] == "Question: why?"


def test_what_never_changes_comes_first_and_the_question_last() -> None:
    shown, asked = request_input("why?", SOURCES)
    assert "alpha" not in INSTRUCTIONS
    assert "why?" not in str(shown["content"])
    assert str(asked["content"]).endswith("why?")


def test_a_source_says_where_its_passage_stands() -> None:
    assert SOURCES[1].to_json() == {
        "number": 2,
        "document_id": "doc_b",
        "name": "b.md",
        "start": 7,
        "end": 11,
        "text": "beta",
        "score": 0.5,
    }
