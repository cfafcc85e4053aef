from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.pipeline import isolate
from app.pipeline.endpoints import CHAT, EMBEDDINGS, RESPONSES, Endpoint
from app.pipeline.isolate import REFERENCES


def isolated(endpoint: Endpoint, document: dict[str, Any]) -> Mapping[str, Any]:
    return isolate.isolated(endpoint, document, orjson.dumps(document))


def refusal(endpoint: Endpoint, document: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        isolated(endpoint, document)
    return caught.value


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("prompt", {"id": "pmpt_1"}),
        ("background", True),
        ("background_options", {"completion_window": "2h"}),
    ],
)
def test_a_field_that_reaches_stored_state_is_refused_by_name(field: str, value: Any) -> None:
    error = refusal(RESPONSES, {"input": "hi", field: value})
    assert (error.status, error.code, error.param) == (403, "not_allowed", field)
    assert f"'{field}'" in error.message


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt", "background"])
def test_the_same_field_as_null_or_false_is_no_reference(field: str) -> None:
    assert isolated(RESPONSES, {"input": "hi", field: None})
    assert isolated(RESPONSES, {"input": "hi", "background": False})


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "web_search"},
        {"type": "web_search_preview"},
        {"type": "computer_use_preview"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example"},
        {"type": "image_generation"},
        {"type": "local_shell"},
        {"type": "shell"},
        {"type": "apply_patch"},
        {"type": "namespace", "tools": [{"type": "mcp"}]},
        {"type": "something_new"},
        {},
        "mcp",
    ],
)
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
def test_hosted_tools_and_mcp_are_refused(endpoint: Endpoint, tool: Any) -> None:
    good = {"type": "function", "name": "f"}
    error = refusal(endpoint, {endpoint.content: [], "tools": [good, tool]})
    assert error.status == 403
    assert error.param == "tools[1].type"


def test_function_and_custom_tools_are_the_callers_own() -> None:
    # A parameter of a function may have any name: the schema refers to nothing at OpenAI.
    schema = {"type": "object", "properties": {"file_id": {"type": "string"}, "container": {"type": "string"}}}
    tools = [{"type": "function", "name": "read", "parameters": schema}, {"type": "custom", "name": "sql"}]
    assert isolated(RESPONSES, {"input": "hi", "tools": tools, "tool_choice": {"type": "function", "name": "read"}})


@pytest.mark.parametrize("choice", [{"type": "file_search"}, {"type": "mcp", "server_label": "x"}, {}])
def test_a_hosted_tool_cannot_be_chosen(choice: dict[str, Any]) -> None:
    assert refusal(RESPONSES, {"input": "hi", "tool_choice": choice}).param == "tool_choice.type"


@pytest.mark.parametrize(
    ("field", "value"), [("web_search_options", {}), ("audio", {"format": "wav", "voice": {"id": "voice_1"}})]
)
def test_hosted_work_in_chat_is_refused(field: str, value: Any) -> None:
    assert refusal(CHAT, {"messages": [], field: value}).param == field


@pytest.mark.parametrize(
    ("endpoint", "content", "path"),
    [
        (RESPONSES, [user({"type": "input_file", "file_id": "file-1"})], "input[0].content[0].file_id"),
        (RESPONSES, [user({"type": "input_image", "file_id": "file-1"})], "input[0].content[0].file_id"),
        (
            RESPONSES,
            [
                {
                    "type": "function_call_output",
                    "call_id": "c",
                    "output": [{"type": "input_image", "file_id": "file-1"}],
                }
            ],
            "input[0].output[0].file_id",
        ),
        (CHAT, [user({"type": "file", "file": {"file_id": "file-1"}})], "messages[0].content[0].file.file_id"),
        (CHAT, [{"role": "assistant", "audio": {"id": "audio_1"}}], "messages[0].audio"),
        (RESPONSES, [{"type": "item_reference", "id": "msg_1"}], "input[0].type"),
        (RESPONSES, [{"id": "msg_1"}], "input[0]"),
        (RESPONSES, [{"type": "reasoning", "id": "rs_1", "summary": []}], "input[0]"),
        (RESPONSES, [{"type": "compaction", "id": "cmp_1"}], "input[0]"),
        (RESPONSES, [{"type": "file_search_call", "id": "fs_1"}], "input[0].type"),
        (RESPONSES, [{"type": "code_interpreter_call", "container_id": "cntr_1"}], "input[0].type"),
        (RESPONSES, [{"type": "mcp_call", "id": "mcp_1"}], "input[0].type"),
        (RESPONSES, [{"type": "additional_tools", "tools": [{"type": "mcp"}]}], "input[0].type"),
    ],
)
def test_an_id_of_something_stored_is_refused_wherever_it_stands(
    endpoint: Endpoint, content: list[Any], path: str
) -> None:
    error = refusal(endpoint, {endpoint.content: content})
    assert (error.status, error.param) == (403, path)
    assert path in error.message


@given(st.sampled_from(sorted(REFERENCES)), st.lists(st.sampled_from(["list", "x", "content"]), max_size=8))
def test_no_depth_hides_a_reference(name: str, way: list[str]) -> None:
    node: Any = {name: "id_1"}
    for step in way:
        node = [node] if step == "list" else {step: node}
    assert refusal(RESPONSES, {"input": [{"role": "user", "content": [node]}]}).status == 403


@given(st.sampled_from(sorted(REFERENCES)), st.data(), st.booleans())
def test_no_spelling_and_no_length_hides_a_reference(name: str, data: st.DataObject, long: bool) -> None:
    escaped = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    spelt = "".join(f"\\u{ord(letter):04x}" if hidden else letter for letter, hidden in zip(name, escaped, strict=True))
    text = "x" * (100_000 if long else 1)
    body = f'{{"input": [{{"role": "user", "content": [{{"{spelt}": "id_1"}}, {{"text": "{text}"}}]}}]}}'.encode()
    with pytest.raises(ApiError, match="not allowed"):
        isolate.isolated(RESPONSES, orjson.loads(body), body)


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "yes"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"file_id": "mine"}'},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA", "file_id": None}],
        },
        {"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": "data:..."}]},
    ],
)
def test_what_lies_in_the_request_itself_passes(item: dict[str, Any]) -> None:
    assert isolated(RESPONSES, {"input": [item]})["input"] == [item]


def test_an_item_that_is_no_object_is_refused() -> None:
    assert refusal(RESPONSES, {"input": ["hi"]}).param == "input[0]"


def test_comparing_with_a_stored_answer_is_refused() -> None:
    document = {"input": "hi", "prompt_cache_options": {"comparison_response_id": "resp_1"}}
    assert refusal(RESPONSES, document).param == "prompt_cache_options.comparison_response_id"


def test_a_cache_lifetime_without_a_price_is_refused() -> None:
    document = {"input": "hi", "prompt_cache_options": {"ttl": "12h"}}
    assert refusal(RESPONSES, document).param == "prompt_cache_options.ttl"
    assert isolated(RESPONSES, {"input": "hi", "prompt_cache_options": {"ttl": "30m"}})["input"] == "hi"


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
@pytest.mark.parametrize("asked", [True, False, None])
def test_nothing_is_ever_stored(endpoint: Endpoint, asked: bool | None) -> None:
    assert isolated(endpoint, {endpoint.content: [], "store": asked})["store"] is False


def test_endpoints_that_store_nothing_are_left_alone() -> None:
    document = {"model": "embed", "input": "hi"}
    assert isolated(EMBEDDINGS, document) == document
