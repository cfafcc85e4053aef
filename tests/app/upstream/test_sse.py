from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream import sse

ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.lists(st.text("abcdefg: {}", min_size=1).map(str.encode), min_size=1, max_size=4)


@st.composite
def flows(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Whole events and a tail without its end."""
    events = []
    for lines in draw(st.lists(LINES, max_size=5)):
        ending = draw(ENDINGS)
        events.append(ending.join(lines) + ending + ending)
    return events, draw(st.sampled_from([b"", b"data: half", b"data: half\n"]))


@given(flows(), st.lists(st.integers(1, 7), min_size=1))
def test_events_are_the_same_however_the_flow_is_cut(flow: tuple[list[bytes], bytes], sizes: list[int]) -> None:
    events, tail = flow
    whole = b"".join(events) + tail
    splitter = sse.Splitter()
    found = []
    at = turn = 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        found += splitter.feed(whole[at : at + size])
        at, turn = at + size, turn + 1
    read = [sse.read(raw) for raw in found if raw.strip()]
    assert read == [sse.read(raw) for raw in events if raw.strip()]


@given(flows())
def test_no_byte_is_changed_and_only_the_tail_is_kept_back(flow: tuple[list[bytes], bytes]) -> None:
    events, tail = flow
    whole = b"".join(events) + tail
    splitter = sse.Splitter()
    passed = b"".join(splitter.feed(whole))
    assert whole.startswith(passed)
    assert len(splitter.unfinished) == len(whole) - len(passed)


def test_an_event_is_read_by_name_and_data_lines() -> None:
    raw = b"event: response.created\r\ndata: {\r\ndata:  }\r\n\r\n"
    assert sse.read(raw) == sse.Event("response.created", b"{\n }")


def test_a_comment_is_no_event() -> None:
    assert sse.read(sse.HEARTBEAT) == sse.Event("", b"")
    [raw] = sse.Splitter().feed(sse.HEARTBEAT)
    assert raw == sse.HEARTBEAT


@given(st.text("abc.", max_size=10), st.binary(max_size=50).map(lambda data: data.hex().encode()))
def test_what_is_written_is_read_back(name: str, data: bytes) -> None:
    [raw] = sse.Splitter().feed(sse.write(data, name))
    assert sse.read(raw) == sse.Event(name, data)


TOKENS = [b"data: ", b"event: ", b"id: ", b"x", b"\n", b"\n\n", b"\r", b" "]


@given(st.lists(st.sampled_from(TOKENS), max_size=9).map(b"".join), st.sampled_from([b"", b"\n\n"]))
def test_what_is_read_at_one_look_is_one_whole_event_and_read_as_any_other(start: bytes, end: bytes) -> None:
    piece = start + end
    found = sse.plain(piece)
    if found is None:
        return
    assert sse.Splitter().feed(piece) == [piece]
    fields = [line.split(b": ", 1) for line in piece.splitlines() if line]
    names = [value.decode() for name, value in fields if name == b"event"]
    assert found == ("".join(names), b"\n".join(value for name, value in fields if name == b"data"))
    assert len(names) <= 1


@pytest.mark.parametrize("name", ["", "response.completed"])
def test_an_event_as_openai_writes_it_is_read_at_one_look(name: str) -> None:
    assert sse.plain(sse.write(b"{}", name)) == (name, b"{}")


def test_an_event_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    splitter = sse.Splitter(max_event_bytes=10)
    splitter.feed(b"data: 1234")
    with pytest.raises(sse.EventTooLargeError):
        splitter.feed(b"5")
