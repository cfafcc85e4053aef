"""A Responses stream cut at a stop sequence is, event by event, one that ended there by itself."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from app.pipeline.cut import Cutter
from app.upstream import sse

USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "estimated": True}
WHERE = {"output_index": 1, "item_id": "msg_1", "content_index": 0}
STOP = ("END", "\n\n")


def events(pieces: list[str], end: str = "response.completed") -> list[bytes]:
    """A stream as OpenAI writes it: some reasoning, then a message in these pieces."""
    text = "".join(pieces)
    begun: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "in_progress", "output": [], "usage": None}
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    whole = message | {"status": "completed", "content": [part]}
    documents: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": reasoning},
        {"type": "response.output_item.done", "output_index": 0, "item": reasoning},
        {"type": "response.output_item.added", "output_index": 1, "item": message},
        {"type": "response.content_part.added", "part": part | {"text": ""}, **WHERE},
        *({"type": "response.output_text.delta", "delta": piece, "logprobs": [], **WHERE} for piece in pieces),
        {"type": "response.output_text.done", "text": text, **WHERE},
        {"type": "response.content_part.done", "part": part, **WHERE},
        {"type": "response.output_item.done", "output_index": 1, "item": whole},
        {"type": end, "response": begun | {"status": end.rpartition(".")[2], "output": [reasoning, whole]}},
    ]
    numbered = ({**document, "sequence_number": number} for number, document in enumerate(documents))
    return [sse.write(orjson.dumps(document), document["type"]) for document in numbered]


def cut(raw: list[bytes], stop: tuple[str, ...] = STOP) -> tuple[Cutter, bytes]:
    cutter = Cutter(stop, lambda: USAGE)
    return cutter, b"".join(map(cutter.feed, raw))


def read(flow: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(sse.read(raw).data) for raw in sse.Splitter().feed(flow)]


def text_of(documents: list[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in documents if each["type"] == "response.output_text.delta")


def test_without_a_match_every_byte_passes_as_it_came() -> None:
    raw = events(["Hello", " wor", "ld."])
    assert cut(raw)[1] == b"".join(raw)


@pytest.mark.parametrize("pieces", [["one END two"], ["one ", "E", "N", "D", " two"], ["one E", "ND two"], ["one END"]])
def test_a_cut_answer_ends_in_order(pieces: list[str]) -> None:
    cutter, flow = cut(events(pieces))
    documents = read(flow)
    assert text_of(documents) == "one "
    assert [each["sequence_number"] for each in documents] == list(range(len(documents)))
    assert [each["type"] for each in documents][-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert documents[-4]["text"] == documents[-3]["part"]["text"] == "one "
    response = documents[-1]["response"]
    assert (response["status"], response["usage"]) == ("completed", USAGE)
    assert [item["id"] for item in response["output"]] == ["rs_1", "msg_1"]
    assert response["output"][1] == documents[-2]["item"]
    assert Response.model_construct(**response).output is not None
    assert cutter.response == response
    assert cutter.feed(events(["x"])[6]) == b"", "nothing follows the end"


@given(st.lists(st.sampled_from(["a", "E", "N", "D", "\n", "EN", "ND\n", "é"]), min_size=1, max_size=12))
def test_the_caller_gets_the_same_text_however_it_was_split(pieces: list[str]) -> None:
    whole = "".join(pieces)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in STOP if stop in whole]
    expected = whole[: min(ends)[1]] if ends else whole
    cutter, flow = cut(events(pieces))
    documents = read(flow)
    assert cutter.cut is bool(ends)
    assert text_of(documents) == expected
    done = [each for each in documents if each["type"] == "response.output_text.done"]
    assert [each["text"] for each in done] == [expected]
    assert [each["sequence_number"] for each in documents] == list(range(len(documents)))


def test_text_that_only_looked_like_a_beginning_comes_before_the_end_of_its_part() -> None:
    documents = read(cut(events(["good E", "N"], "response.incomplete"))[1])
    assert text_of(documents) == "good EN"
    kinds = [each["type"] for each in documents]
    assert kinds.index("response.output_text.done") > max(
        at for at, kind in enumerate(kinds) if kind == "response.output_text.delta"
    )
    assert documents[-1]["response"]["status"] == "incomplete"


def test_a_function_call_is_never_cut() -> None:
    arguments = {"type": "response.function_call_arguments.delta", "sequence_number": 0, "delta": "END"}
    raw = sse.write(orjson.dumps(arguments), "response.function_call_arguments.delta")
    assert cut([raw])[1] == raw


def test_each_part_is_searched_for_itself() -> None:
    first = events(["E"])[6]
    second = orjson.loads(sse.read(events(["ND"])[6]).data) | {"content_index": 1}
    cutter, flow = cut([first, sse.write(orjson.dumps(second), second["type"])])
    assert not cutter.cut
    assert text_of(read(flow)) == "END"


def test_comments_and_failures_pass() -> None:
    cutter = Cutter(STOP, lambda: USAGE)
    assert cutter.feed(sse.HEARTBEAT) == sse.HEARTBEAT
    [error] = read(cutter.error("upstream_incomplete", "cut"))
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "upstream_incomplete", 0)
