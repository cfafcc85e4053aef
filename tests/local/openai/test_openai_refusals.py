"""Every refusal has the status, code and param that OpenAI gives it."""

import re
from typing import Any

import openai
import pytest

from local.openai.server import Running

pytestmark = pytest.mark.process
HELLO: list[Any] = [{"role": "user", "content": "Hi"}]
OPEN_SCHEMA = {"type": "object", "properties": {}}


def refusal(client: openai.OpenAI, path: str, body: dict[str, Any]) -> openai.APIStatusError:
    """The error that `body` gets at `path`."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.post(path, body=body, cast_to=object)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"stop": ["x"]}, "stop", "unknown_parameter"),
        ({"n": 2}, "n", "unknown_parameter"),
        ({"max_completion_tokens": 50}, "max_completion_tokens", "unknown_parameter"),
        ({"seed": 1}, "seed", "unknown_parameter"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"max_output_tokens": 128_001}, "max_output_tokens", "integer_above_max_value"),
        ({"max_output_tokens": "16"}, "max_output_tokens", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"top_p": True}, "top_p", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
        ({"safety_identifier": "x" * 129}, "safety_identifier", "string_above_max_length"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"model": "gpt-6.2-sol", "service_tier": "flex"}, "service_tier", "invalid_service_tier"),
        ({"model": "gpt-6.2-sol", "reasoning": {"effort": "none"}}, "reasoning.effort", "unsupported_value"),
        ({"model": "gpt-6.1-sol", "reasoning": {"effort": "none"}}, "reasoning.effort", "unsupported_value"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort", "invalid_value"),
        ({"model": "gpt-4.1", "reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
        ({"model": "gpt-6-astra", "temperature": 0.2}, "temperature", "unsupported_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type=web_search", "not_simulated"),
        ({"background": True}, "background", "not_simulated"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "schema": OPEN_SCHEMA}}},
            "text.format.name",
            "missing_required_parameter",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "it", "strict": True, "schema": OPEN_SCHEMA}}},
            "text.format.schema",
            "invalid_json_schema",
        ),
        ({"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
        ({"model": "gpt-4o", "input": "x" * 520_000}, "input", "context_length_exceeded"),
        ({"model": "text-embedding-3-small"}, "model", "unsupported_model"),
    ],
)
def test_responses_refuses_with_400(
    client: openai.OpenAI, changes: dict[str, Any], param: str, code: str | None
) -> None:
    error = refusal(client, "/responses", {"model": "gpt-6-luna", "input": "Hi", **changes})
    assert (error.status_code, error.param, error.code, error.type) == (400, param, code, "invalid_request_error")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"input": "x"}, "input", "unknown_parameter"),
        ({"max_output_tokens": 20}, "max_output_tokens", "unknown_parameter"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": 3}, "stop", "invalid_type"),
        ({"model": "o3", "stop": "a"}, "stop", "unsupported_parameter"),
        ({"model": "o3", "max_tokens": 9}, "max_tokens", "unsupported_parameter"),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens", "invalid_parameter_combination"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"service_tier": "ultrafast"}, "service_tier", "invalid_value"),
        ({"model": "gpt-6.2-sol", "reasoning_effort": "none"}, "reasoning_effort", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "not_simulated"),
    ],
)
def test_chat_refuses_with_400(client: openai.OpenAI, changes: dict[str, Any], param: str, code: str | None) -> None:
    error = refusal(client, "/chat/completions", {"model": "gpt-6-luna", "messages": HELLO, **changes})
    assert (error.status_code, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize("effort", ["none", "max"])
def test_luna_takes_every_effort_and_a_temperature(client: openai.OpenAI, effort: Any) -> None:
    done = client.responses.create(model="gpt-6-luna", input="Hi", reasoning={"effort": effort}, temperature=0)
    assert done.reasoning is not None
    assert done.reasoning.effort == effort


@pytest.mark.parametrize("name", ["gpt-9", "gpt-4", "gpt-4.1-nano"])
def test_an_unknown_or_shut_down_model_is_not_found(client: openai.OpenAI, name: str) -> None:
    error = refusal(client, "/responses", {"model": name, "input": "Hi"})
    assert (error.status_code, error.code) == (404, "model_not_found")
    assert error.request_id is not None


def test_a_key_that_is_wrong_or_not_accepted_is_refused_and_never_shown(
    client: openai.OpenAI, simulator: Running, key: str
) -> None:
    simulator.accept_keys(key)
    client.models.list()
    for wrong in ("wrong-" + key, key + "x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            client.with_options(api_key=wrong).models.list()
        assert caught.value.code == "invalid_api_key"
        assert wrong not in caught.value.response.text
        assert not re.search(r"\bsk-[A-Za-z0-9_-]{20,}", caught.value.response.text)
    with pytest.raises(openai.AuthenticationError, match="didn't provide"):
        client.models.list(extra_headers={"Authorization": openai.Omit()})


def test_paths_methods_and_bodies_that_do_not_exist_are_refused(client: openai.OpenAI) -> None:
    assert refusal(client, "/completions", {"model": "x"}).status_code == 404
    assert refusal(client, "/models", {}).status_code == 404
    with pytest.raises(openai.APIStatusError) as caught:
        client.get("/embeddings", cast_to=object)
    assert (caught.value.status_code, caught.value.code) == (405, "method_not_supported")
    for body in (b"{", b"[]", b"{}"):
        with pytest.raises(openai.BadRequestError):
            client.post("/responses", content=body, cast_to=object)
