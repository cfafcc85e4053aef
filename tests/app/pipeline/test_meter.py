from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.models import Usage
from app.pipeline.endpoints import CHAT, EMBEDDINGS, MODERATIONS, RESPONSES
from app.pipeline.meter import ChatMeter, ResponsesMeter, StreamMeter, is_complete, read_usage, stream_meter, usage_of
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


@pytest.mark.parametrize("choices", [None, [], 1, {"0": {}}, ["stop"], [{"finish_reason": ["stop"]}], [{}]])
def test_choices_that_make_no_sense_are_no_complete_answer(choices: object) -> None:
    assert is_complete(CHAT, {"choices": choices}) is False


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


def chat_chunk(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [choice], "usage": None, **more}


def response_delta(text: str, **more: Any) -> dict[str, Any]:
    kind = "response.output_text.delta"
    number = more.pop("number")
    return {"type": kind, "sequence_number": number, "item_id": "msg_1", "delta": text, "logprobs": [], **more}


@pytest.mark.parametrize("padding", [{}, {"obfuscation": "aB3"}], ids=["bare", "filled up"])
@pytest.mark.parametrize("text", [" word", "é", "\n", '"', "\\", "\x00", "", '"}', "~", "x" * 3_000])
def test_of_text_like_the_last_only_the_text_is_read(text: str, padding: dict[str, str]) -> None:
    chat, responses = ChatMeter(hides_usage=True), ResponsesMeter()
    size = len(text.encode())
    piece = sse.write(orjson.dumps(chat_chunk(text, **padding)))
    for number, word in enumerate(("first", " second")):
        assert not chat.more(piece)
        assert chat.see(*event(chat_chunk(word, **padding)))
        assert responses.see(*event(response_delta(word, number=number, **padding), "response.output_text.delta"))
    assert chat.more(piece)
    assert chat.output_bytes == 12 + size
    for number in (2, 4, 3):  # the next, one that is too early, and the next again
        data = orjson.dumps(response_delta(text, number=number, **padding))
        assert responses.more(sse.write(data, "response.output_text.delta")) is (number != 4)
    assert responses.output_bytes == 12 + 2 * size
    assert responses.error_event("code", "why")[1]["sequence_number"] == 4


def test_where_other_fields_say_the_same_as_the_text_they_are_not_taken_for_it() -> None:
    meter = ChatMeter(hides_usage=True)
    for _ in range(2):
        assert meter.see(*event(chat_chunk("word", system_fingerprint="word")))
    for text, name in (("word", "longer"), ("longer", "word"), ("longer", "longer")):
        piece = sse.write(orjson.dumps(chat_chunk(text, system_fingerprint=name)))
        before = meter.output_bytes
        assert meter.more(piece) or meter.see(*sse.read(piece))
        assert meter.output_bytes - before == len(text)


def test_data_in_several_lines_is_read_whole() -> None:
    meter = ChatMeter(hides_usage=True)
    raw = sse.write(orjson.dumps(chat_chunk("word")))
    for _ in range(3):
        lines = raw.replace(b",", b",\ndata: ", 1)
        assert not meter.more(lines)
        assert meter.see(*sse.read(lines))
    assert not meter.more(raw.replace(b",", b",\n", 1)), "its second line is no data"


def test_what_the_last_event_says_of_the_answer_counts() -> None:
    meter = ChatMeter(hides_usage=True)
    for _ in range(2):
        meter.see(*event(chat_chunk("word")))
    meter.see(*event({"id": "other", "choices": []}))
    assert meter.answer["id"] == "other"
    assert meter.more(sse.write(orjson.dumps(chat_chunk(" more"))))
    assert meter.answer["id"] == "chatcmpl-1"


def test_a_choice_that_goes_on_after_its_end_is_not_read_the_short_way() -> None:
    meter = ChatMeter(hides_usage=True)
    for _ in range(2):
        meter.see(*event(chat_chunk("word")))
    piece = sse.write(orjson.dumps(chat_chunk(" more")))
    assert meter.more(piece)
    meter.see(*event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    assert not meter.more(piece)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw.replace(old, new, 1)


TWICE, WITHIN = b'"twice","content":"', b'a","error":{"code":"e"},"sequence_number":7,"x":"'
UNUSUAL: list[Callable[[bytes], bytes]] = [
    lambda raw: raw.replace(b":", b": "),
    lambda raw: raw.replace(b"\n", b"\r\n"),
    lambda raw: raw.replace(b"o", b"\\u006f"),
    lambda raw: b"event: other\n" + raw,
    replaced(b'{"', b'{\ndata: "'),
    replaced(b'{"', b'{\n"'),
    replaced(b'"obfuscation":"', b'"obfuscation":"' + WITHIN),
    replaced(b'"content":"', b'"content":"' + TWICE),
    replaced(b'"delta":"', b'"delta":"twice","delta":"'),
    replaced(b'"delta":"', b'"delta":\n"'),
    replaced(b"}\n\n", b',"choices":[]}\n\n'),
    replaced(b"}\n\n", b',"type":"response.completed"}\n\n'),
    replaced(b"chatcmpl-1", b"other"),
    replaced(b"null", b"1"),
    replaced(b'"finish_reason":null', b'"finish_reason":"stop"'),
    replaced(b'"index":0', b'"index":1'),
]
"""What may be wrong with an event, or only unusual about it."""
WORDS = st.sampled_from(["word", "aB3", "m", "", "~", "é", "\n", '","content":"']) | st.text(max_size=8)
PADDING = st.sampled_from(["aB3", "word", "m", "", "é", None]) | st.text("aB3", max_size=3)


@pytest.mark.parametrize("asked", [True, False])
def test_a_chat_that_is_cut_ends_every_choice_that_runs_and_tells_its_usage_to_who_asked(asked: bool) -> None:
    meter = ChatMeter(hides_usage=not asked)
    for index, reason in ((0, None), (1, None), (2, None), (0, None), (1, "stop")):
        choice = {"index": index, "delta": {"content": "x"}, "finish_reason": reason}
        meter.see("", orjson.dumps({"id": "chatcmpl-1", "model": "m", "choices": [choice]}))
    (_, cut), *usage, last = meter.cut_events("budget", USAGE)
    assert cut is not None
    assert [(choice["index"], choice["finish_reason"]) for choice in cut["choices"]] == [(0, "length"), (2, "length")]
    assert cut["incomplete_details"] == {"reason": "budget"}
    counts = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107, "estimated": True}
    told = {"id": "chatcmpl-1", "model": "m", "object": "chat.completion.chunk", "choices": [], "usage": counts}
    assert usage == ([("", told)] if asked else [])
    assert last == ("", None)


def test_a_chat_that_is_cut_before_its_first_choice_ends_one() -> None:
    (_, cut), *_ = ChatMeter(hides_usage=True).cut_events("budget", USAGE)
    assert cut is not None
    assert [choice["index"] for choice in cut["choices"]] == [0]


def outcome(take: Callable[[], bool], meter: StreamMeter) -> list[Any]:
    """What a meter says, and knows after it."""
    try:
        said: object = take()
    except (ValueError, TypeError, AttributeError) as error:
        said = (ValueError, TypeError, AttributeError)[
            isinstance(error, TypeError) + 2 * isinstance(error, AttributeError)
        ]
    known = [meter.usage, meter.output_bytes, meter.ended, meter.error_code, meter.complete]
    return [said, *known, meter.error_event("code", "why"), meter.cut_events("budget", USAGE)]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([CHAT, RESPONSES]), st.booleans(), st.sampled_from([bytes, *UNUSUAL]), st.integers(2, 12), st.data()
)
def test_a_stream_read_the_short_way_means_what_reading_all_of_it_says(
    endpoint: Any, padded: bool, style: Callable[[bytes], bytes], events: int, data: st.DataObject
) -> None:
    short, whole = (stream_meter(endpoint, hides_usage=True) for _ in range(2))
    for number in range(events):
        word = data.draw(WORDS)
        more: dict[str, Any] = {"obfuscation": data.draw(PADDING)} if padded else {}
        more["system_fingerprint"] = "word" if data.draw(st.integers(0, 5)) else "other"
        more |= {} if data.draw(st.integers(0, 5)) else {"usage": CHAT_USAGE, "error": None, "sequence_number": word}
        if endpoint is CHAT:
            raw = sse.write(orjson.dumps(chat_chunk(word, **more)))
        else:
            document = {**response_delta(word, number=number), **more}
            raw = sse.write(orjson.dumps(document), "response.output_text.delta")
        raw = style(raw) if data.draw(st.integers(0, 3)) else data.draw(st.sampled_from(UNUSUAL))(raw)
        if not data.draw(st.integers(0, 7)):
            at = data.draw(st.integers(0, len(raw)))
            raw = raw[:at] + data.draw(st.binary(max_size=2)) + raw[at + data.draw(st.integers(0, 2)) :]
        for one in sse.Splitter().feed(raw):
            one_way = outcome(lambda one=one: short.more(one) or short.see(*sse.read(one)), short)  # type: ignore[misc]
            assert one_way == outcome(lambda one=one: whole.see(*sse.read(one)), whole)  # type: ignore[misc]
