"""Whatever a caller sends is answered or refused in OpenAI's shape, and never counts as our failure."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.bound import MAX_DEPTH, read_bounded
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import CHAT, EMBEDDINGS, ENDPOINTS, RESPONSES, Endpoint, JsonTypes
from app.pipeline.isolate import isolated
from tests.app.replica import Replica
from tests.patience import PATIENCE_SECONDS

MODELS = Models(default_document())
JSON = {"content-type": "application/json"}
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=12)
# Words that steps of the pipeline look for, so that examples get past the first check.
WORDS = st.sampled_from(
    [
        "type",
        "role",
        "user",
        "content",
        "message",
        "function",
        "reasoning",
        "id",
        "file_id",
        "image_url",
        "ttl",
        "text",
        "allowed_tools",
        "include_usage",
        "format",
        "schema",
        "arguments",
        "compaction",
        "encrypted_content",
        "audio",
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
_OF_TYPE: Mapping[str, st.SearchStrategy[Any]] = {
    "string": WORDS | st.sampled_from(["fast", "default", "30m", "auto"]) | st.text(max_size=9),
    "integer": st.integers(-2, 5) | st.integers(-(2**63), 2**64 - 1),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "array": st.lists(VALUES, max_size=4),
    "object": st.dictionaries(WORDS | st.text(max_size=4), VALUES, max_size=4),
}


def of_types(types: JsonTypes) -> st.SearchStrategy[Any]:
    """Values that the first check lets pass."""
    return st.none() | st.one_of([_OF_TYPE[name] for name in sorted(types)])


@st.composite
def requests(draw: st.DrawFn) -> tuple[Endpoint, dict[str, Any]]:
    """A body of known fields with values of the right types, whatever is in them."""
    endpoint = draw(st.sampled_from(list(ENDPOINTS.values())))
    names = draw(st.sets(st.sampled_from(sorted(endpoint.fields)), max_size=6)) - {"model"}
    body = {name: draw(of_types(endpoint.fields[name])) for name in sorted(names | {endpoint.content})}
    model = {"text": "fast", "embedding": "text-embedding-3-small", "moderation": "omni-moderation-latest"}
    return endpoint, {"model": model[endpoint.kind], **body}


def refusal_or_payload(endpoint: Endpoint, body: bytes) -> ApiError | bytes:
    try:
        return make_plan(endpoint, isolated(endpoint, read_bounded(endpoint, body, JSON), body), MODELS).payload
    except ApiError as error:
        return error


@given(requests())
@example((RESPONSES, {"model": "fast", "input": "hi", "tools": [{"type": []}]}))
@example((RESPONSES, {"model": "fast", "input": [{"type": {}}]}))
@example((CHAT, {"model": "fast", "messages": [], "tool_choice": {"type": ["function"]}}))
@example((CHAT, {"model": "fast", "messages": [], "n": 2**64 - 1}))
@example((EMBEDDINGS, {"model": "text-embedding-3-small", "input": [[[]]]}))
def test_any_values_of_known_fields_become_a_plan_or_a_refusal(request_: tuple[Endpoint, dict[str, Any]]) -> None:
    endpoint, body = request_
    got = refusal_or_payload(endpoint, orjson.dumps(body))
    if isinstance(got, ApiError):
        assert 400 <= got.status < 500
        assert got.message
        assert set(orjson.loads(got.body())["error"]) == {"message", "type", "param", "code"}
    else:
        assert orjson.loads(got)[endpoint.content] == body[endpoint.content]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"fast","input":"hi","max_output_tokens":' + b"9" * 400 + b"}",
        b'{"model":"fast","input":"hi","temperature":1e400}',
        b'{"model":"fast","input":"hi","temperature":NaN}',
        b'{"model":"fast","input":"\\ud800"}',
        b'{"model":"fast","input":"\xed\xa0\x80"}',
        b'{"model":"fast","input":"\\u0000","user":"\\u0000"}',
        b'{"model":"fast","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"fast","input":' + b'[{"a":' * (MAX_DEPTH + 1) + b"1" + b"}]" * (MAX_DEPTH + 1) + b"}",
        b"\xef\xbb\xbf" + b'{"model":"fast","input":"hi"}',
        b'{"model":"fast","input":"hi"}{}',
        b'"' * 50_000,
        b"",
    ],
    ids=lambda body: repr(body[-40:]),
)
def test_numbers_depth_surrogates_and_marks_that_no_parser_agrees_on(body: bytes) -> None:
    got = refusal_or_payload(RESPONSES, body)
    assert isinstance(got, bytes) or got.status == 400


def test_of_a_doubled_field_only_what_was_checked_is_sent() -> None:
    body = b'{"model":"fast","input":"hi","store":true,"previous_response_id":"resp_1","previous_response_id":null}'
    payload = refusal_or_payload(RESPONSES, body)
    assert isinstance(payload, bytes)
    assert b"resp_1" not in payload
    assert orjson.loads(payload)["store"] is False


def post(gateway: Replica, key: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    status, _, answer = gateway.send("POST", path, body, sent)
    return status, answer


def check_answer(status: int, answer: bytes) -> None:
    assert status < 500, answer
    if status >= 400:
        assert set(json.loads(answer)["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.process
@settings(max_examples=150)
@given(request_=requests())
def test_any_values_come_back_as_an_answer_or_a_refusal_over_http(
    gateway: Replica, key: str, request_: tuple[Endpoint, dict[str, Any]]
) -> None:
    endpoint, body = request_
    check_answer(*post(gateway, key, endpoint.path, orjson.dumps(body)))


@pytest.mark.process
@settings(max_examples=150)
@given(path=st.sampled_from([*ENDPOINTS, "/ask", "/documents"]), body=st.binary(max_size=300))
def test_any_bytes_come_back_as_a_refusal_over_http(gateway: Replica, key: str, path: str, body: bytes) -> None:
    status, answer = post(gateway, key, path, body)
    check_answer(status, answer)
    assert status >= 400


HEADER_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=80)


@pytest.mark.process
@settings(max_examples=150)
@given(
    name=st.sampled_from(
        [
            "authorization",
            "content-type",
            "x-prodkit-priority",
            "traceparent",
            "tracestate",
            "cache-control",
            "accept",
            "cookie",
            "expect",
            "openai-organization",
            "x-amzn-trace-id",
            "idempotency-key",
            "x-forwarded-for",
        ]
    ),
    value=HEADER_VALUES,
)
def test_any_header_comes_back_as_an_answer_or_a_refusal(gateway: Replica, key: str, name: str, value: str) -> None:
    check_answer(*post(gateway, key, "/v1/responses", b'{"model":"fast","input":7}', **{name: value.strip()}))


METHODS = st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "POST"])
PATHS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=40)


@pytest.mark.process
@settings(max_examples=150)
@given(method=METHODS, path=PATHS.map("/{}".format) | PATHS.map("/v1/{}".format) | PATHS.map("/documents/{}".format))
def test_any_path_and_method_come_back_as_an_answer_or_a_refusal(
    gateway: Replica, key: str, method: str, path: str
) -> None:
    status, _, answer = gateway.send(method, path, headers={"authorization": f"Bearer {key}"})
    if method == "HEAD":
        assert status < 500
    else:
        check_answer(status, answer)


@pytest.mark.process
@settings(max_examples=150)
@given(data=st.binary(min_size=1, max_size=200) | st.binary(max_size=60).map(b"POST /v1/responses ".__add__))
@example(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
@example(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000)
def test_what_is_not_http_never_becomes_our_failure(gateway: Replica, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65_536):
                answer += piece
    assert not answer or 200 <= int(answer.split(b" ")[1]) < 500
    assert b"Traceback" not in answer


@pytest.mark.process
def test_after_all_that_the_replica_is_well_and_blames_itself_for_nothing(gateway: Replica, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
    assert [line for line in gateway.request_lines() if line.get("domain") == "us"] == []
    assert [line for line in gateway.lines if "Traceback" in line] == []
