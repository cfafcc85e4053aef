"""Requests of constant length and answers read however they are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._http import AnswerReader, dechunked, request_length, template

MARK = b"#" * 16
WHOLE = b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-LENGTH: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"c\r\ndata: [DONE]\r\n" + b"0\r\n\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_requests_differ_in_their_serial_and_in_nothing_else() -> None:
    made = template("/v1/x", {"A": "b"}, b'{"q":"' + MARK + b'"}', MARK)
    first, second = made.request(1), made.request(2**63)
    assert len(first) == len(second)
    assert first.replace(b"%016x" % 1, b"") == second.replace(b"%016x" % 2**63, b"")
    head, body = first.split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\n")
    assert request_length(head) == len(body) == 24


@pytest.mark.parametrize("body", [b"{}", MARK + MARK])
def test_a_body_without_one_place_for_the_serial_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the mark must stand in the body once"):
        template("/", {}, body, MARK)


@given(st.sampled_from([WHOLE, STREAM]), st.lists(st.integers(0, 200)))
def test_an_answer_is_whole_at_its_last_byte_however_it_is_cut(answer: bytes, cuts: list[int]) -> None:
    reader = AnswerReader()
    told = [reader.feed(piece) for piece in pieces(answer, cuts)]
    assert told == [False] * (len(told) - 1) + [True]
    assert reader.status == 200
    assert reader.ended == (answer is STREAM)


def test_a_stream_without_its_end_mark_is_whole_but_not_ended() -> None:
    reader = AnswerReader()
    assert reader.feed(STREAM.replace(b"[DONE]", b"[LOST]"))
    assert not reader.ended


def test_an_answer_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a length nor chunks"):
        AnswerReader().feed(b"HTTP/1.1 200 OK\r\n\r\n")


@given(st.lists(st.binary(min_size=1, max_size=40)), st.binary(max_size=20))
def test_a_chunked_request_is_put_together_and_what_follows_it_is_kept(parts: list[bytes], after: bytes) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert dechunked(sent + after) == (b"".join(parts), after)
    assert all(dechunked(sent[:end]) is None for end in range(len(sent)))


def test_the_length_of_a_request_is_its_header_or_nothing_or_chunks() -> None:
    assert request_length(b"GET / HTTP/1.1\r\nContent-Length: 12\r\nA: b") == 12
    assert request_length(b"GET / HTTP/1.1\r\nA: b") == 0
    assert request_length(b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked") is None
