"""What may share a call, and that each request gets what it would have got alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.answer import Answer
from app.pipeline.choose import Plan, make_plan
from app.pipeline.endpoints import CHAT, EMBEDDINGS, MODERATIONS, Endpoint
from app.pipeline.merged_parts import MOST_TEXT_BYTES, joined, kind_of, shares, split_answer, text_count

MODELS = Models(default_document())


def plan(content: Any, endpoint: Endpoint = EMBEDDINGS, **fields: Any) -> Plan:
    model = {"model": "embed"} if endpoint is EMBEDDINGS else {}
    return make_plan(endpoint, {**model, endpoint.content: content, **fields}, MODELS)


def embedded(texts: list[str], tokens: int | None = None) -> Answer:
    """An answer that says of each text which it was."""
    document: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": [text]} for at, text in enumerate(texts)],
        "model": "text-embedding-3-small",
    }
    if tokens is not None:
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(200, [("content-type", "application/json")], orjson.dumps(document), document, "req_up")


@given(
    total=st.integers(0, 10**7),
    parts=st.lists(st.tuples(st.integers(1, 10**5), st.integers(1, 20)), min_size=1, max_size=20),
)
def test_shares_add_up_to_what_is_billed_and_follow_the_weights(total: int, parts: list[tuple[int, int]]) -> None:
    weights, least = [weight for weight, _ in parts], [count for _, count in parts]
    given_shares = shares(total, weights, least)
    assert sum(given_shares) == total
    floors = least if sum(least) <= total else [0] * len(least)
    rest = total - sum(floors)
    for share, floor, weight in zip(given_shares, floors, weights, strict=True):
        assert 0 <= share - floor - rest * weight // sum(weights) <= 1


def test_what_is_left_over_goes_to_the_largest_remainder_and_then_to_the_earlier() -> None:
    assert shares(10, [1, 1, 1], [0, 0, 0]) == [4, 3, 3]
    assert shares(10, [10, 25, 65], [0, 0, 0]) == [1, 3, 6]
    assert shares(5, [100, 1], [1, 1]) == [4, 1]  # no text is free while there is a token for each


@given(st.lists(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=5), min_size=2, max_size=4))
def test_each_request_gets_the_results_of_its_own_texts(requests: list[list[str]]) -> None:
    plans = [plan(texts) for texts in requests]
    together = joined(plans)
    asked = orjson.loads(together.payload)["input"]
    assert asked == [text for texts in requests for text in texts]
    tokens = 7 * len(asked)
    parts = split_answer(embedded(asked, tokens), plans)
    for texts, part in zip(requests, parts, strict=True):
        found = orjson.loads(part.body)
        assert found == part.document
        assert [item["embedding"] for item in found["data"]] == [[text] for text in texts]
        assert [item["index"] for item in found["data"]] == list(range(len(texts)))
        assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"]
    assert sum(part.document["usage"]["prompt_tokens"] for part in parts) == tokens


def test_results_that_come_in_another_order_find_their_texts() -> None:
    answer = embedded(["a", "b", "c"], 3)
    answer.document["data"].reverse()
    first, second = split_answer(answer, [plan("a"), plan(["b", "c"])])
    assert [item["embedding"] for item in first.document["data"]] == [["a"]]
    assert [item["embedding"] for item in second.document["data"]] == [["b"], ["c"]]


def test_without_a_count_of_openai_no_part_has_one() -> None:
    for part in split_answer(embedded(["a", "b"]), [plan("a"), plan("b")]):
        assert "usage" not in part.document


@pytest.mark.parametrize(
    "spoil", [lambda data: data.pop(), lambda data: data.append(data[0]), lambda data: data.clear()]
)
def test_an_answer_without_one_result_for_each_text_is_none(spoil: Any) -> None:
    answer = embedded(["a", "b"], 2)
    spoil(answer.document["data"])
    with pytest.raises(ApiError) as refused:
        split_answer(answer, [plan("a"), plan("b")])
    assert refused.value.code == "upstream_invalid_response"


def test_moderation_results_are_split_by_their_place() -> None:
    document = {"id": "modr-1", "model": "m", "results": [{"flagged": False}, {"flagged": True}]}
    plans = [plan("hello", MODERATIONS), plan("bad", MODERATIONS)]
    first, second = split_answer(Answer(200, [], orjson.dumps(document), document, None), plans)
    assert orjson.loads(first.body) == {"id": "modr-1", "model": "m", "results": [{"flagged": False}]}
    assert orjson.loads(second.body)["results"] == [{"flagged": True}]


@pytest.mark.parametrize(
    "alone",
    [
        plan([1, 2, 3]),
        plan([[1, 2], [3]]),
        plan(["text"] * 21),
        plan("x" * (MOST_TEXT_BYTES + 1)),
        plan("\N{SNOWMAN}" * (MOST_TEXT_BYTES // 3 + 1)),
        plan([{"type": "image_url", "image_url": {"url": "data:,"}}], MODERATIONS),
        make_plan(CHAT, {"messages": [{"role": "user", "content": "hi"}]}, MODELS),
    ],
    ids=["tokens", "token lists", "many", "long", "long in bytes", "image", "chat"],
)
def test_what_could_spoil_or_delay_others_goes_alone(alone: Plan) -> None:
    assert text_count(alone, 20) is None


def test_a_model_with_a_fallback_goes_alone() -> None:
    document = default_document()
    document["models"]["text-embedding-3-small"]["fallback"] = ["text-embedding-3-large"]
    chosen = make_plan(EMBEDDINGS, {"model": "embed", "input": "hi"}, Models(document))
    assert text_count(chosen, 20) is None


def test_texts_of_up_to_the_bound_are_counted() -> None:
    assert text_count(plan("x" * MOST_TEXT_BYTES), 20) == 1
    assert text_count(plan(["a", "b"]), 20) == 2
    assert text_count(plan("hi", MODERATIONS), 20) == 1


def test_only_calls_that_one_call_can_answer_are_of_a_kind() -> None:
    kinds = [
        kind_of(plan("a"), "t1"),
        kind_of(plan("a", dimensions=256), "t1"),
        kind_of(plan("a", encoding_format="base64"), "t1"),
        kind_of(make_plan(EMBEDDINGS, {"model": "text-embedding-3-large", "input": "a"}, MODELS), "t1"),
        kind_of(plan("a", MODERATIONS), "t1"),
        kind_of(plan("a", user="u1"), "t1"),
        kind_of(plan("a", user="u2"), "t1"),
        kind_of(plan("a", user="u1"), "t2"),
    ]
    assert len(set(kinds)) == len(kinds)
    # An alias and its model are one; tenants share a call as long as no field of it speaks of somebody.
    assert kind_of(make_plan(EMBEDDINGS, {"model": "text-embedding-3-small", "input": "b"}, MODELS), "t2") == kinds[0]
