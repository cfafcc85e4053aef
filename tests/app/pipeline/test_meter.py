from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import Usage
from app.pipeline.endpoints import CHAT, EMBEDDINGS, MODERATIONS, RESPONSES
from app.pipeline.meter import ChatMeter, ResponsesMeter, is_complete, read_usage, stream_meter, usage_of
from app.upstream import sse

RESPONSES_USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
    "output_tokens": 7,
    "total_tokens": 107,
}
CHAT_USAGE = {
    "prompt_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
    "completion_tokens": 7,
    "total_tokens": 107,
}
USAGE = Usage(input_tokens=100, cached_tokens=40, cache_write_tokens=10, output_tokens=7)


def event(data: Any, name: str = "") -> sse.Event:
    return sse.Event(name, data if isinstance(data, bytes) else orjson.dumps(data))


@pytest.mark.parametrize("usage", [RESPONSES_USAGE, CHAT_USAGE])
def test_both_ways_of_writing_usage_are_read(usage: dict[str, Any]) -> None:
    assert read_usage(usage) == USAGE


def test_an_embedding_has_input_alone() -> None:
    usage = {"usage": {"prompt_tokens": 5, "total_tokens": 5}}
    assert usage_of(EMBEDDINGS, usage) == Usage(5, 0, 0, 0)


def test_a_moderation_is_free_and_an_answer_without_usage_is_unknown() -> None:
    assert usage_of(MODERATIONS, {}) == Usage(0, 0, 0, 0)
    assert usage_of(RESPONSES, {}) is None


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x), max_leaves=8))
def test_any_usage_object_is_read_or_unknown(usage: Any) -> None:
    found = read_usage({"input_tokens": usage, "input_tokens_details": usage})
    assert found is None or found.input_tokens == usage


@pytest.mark.parametrize(
    ("status", "complete"), [("completed", True), ("incomplete", False), ("failed", False), (None, False)]
)
def test_only_a_completed_response_is_complete(status: str | None, complete: bool) -> None:
    assert is_complete(RESPONSES, {"status": status, "output": []}) is complete


@pytest.mark.parametrize(
    ("reasons", "complete"),
    [(["stop"], True), (["tool_calls"], True), (["stop", "length"], False), (["content_filter"], False), ([], False)],
)
def test_only_a_chat_whose_every_choice_ended_is_complete(reasons: list[str], complete: bool) -> None:
    assert is_complete(CHAT, {"choices": [{"finish_reason": reason} for reason in reasons]}) is complete


def test_a_responses_stream_is_metered_to_its_end() -> None:
    meter = ResponsesMeter()
    assert meter.see(*event({"type": "response.created", "sequence_number": 0, "response": {}}))
    assert meter.see(*event({"type": "response.output_text.delta", "sequence_number": 1, "delta": "hé"}))
    assert (meter.output_bytes, meter.ended) == (3, False)
    last = {"type": "response.completed", "sequence_number": 2, "response": {"usage": RESPONSES_USAGE}}
    assert meter.see(*event(last))
    assert (meter.usage, meter.ended, meter.error_code) == (USAGE, True, None)


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ({"type": "error", "code": "server_error", "message": "x"}, "server_error"),
        ({"type": "error"}, "error"),
        ({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}, "rate_limit_exceeded"),
        ({"type": "response.failed", "response": {"error": None}}, "response.failed"),
        ({"type": "response.incomplete", "response": {"usage": RESPONSES_USAGE}}, None),
    ],
)
def test_a_responses_stream_says_itself_how_it_failed(last: dict[str, Any], code: str | None) -> None:
    meter = ResponsesMeter()
    assert meter.see(*event(last))
    assert (meter.ended, meter.error_code) == (True, code)


def test_the_error_event_of_responses_goes_on_with_the_numbers() -> None:
    meter = ResponsesMeter()
    meter.see(*event({"type": "response.created", "sequence_number": 4}))
    name, data = meter.error_event("upstream_incomplete", "cut")
    assert name == data["type"] == "error"
    assert data == {
        "type": "error",
        "sequence_number": 5,
        "code": "upstream_incomplete",
        "message": "cut",
        "param": None,
    }


def test_a_chat_stream_is_metered_to_done() -> None:
    meter = ChatMeter(hides_usage=True)
    assert meter.see(*event({"choices": [{"delta": {"content": "hé"}}], "usage": None}))
    call = {"tool_calls": [{"function": {"arguments": "{}"}}, {"custom": {"input": "abc"}}]}
    assert meter.see(*event({"choices": [{"delta": call}]}))
    assert meter.output_bytes == 8
    assert meter.see(*event({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    assert not meter.ended
    assert not meter.see(*event({"choices": [], "usage": CHAT_USAGE}))
    assert meter.see(*event(b"[DONE]"))
    assert (meter.usage, meter.ended, meter.error_code) == (USAGE, True, None)


def test_the_usage_chunk_reaches_who_asked_for_it() -> None:
    assert stream_meter(CHAT, hides_usage=False).see(*event({"choices": [], "usage": CHAT_USAGE}))


def test_a_chunk_with_choices_is_never_hidden() -> None:
    assert ChatMeter(hides_usage=True).see(*event({"choices": [{"delta": {}}], "usage": CHAT_USAGE}))


def test_an_error_ends_a_chat_stream() -> None:
    meter = ChatMeter(hides_usage=True)
    assert meter.see(*event({"error": {"code": None, "type": "server_error"}}))
    assert (meter.ended, meter.error_code) == (True, "server_error")


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b"<html>"])
def test_data_that_is_no_json_object_is_refused(endpoint: Any, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        stream_meter(endpoint, hides_usage=False).see(*event(data))


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
def test_a_comment_says_nothing(endpoint: Any) -> None:
    assert stream_meter(endpoint, hides_usage=True).see(*sse.Event("", b""))
