"""The Responses API through the official client."""

import json
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.process
MODEL = "gpt-6-luna"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


def test_a_response_has_the_documented_shape_and_echoes_the_request(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=MODEL,
        input="Why is the sky blue?",
        metadata={"a": "b"},
        store=False,
        service_tier="fast",
        temperature=0.5,
    )
    assert response.status == "completed"
    assert "sky" in response.output_text
    assert response.metadata == {"a": "b"}
    assert response.service_tier == "priority"
    assert response.temperature == 0.5
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_the_same_input_gets_the_same_answer_and_another_input_another(client: openai.OpenAI) -> None:
    first, second, other = (
        client.responses.create(model=MODEL, input=text)
        for text in ("Why do cats purr?", "Why do cats purr?", "Why not?")
    )
    assert first.output_text == second.output_text != other.output_text
    assert first.id != second.id


def test_a_stream_has_openais_events_in_order_and_builds_the_same_text(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input="Why is the sky blue?", reasoning={"effort": "none"})
    with client.responses.create(
        model=MODEL, input="Why is the sky blue?", reasoning={"effort": "none"}, stream=True
    ) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage == whole.usage


def test_a_reasoning_model_shows_its_reasoning_item_and_bills_it(client: openai.OpenAI) -> None:
    thought, plain = (
        client.responses.create(model=MODEL, input="Hello?", reasoning={"effort": effort})
        for effort in ("high", "none")
    )
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    assert [item.type for item in plain.output] == ["message"]
    assert thought.usage is not None
    assert plain.usage is not None
    assert (
        thought.usage.output_tokens_details.reasoning_tokens > 0 == plain.usage.output_tokens_details.reasoning_tokens
    )
    assert thought.usage.output_tokens > plain.usage.output_tokens


def test_an_answer_longer_than_its_cap_is_incomplete(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "input": "Write 300 words on sand.", "max_output_tokens": 40}
    response = client.responses.create(**asked)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 40
    with client.responses.create(**asked, stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete"


def test_the_sdks_stream_helper_accumulates_the_final_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="Why is the sky blue?") as stream:
        final = stream.get_final_response()
    assert "sky" in final.output_text


async def test_the_asynchronous_client_streams_and_sees_the_headers(async_client: openai.AsyncOpenAI) -> None:
    raw = await async_client.responses.with_raw_response.create(model=MODEL, input="Hi")
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-organization"]
    assert raw.headers["openai-project"].startswith("proj_")
    assert raw.headers["openai-version"]
    assert int(raw.headers["openai-processing-ms"]) >= 0
    async with await async_client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert [event.type async for event in stream][-1] == "response.completed"


def test_obfuscation_is_on_until_the_caller_turns_it_off(client: openai.OpenAI) -> None:
    for options, padded in ((None, True), ({"include_obfuscation": False}, False)):
        asked: Any = {"stream_options": options} if options else {}
        with client.responses.create(model=MODEL, input="Hi", stream=True, **asked) as stream:
            deltas = [event for event in stream if event.type == "response.output_text.delta"]
        assert all(("obfuscation" in (delta.model_extra or {})) is padded for delta in deltas)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_required_tool_is_called_with_arguments_that_fit_its_schema(client: openai.OpenAI, choice: Any) -> None:
    response = client.responses.create(model=MODEL, input="Lisbon?", tools=[WEATHER], tool_choice=choice)
    call = response.output[-1]
    assert call.type == "function_call"
    arguments = json.loads(call.arguments)
    assert set(arguments) == {"city", "days"}
    assert 1 <= arguments["days"] <= 7
    with client.responses.create(
        model=MODEL, input="Lisbon?", tools=[WEATHER], tool_choice=choice, stream=True
    ) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == arguments


def test_a_tool_is_called_when_the_question_names_it_and_its_output_is_used(client: openai.OpenAI) -> None:
    asked = client.responses.create(model=MODEL, input="Please get weather for Lisbon", tools=[WEATHER])
    silent = client.responses.create(model=MODEL, input="Please get weather", tools=[WEATHER], tool_choice="none")
    assert asked.output[-1].type == "function_call"
    assert silent.output[-1].type == "message"
    call = asked.output[-1]
    history: Any = [
        {"role": "user", "content": "Please get weather for Lisbon"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"},
    ]
    told = client.responses.create(model=MODEL, input=history, tools=[WEATHER])
    assert "sunny, 21 degrees" in told.output_text


def test_structured_output_satisfies_the_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "kind": {"enum": ["a", "b"]},
            "sure": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "note": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/note"}]},
        },
        "required": ["title", "score", "kind", "sure", "tags", "note"],
        "additionalProperties": False,
        "$defs": {"note": {"type": "string", "maxLength": 5}},
    }
    form: Any = {"format": {"type": "json_schema", "name": "it", "strict": True, "schema": schema}}
    value = json.loads(client.responses.create(model=MODEL, input="Rate sand", text=form).output_text)
    assert isinstance(value["title"], str)
    assert 0 <= value["score"] <= 1
    assert value["kind"] in ("a", "b")
    assert isinstance(value["sure"], bool)
    assert len(value["tags"]) == 2
    assert len(value["note"]) <= 5


def test_a_stored_response_is_continued_retrieved_and_deleted(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="[1] The tower is 300 m tall.\n\nQuestion: What is tall?")
    again = client.responses.create(model=MODEL, input="How tall is the tower?", previous_response_id=first.id)
    assert again.output_text == "The tower is 300 m tall. [1]"
    assert again.previous_response_id == first.id
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_what_is_not_stored_or_belongs_to_another_key_cannot_be_continued(client: openai.OpenAI, key: str) -> None:
    unstored = client.responses.create(model=MODEL, input="Hi", store=False)
    foreign = client.with_options(api_key=key + "x").responses.create(model=MODEL, input="Hi")
    for response in (unstored, foreign):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
        assert caught.value.code == "previous_response_not_found"
