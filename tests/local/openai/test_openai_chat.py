"""Chat Completions through the official client."""

import json
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.process
MODEL = "gpt-6-luna"
HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]
LOOKUP: Any = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}},
}


def test_a_completion_has_the_documented_shape(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model=MODEL, messages=HELLO, store=True, metadata={"a": "b"})
    assert done.choices[0].finish_reason == "stop"
    assert "sky" in (done.choices[0].message.content or "")
    assert done.metadata == {"a": "b"}
    assert done.service_tier == "default"
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_a_stream_builds_the_same_text_and_reports_usage_only_when_asked(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO)
    with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        silent = list(stream)
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        told = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in silent) == whole.choices[0].message.content
    assert silent[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in silent][-2:] == [None, "stop"]
    assert all(chunk.usage is None for chunk in silent)
    assert all(chunk.usage is None for chunk in told[:-1])
    assert told[-1].choices == []
    assert told[-1].usage == whole.usage
    assert len({chunk.id for chunk in told}) == 1


def test_every_choice_is_different_and_billed(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(model=MODEL, messages=HELLO)
    three = client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
    assert len({choice.message.content for choice in three.choices}) == 3
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens > 2 * one.usage.completion_tokens
    with client.chat.completions.create(model=MODEL, messages=HELLO, n=3, stream=True) as stream:
        streamed = ["", "", ""]
        for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == [choice.message.content for choice in three.choices]


def test_a_stop_sequence_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO).choices[0].message.content or ""
    cut = client.chat.completions.create(model=MODEL, messages=HELLO, stop=[" about"]).choices[0]
    assert cut.message.content == whole.split(" about")[0] != whole
    assert cut.finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_output_cap_ends_the_text_with_length(client: openai.OpenAI, name: str) -> None:
    cap: Any = {name: 5}
    done = client.chat.completions.create(model=MODEL, messages=HELLO, reasoning_effort="none", **cap)
    assert done.choices[0].finish_reason == "length"
    assert done.usage is not None
    assert done.usage.completion_tokens == 5


def test_tools_need_an_effort_of_none_and_are_then_called(client: openai.OpenAI) -> None:
    required: Any = {"messages": HELLO, "tools": [LOOKUP], "tool_choice": "required"}
    with pytest.raises(openai.BadRequestError, match="/v1/responses"):
        client.chat.completions.create(model=MODEL, **required)
    done = client.chat.completions.create(model=MODEL, **required, reasoning_effort="none")
    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    call = (choice.message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "look_up"
    with client.chat.completions.create(model=MODEL, **required, reasoning_effort="none", stream=True) as stream:
        parts = [chunk.choices[0].delta.tool_calls or [] for chunk in stream]
    arguments = "".join(part.function.arguments or "" for calls in parts for part in calls if part.function)
    assert json.loads(arguments) == json.loads(call.function.arguments)


def test_structured_output_works_through_response_format(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}, "count": {"type": "integer"}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    done = client.chat.completions.create(model=MODEL, messages=HELLO, response_format=form)
    value = json.loads(done.choices[0].message.content or "")
    assert isinstance(value["answer"], str)
    assert isinstance(value["count"], int)


def test_json_mode_wants_the_word_json_in_the_messages(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_object"}
    with pytest.raises(openai.BadRequestError, match="'json'"):
        client.chat.completions.create(model=MODEL, messages=HELLO, response_format=form)
    messages: Any = [{"role": "user", "content": "Answer in JSON: why?"}]
    done = client.chat.completions.create(model=MODEL, messages=messages, response_format=form)
    assert json.loads(done.choices[0].message.content or "")


async def test_the_asynchronous_client_streams_chat(async_client: openai.AsyncOpenAI) -> None:
    async with await async_client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        finishes = [chunk.choices[0].finish_reason async for chunk in stream]
    assert finishes[-1] == "stop"
