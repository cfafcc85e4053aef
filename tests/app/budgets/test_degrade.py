from __future__ import annotations

import copy
from typing import Any

import pytest

from app.budgets.degrade import degraded
from app.budgets.policy import Policy, Rung
from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import CHAT, EMBEDDINGS, RESPONSES

MODELS = Models(default_document())
POLICY = MODELS.budget


def on(rung: Rung, document: dict[str, Any], policy: Policy = POLICY) -> dict[str, Any]:
    return dict(degraded(RESPONSES, document, MODELS, policy, rung))


@pytest.mark.parametrize("rung", [Rung.NORMAL, Rung.NOTIFY])
def test_being_told_changes_nothing(rung: Rung) -> None:
    document = {"model": "best", "input": "Hi", "max_output_tokens": 900}
    assert degraded(RESPONSES, document, MODELS, POLICY, rung) is document


def test_answers_get_shorter_before_the_model_gets_cheaper() -> None:
    document = {"model": "best", "input": "Hi", "max_output_tokens": 900}
    assert on(Rung.SHORTER, document) == {**document, "max_output_tokens": 450}
    assert on(Rung.CHEAPER, document) == {**document, "model": "gpt-6.1-terra", "max_output_tokens": 450}
    assert on(Rung.PRIORITY, document) == on(Rung.CHEAPER, document)


def test_a_request_without_a_cap_gets_half_of_the_default_one() -> None:
    assert on(Rung.SHORTER, {"input": "Hi"})["max_output_tokens"] == 512
    chat = degraded(CHAT, {"messages": []}, MODELS, POLICY, Rung.SHORTER)
    assert chat["max_completion_tokens"] == 512


def test_both_caps_of_a_chat_get_shorter() -> None:
    document = {"messages": [], "max_completion_tokens": 400, "max_tokens": 600}
    chat = degraded(CHAT, document, MODELS, POLICY, Rung.SHORTER)
    assert (chat["max_completion_tokens"], chat["max_tokens"]) == (200, 300)


def test_no_answer_is_capped_below_the_least() -> None:
    assert on(Rung.SHORTER, {"input": "Hi", "max_output_tokens": 200})["max_output_tokens"] == 128
    assert on(Rung.SHORTER, {"input": "Hi", "max_output_tokens": 16})["max_output_tokens"] == 16


def test_a_cheaper_model_gives_what_it_has() -> None:
    document = copy.deepcopy(default_document())
    document["models"]["gpt-6.1-terra"]["output_tokens"] = {"default": 64, "maximum": 100}
    models = Models(document)
    changed = degraded(RESPONSES, {"model": "best", "input": "Hi"}, models, models.budget, Rung.CHEAPER)
    assert make_plan(RESPONSES, changed, models).output_tokens == 100


def test_a_model_without_a_cheaper_one_keeps_its_own() -> None:
    assert on(Rung.CHEAPER, {"model": "fast", "input": "Hi"}).get("model") == "fast"
    assert on(Rung.CHEAPER, {"model": "best", "input": "Hi"}, Policy()).get("model") == "best"


def test_vectors_of_another_model_are_never_given() -> None:
    document = {"model": "text-embedding-3-large", "input": "Hi"}
    assert degraded(EMBEDDINGS, document, MODELS, POLICY, Rung.PRIORITY) is document


@pytest.mark.parametrize("cap", [0, -5, 10**9])
def test_a_wrong_cap_is_refused_in_the_same_words_on_every_rung(cap: int) -> None:
    document = {"model": "best", "input": "Hi", "max_output_tokens": cap}
    words = set()
    for rung in (Rung.NORMAL, Rung.SHORTER):
        with pytest.raises(ApiError) as caught:
            make_plan(RESPONSES, on(rung, document), MODELS)
        words.add(caught.value.message)
    assert len(words) == 1


def test_an_unknown_model_is_refused_on_every_rung() -> None:
    with pytest.raises(ApiError, match="is not served here"):
        on(Rung.CHEAPER, {"model": "gpt-4", "input": "Hi"})
