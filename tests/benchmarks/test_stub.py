"""The stub answers what it is said to answer."""

import json

from benchmarks.stub import ANSWER_BYTES, CHUNKS, answer_body, stream_events


def test_a_whole_answer_is_a_chat_completion_of_662_bytes() -> None:
    body = answer_body()
    assert len(body) == ANSWER_BYTES == 662
    document = json.loads(body)
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["total_tokens"] == 100


def test_a_stream_is_42_events_that_end_with_the_usage() -> None:
    events = stream_events()
    assert len(events) == CHUNKS == 42
    assert all(event.startswith(b"data: {") and event.endswith(b"}\n\n") for event in events)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 41
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 40
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
