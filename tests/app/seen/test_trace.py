"""Every request is a step of a trace: its caller's when that is one, else of a new one."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability import trace
from local.openai.server import Running
from tests.app.replica import Replica

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
REQUEST_ID = "req_" + "7" * 32
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


def begun(*parents: str, state: str | None = None) -> trace.Trace:
    headers = [(b"traceparent", parent.encode("latin-1", "replace")) for parent in parents]
    headers += [] if state is None else [(b"tracestate", state.encode())]
    return trace.begin(headers, REQUEST_ID, sampled=False)


@pytest.mark.parametrize("parent", [PARENT, f" {PARENT} ", f"01-{TRACE}-{SPAN}-09-later", f"cc-{TRACE}-{SPAN}-01"])
def test_a_callers_trace_goes_on_as_a_new_step(parent: str) -> None:
    step = begun(parent)
    assert (step.trace_id, step.parent_id, step.sampled) == (TRACE, SPAN, True)
    assert step.span_id != SPAN
    assert FORM.fullmatch(step.header)
    assert not begun(f"00-{TRACE}-{SPAN}-00").sampled


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01.later",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}_-{SPAN}-01",
        f"00-{TRACE[:-1]} -{SPAN}-01",
        f"00_{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1x",
    ],
)
def test_what_is_no_trace_begins_one_that_the_request_id_leads_to(parent: str) -> None:
    step = begun(parent)
    assert (step.trace_id, step.parent_id) == ("7" * 32, None)


def test_two_parents_are_none() -> None:
    assert begun(PARENT, PARENT).parent_id is None


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=70) | st.just(PARENT), max_size=3), st.text())
def test_any_headers_give_a_well_formed_step(parents: list[str], state: str) -> None:
    step = begun(*parents, state=state)
    assert FORM.fullmatch(step.header)
    assert len(step.state) <= trace.MAX_STATE_CHARACTERS
    trace.valid_state(step.state)


def test_an_id_of_another_form_is_no_part_of_a_trace() -> None:
    assert FORM.fullmatch(trace.new("req_short", sampled=True).header)


def test_a_step_inside_keeps_the_trace_and_names_who_asked() -> None:
    outer = begun(PARENT, state="vendor=1")
    inner = outer.child()
    assert (inner.trace_id, inner.parent_id, inner.flags, inner.state) == (TRACE, outer.span_id, 1, "vendor=1")
    assert inner.span_id not in (outer.span_id, SPAN)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("a=1, , b@c=2,", "a=1,b@c=2"),
        ("A=1", ""),
        ("a=1,a=2", ""),
        ("a", ""),
        ("a=", ""),
        ("a=x\x7f", ""),
        (",".join(f"k{number}=v" for number in range(33)), ""),
        ("", ""),
    ],
)
def test_a_tracestate_is_kept_whole_or_not_at_all(state: str, kept: str) -> None:
    assert trace.valid_state(state) == kept


def test_a_tracestate_in_several_headers_is_one_and_an_endless_one_is_none() -> None:
    headers = [(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    assert trace.begin(headers, REQUEST_ID, sampled=False).state == "a=1,b=2"
    assert begun(PARENT, state="a=" + "x" * 511).state == ""


@pytest.mark.process
@pytest.mark.parametrize("body", [{"input": "Hi"}, {"input": "Hi", "stream": True}, {"input": 7}], ids=str)
def test_answers_streams_and_refusals_name_their_step_and_openai_hears_nothing_of_it(
    gateway: Replica, upstream: Running, key: str, body: dict[str, object]
) -> None:
    upstream.reset()
    headers = {"authorization": f"Bearer {key}", "traceparent": PARENT, "tracestate": "vendor=1"}
    content = json.dumps({"model": "fast", **body}).encode()
    _, answered, _ = gateway.send("POST", "/v1/responses", content, headers | {"cache-control": "no-store"})
    line = gateway.line_of(answered["x-request-id"])
    assert (line["trace_id"], line["parent_span_id"]) == (TRACE, SPAN)
    assert answered["traceparent"] == f"00-{TRACE}-{line['span_id']}-01"
    for call in upstream.requests():
        assert {"traceparent", "tracestate"} & {name.lower() for name in call["headers"]} == set()
        assert TRACE not in json.dumps(call)


@pytest.mark.process
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/models", 200), ("GET", "/documents", 200), ("GET", "/nothing", 404), ("POST", "/v1/files", 404)],
)
def test_every_path_answers_with_its_trace(gateway: Replica, key: str, method: str, path: str, status: int) -> None:
    got, answered, _ = gateway.send(method, path, headers={"authorization": f"Bearer {key}"})
    assert got == status
    assert answered["traceparent"].split("-")[1] == answered["x-request-id"].removeprefix("req_")
    assert FORM.fullmatch(answered["traceparent"])
