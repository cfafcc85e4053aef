from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.choose import fallback_plans, make_plan
from app.pipeline.endpoints import CHAT, EMBEDDINGS, MODERATIONS, RESPONSES, Endpoint

MODELS = Models(default_document())
MAXIMUM = MODELS.resolve("fast", "text").max_output_tokens
DEFAULT = MODELS.resolve("fast", "text").default_output_tokens


def changed_models(**limits: Any) -> Models:
    document = default_document()
    document["limits"] = {**document["limits"], **limits}
    return Models(document)


def test_an_alias_becomes_the_documents_model_and_both_names_are_kept() -> None:
    plan = make_plan(RESPONSES, {"model": "balanced", "input": "hi"}, MODELS)
    assert (plan.requested_model, plan.model.name) == ("balanced", "gpt-6.1-terra")
    assert orjson.loads(plan.payload)["model"] == "gpt-6.1-terra"


def test_a_model_of_another_kind_is_unknown_here() -> None:
    with pytest.raises(ApiError) as caught:
        make_plan(EMBEDDINGS, {"model": "fast", "input": "hi"}, MODELS)
    assert caught.value.code == "model_not_found"
    assert "embed" in caught.value.message


def test_a_request_without_a_model_gets_the_documents_own() -> None:
    assert make_plan(RESPONSES, {"input": "hi"}, MODELS).model.name == MODELS.resolve(MODELS.default_model, "text").name
    assert make_plan(MODERATIONS, {"input": "hi"}, MODELS).model.kind == "moderation"
    with pytest.raises(ApiError) as caught:
        make_plan(EMBEDDINGS, {"input": "hi"}, MODELS)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "model")


@pytest.mark.parametrize(
    ("endpoint", "asked", "sent"),
    [
        (RESPONSES, {}, {"max_output_tokens": DEFAULT}),
        (RESPONSES, {"max_output_tokens": None}, {"max_output_tokens": DEFAULT}),
        (RESPONSES, {"max_output_tokens": 20}, {"max_output_tokens": 20}),
        (RESPONSES, {"max_output_tokens": MAXIMUM}, {"max_output_tokens": MAXIMUM}),
        (CHAT, {}, {"max_completion_tokens": DEFAULT}),
        (CHAT, {"max_tokens": MAXIMUM}, {"max_tokens": MAXIMUM, "max_completion_tokens": None}),
        (CHAT, {"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
    ],
)
def test_output_is_always_capped(endpoint: Endpoint, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    plan = make_plan(endpoint, {"model": "fast", endpoint.content: [], **asked}, MODELS)
    assert {name: plan.document.get(name) for name in sent} == sent
    assert plan.output_tokens == next(value for value in sent.values() if value is not None)


@given(st.integers(min_value=1, max_value=2 * MAXIMUM), st.integers(min_value=1, max_value=2 * MAXIMUM))
def test_no_number_passes_the_cap(completion: int, tokens: int) -> None:
    body = {"model": "fast", "messages": [], "max_completion_tokens": completion, "max_tokens": tokens}
    if max(completion, tokens) <= MAXIMUM:
        assert make_plan(CHAT, body, MODELS).output_tokens == max(completion, tokens)
        return
    with pytest.raises(ApiError) as caught:
        make_plan(CHAT, body, MODELS)
    assert caught.value.param == ("max_completion_tokens" if completion > MAXIMUM else "max_tokens")
    assert f"at most {MAXIMUM}" in caught.value.message


@given(st.integers(max_value=0), st.sampled_from(CHAT.output_caps))
def test_a_cap_below_one_is_refused_by_name(value: int, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        make_plan(CHAT, {"model": "fast", "messages": [], name: value}, MODELS)
    assert caught.value.param == name


def test_more_choices_than_the_model_document_allows_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        make_plan(CHAT, {"model": "fast", "messages": [], "n": 2}, MODELS)
    assert caught.value.param == "n"
    assert "at most 1" in caught.value.message
    plan = make_plan(CHAT, {"model": "fast", "messages": [], "n": 2, "max_tokens": 10}, changed_models(n=2))
    assert plan.output_tokens == 20


@pytest.mark.parametrize("asked", [None, "auto", "default"])
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
def test_only_a_priced_tier_reaches_openai(endpoint: Endpoint, asked: str | None) -> None:
    plan = make_plan(endpoint, {"model": "fast", endpoint.content: [], "service_tier": asked}, MODELS)
    assert plan.document["service_tier"] == "default"


@pytest.mark.parametrize("asked", ["priority", "flex", "fast", "ultrafast", "made-up"])
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
def test_a_tier_without_a_price_is_refused_with_the_ones_that_have_one(endpoint: Endpoint, asked: str) -> None:
    with pytest.raises(ApiError) as caught:
        make_plan(endpoint, {"model": "fast", endpoint.content: [], "service_tier": asked}, MODELS)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "service_tier")
    assert "default" in caught.value.message


@pytest.mark.parametrize(("endpoint", "name"), [(RESPONSES, "tools"), (CHAT, "tools"), (CHAT, "functions")])
def test_more_tools_than_the_model_document_allows_are_refused(endpoint: Endpoint, name: str) -> None:
    models = changed_models(tools=2)
    make_plan(endpoint, {"model": "fast", endpoint.content: [], name: [{}, {}]}, models)
    with pytest.raises(ApiError) as caught:
        make_plan(endpoint, {"model": "fast", endpoint.content: [], name: [{}, {}, {}]}, models)
    assert caught.value.param == name
    assert "at most 2" in caught.value.message


def test_the_documents_stop_sequences_join_the_callers_in_chat() -> None:
    models = changed_models(stop=["END"])
    assert make_plan(CHAT, {"model": "fast", "messages": []}, models).document["stop"] == ["END"]
    assert make_plan(CHAT, {"model": "fast", "messages": [], "stop": "x"}, models).document["stop"] == ["END", "x"]
    with_own = make_plan(CHAT, {"model": "fast", "messages": [], "stop": ["END", "y"]}, models)
    assert with_own.document["stop"] == ["END", "y"]
    with pytest.raises(ApiError) as caught:
        make_plan(CHAT, {"model": "fast", "messages": [], "stop": list("abcd")}, models)
    assert caught.value.param == "stop"
    assert "stop" not in make_plan(CHAT, {"model": "fast", "messages": []}, MODELS).document


def test_responses_have_no_stop_parameter_so_the_stream_is_cut_here() -> None:
    models = changed_models(stop=["END"])
    plan = make_plan(RESPONSES, {"model": "fast", "input": "hi", "stop": "x"}, models)
    assert plan.stop == ("END", "x")
    assert (plan.stream, plan.streams_upstream) == (False, True)
    sent = orjson.loads(plan.payload)
    assert sent["stream"] is True
    assert "stop" not in sent
    assert plan.document["stop"] == ["END", "x"], "another question for the cache"
    plain = make_plan(RESPONSES, {"model": "fast", "input": "hi", "stop": []}, MODELS)
    assert (plain.stop, plain.streams_upstream) == ((), False)
    assert "stop" not in plain.document


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
@pytest.mark.parametrize("stop", [[1], [""], [None], ["x" * 201], list("abcde")])
def test_a_stop_that_is_none_is_refused(endpoint: Endpoint, stop: list[Any]) -> None:
    with pytest.raises(ApiError) as caught:
        make_plan(endpoint, {"model": "fast", endpoint.content: [], "stop": stop}, MODELS)
    assert (caught.value.status, caught.value.param) == (400, "stop")


def test_a_fallback_is_the_same_call_on_another_model_within_its_caps() -> None:
    document = default_document()
    document["models"]["gpt-6-luna"]["fallback"] = ["gpt-6.1-terra", "gpt-6-sol"]
    document["models"]["gpt-6.1-terra"]["output_tokens"] = {"default": 50, "maximum": 100}
    document["models"]["gpt-6-sol"]["stop"] = list("abcd")
    plan = make_plan(CHAT, {"model": "fast", "messages": [], "max_tokens": 200, "stop": "x"}, Models(document))
    [other] = fallback_plans(plan)  # the second has no room for the caller's stop sequence
    assert (other.requested_model, other.model.name) == ("fast", "gpt-6.1-terra")
    sent = orjson.loads(other.payload)
    assert (sent["model"], sent["max_tokens"], sent["stop"]) == ("gpt-6.1-terra", 100, ["x"])


@pytest.mark.parametrize(
    ("options", "hidden"),
    [(None, True), ({}, True), ({"include_usage": False}, True), ({"include_usage": True}, False)],
)
def test_a_chat_stream_is_always_metered_and_hides_only_what_was_not_asked_for(options: Any, hidden: bool) -> None:
    plan = make_plan(CHAT, {"model": "fast", "messages": [], "stream": True, "stream_options": options}, MODELS)
    assert plan.document["stream_options"]["include_usage"] is True
    assert plan.hides_usage is hidden


def test_other_stream_options_stay() -> None:
    body = {"model": "fast", "messages": [], "stream": True, "stream_options": {"include_obfuscation": False}}
    assert make_plan(CHAT, body, MODELS).document["stream_options"]["include_obfuscation"] is False
    assert "stream_options" not in make_plan(RESPONSES, {"input": "hi", "stream": True}, MODELS).document
    assert "stream_options" not in make_plan(CHAT, {"messages": []}, MODELS).document


def test_what_policy_does_not_touch_is_sent_as_it_came() -> None:
    body = {"model": "fast", "input": "ünï", "temperature": 0.3, "metadata": {"a": "b"}, "text": {"verbosity": "low"}}
    plan = make_plan(RESPONSES, body, MODELS)
    sent = orjson.loads(plan.payload)
    assert {name: sent[name] for name in body if name != "model"} == {
        name: value for name, value in body.items() if name != "model"
    }


@pytest.mark.parametrize(
    ("endpoint", "content", "tokens"),
    [
        (RESPONSES, "x" * 400, 100),
        (RESPONSES, "語" * 400, 300),
        (EMBEDDINGS, ["x" * 4] * 10, 10),
        (EMBEDDINGS, [1, 2, 3], 3),
        (EMBEDDINGS, [[1, 2], [3]], 3),
        (RESPONSES, "", 1),
    ],
)
def test_input_is_estimated_by_its_size(endpoint: Endpoint, content: Any, tokens: int) -> None:
    model = "embed" if endpoint is EMBEDDINGS else "fast"
    assert make_plan(endpoint, {"model": model, endpoint.content: content}, MODELS).input_tokens == tokens


def test_an_inline_image_is_estimated_as_an_image_and_not_as_text() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 4_000_000}
    plan = make_plan(RESPONSES, {"model": "fast", "input": [{"role": "user", "content": [image]}]}, MODELS)
    assert 1_000 < plan.input_tokens < 2_000
