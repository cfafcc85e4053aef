"""Passages cover the text, stay within their size and keep their place."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.product.chunks import BYTES_PER_TOKEN, passages

WORDS = st.lists(
    st.sampled_from(["word", "Sentence.", "ends!", "\n\n", "\n", "日本語。", "naïve", "🦊", "  ", "a" * 90]),
    max_size=400,
).map(" ".join)
TEXTS = st.one_of(st.text(max_size=2000), WORDS)


@given(TEXTS, st.integers(8, 80))
def test_every_character_is_in_a_passage(text: str, tokens: int) -> None:
    covered = 0
    for passage in passages(text, tokens):
        assert passage.start <= covered
        assert passage.end > covered
        covered = passage.end
    assert covered == len(text)


@given(TEXTS, st.integers(8, 80))
def test_no_passage_is_larger_than_asked(text: str, tokens: int) -> None:
    assert all(0 < len(p.text.encode()) <= tokens * BYTES_PER_TOKEN for p in passages(text, tokens))


@given(TEXTS, st.integers(8, 80))
def test_offsets_open_the_passage_again(text: str, tokens: int) -> None:
    found = list(passages(text, tokens))
    assert all(text[p.start : p.end] == p.text for p in found)
    assert found == list(passages(text, tokens))


@given(TEXTS, st.integers(8, 80))
def test_neighbours_share_at_most_an_eighth(text: str, tokens: int) -> None:
    for one, other in itertools.pairwise(passages(text, tokens)):
        assert one.start < other.start
        assert len(text[other.start : one.end].encode()) <= tokens * BYTES_PER_TOKEN // 8


def test_passages_end_with_paragraphs_before_sentences() -> None:
    text = "One sentence. Another sentence here.\n\nSecond paragraph. It goes on for a while longer than that."
    first, *_ = passages(text, 16)
    assert first.text == "One sentence. Another sentence here.\n\n"


def test_a_sentence_cut_by_the_limit_is_whole_in_the_next_passage() -> None:
    text = "Alpha beta gamma delta epsilon zeta eta theta iota. Kappa mu. Lambda nu xi omicron pi rho sigma tau."
    one, other, *_ = passages(text, 20)
    assert one.text.endswith("Kappa mu. ")
    assert other.text.startswith("Kappa mu. ")


def test_short_text_is_one_passage_and_empty_text_none() -> None:
    assert [p.text for p in passages("short", 8)] == ["short"]
    assert list(passages("", 8)) == []


def test_a_size_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="choose at least 8"):
        list(passages("text", 7))
