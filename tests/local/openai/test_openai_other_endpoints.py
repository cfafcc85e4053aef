"""Embeddings, moderations and models through the official client."""

import math
from typing import Any

import openai
import pytest

from local.openai import embeddings
from local.openai.server import running

pytestmark = pytest.mark.process
SMALL = "text-embedding-3-small"
CATEGORIES = 13


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_similar_texts_have_the_higher_cosine_and_every_vector_length_one(client: openai.OpenAI) -> None:
    texts = ["Refunds are paid within 30 days.", "When is my refund paid?", "The cat sleeps on the sofa."]
    done = client.embeddings.create(model=SMALL, input=texts, encoding_format="float")
    policy, question, cat = (item.embedding for item in done.data)
    assert len(policy) == 1536
    assert math.isclose(cosine(policy, policy), 1)
    assert cosine(policy, question) > 0.4 > 0.1 > cosine(policy, cat)
    assert [item.index for item in done.data] == [0, 1, 2]
    assert done.usage.prompt_tokens == done.usage.total_tokens > 0


def test_base64_holds_the_same_numbers_as_floats(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model=SMALL, input="some words", encoding_format="float").data[0].embedding
    # the client's strict check does not know its own base64 default, so this one is lenient
    lenient = client.with_options(_extra_kwargs={"_strict_response_validation": False})
    packed = lenient.embeddings.create(model=SMALL, input="some words").data[0].embedding
    assert packed == pytest.approx(floats, abs=1e-6)


def test_dimensions_and_token_lists_are_honoured(client: openai.OpenAI) -> None:
    done = client.embeddings.create(model=SMALL, input=[1, 2, 3], dimensions=64, encoding_format="float")
    assert len(done.data) == 1
    assert len(done.data[0].embedding) == 64
    assert done.usage.prompt_tokens == 3


def test_texts_that_share_no_word_are_nearly_at_right_angles() -> None:
    left, right = (embeddings.vector(" ".join(f"{name}{i}" for i in range(200)), 64) for name in ("left", "right"))
    assert abs(cosine(left, right)) < 0.4


@pytest.mark.parametrize(
    "changes",
    [
        {"input": ""},
        {"input": []},
        {"input": ["x"] * 2049},
        {"input": "x" * 40_000},
        {"input": ["x" * 32_000] * 40},
        {"dimensions": 1537},
        {"model": "text-embedding-ada-002", "dimensions": 64},
        {"encoding_format": "hex"},
        {"store": True},
    ],
)
def test_embeddings_refuses_with_400(client: openai.OpenAI, changes: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/embeddings", body={"model": SMALL, "input": "Hi", **changes}, cast_to=object)


def test_moderations_flag_what_is_harmful_and_nothing_else(client: openai.OpenAI) -> None:
    done = client.moderations.create(model="omni-moderation-latest", input=["I will kill you", "What a nice day"])
    bad, good = done.results
    assert bad.flagged
    assert bad.categories.violence
    assert bad.categories.harassment_threatening
    assert not bad.categories.sexual
    assert not good.flagged
    scores = good.category_scores.model_dump()
    assert len(scores) == CATEGORIES
    assert all(0 < score < 0.01 for score in scores.values())
    assert client.moderations.create(input="I will kill you").results[0] == bad


def test_moderation_of_parts_is_one_result_that_says_what_was_looked_at(client: openai.OpenAI) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    done = client.moderations.create(input=[{"type": "text", "text": "a cat"}, image])
    assert len(done.results) == 1
    seen = done.results[0].category_applied_input_types
    assert seen.violence == ["text", "image"]
    assert seen.harassment == ["text"]


def test_models_tell_their_shutdown_date_and_the_gone_ones_are_gone(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert models["gpt-5-mini"].shutdown_date == "2026-12-11"
    assert models["gpt-6-luna"].shutdown_date is None
    assert "gpt-4" not in models
    assert client.models.retrieve("gpt-6-luna") == models["gpt-6-luna"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_a_model_is_gone_on_its_shutdown_date(key: str) -> None:
    for today, there in (("2026-12-10", True), ("2026-12-11", False)):
        with running(today=today) as simulator, openai.OpenAI(api_key=key, base_url=simulator.base_url) as client:
            assert ("gpt-5-mini" in {model.id for model in client.models.list()}) is there
