from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.pipeline.bound import MAX_BODY_BYTES, MAX_DEPTH, read_bounded
from app.pipeline.endpoints import CHAT, EMBEDDINGS, ENDPOINTS, MODERATIONS, RESPONSES, Endpoint, endpoint_of

JSON = {"content-type": "application/json"}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def refusal(endpoint: Endpoint, body: Any, headers: dict[str, str] = JSON) -> ApiError:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(ApiError) as caught:
        read_bounded(endpoint, raw, headers)
    return caught.value


def test_a_good_body_passes_as_it_is() -> None:
    body = {"model": "fast", "input": "hi", "temperature": 1, "stream": None, "metadata": {"a": "b"}}
    assert read_bounded(RESPONSES, orjson.dumps(body), {"content-type": "application/json; charset=utf-8"}) == body
    assert read_bounded(RESPONSES, orjson.dumps(body), {}) == body


def test_ten_megabytes_pass_and_one_byte_more_does_not() -> None:
    body = orjson.dumps({"model": "fast", "input": ""})
    padded = body.replace(b'""', b'"' + b"x" * (MAX_BODY_BYTES - len(body)) + b'"')
    assert len(read_bounded(RESPONSES, padded, JSON)["input"]) == MAX_BODY_BYTES - len(body)
    error = refusal(RESPONSES, padded + b" ")
    assert (error.status, error.code) == (413, "request_too_large")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=x"])
def test_another_media_type_is_refused_with_the_right_one(media_type: str) -> None:
    error = refusal(RESPONSES, {"input": "hi"}, {"content-type": media_type})
    assert error.status == 415
    assert "application/json" in error.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"null", b'{"input": NaN}', b'{"input": "\xff"}'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(RESPONSES, body).code == "invalid_json"


def test_nesting_is_bounded() -> None:
    def nested(levels: int) -> bytes:
        return b'{"input": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert read_bounded(RESPONSES, nested(MAX_DEPTH), JSON)
    assert f"{MAX_DEPTH} levels" in refusal(RESPONSES, nested(MAX_DEPTH + 1)).message
    assert refusal(RESPONSES, nested(100_000)).code == "invalid_json"


def test_brackets_inside_a_text_are_no_depth() -> None:
    assert read_bounded(RESPONSES, orjson.dumps({"input": "[{" * 500}), JSON)


@pytest.mark.parametrize(
    ("endpoint", "field", "value", "words"),
    [
        (RESPONSES, "temperature", "hot", "expected a number, but got a string"),
        (RESPONSES, "max_output_tokens", 1.5, "expected an integer, but got a number"),
        (RESPONSES, "stream", "true", "expected a boolean, but got a string"),
        (RESPONSES, "stream", 1, "expected a boolean, but got an integer"),
        (RESPONSES, "input", {"role": "user"}, "expected an array or a string, but got an object"),
        (RESPONSES, "tools", {}, "expected an array, but got an object"),
        (RESPONSES, "model", 7, "expected a string, but got an integer"),
        (CHAT, "messages", "hi", "expected an array, but got a string"),
        (CHAT, "n", True, "expected an integer, but got a boolean"),
        (EMBEDDINGS, "dimensions", "many", "expected an integer, but got a string"),
        (MODERATIONS, "input", 3, "expected an array or a string, but got an integer"),
    ],
)
def test_a_wrong_type_is_refused_by_the_fields_name(endpoint: Endpoint, field: str, value: Any, words: str) -> None:
    error = refusal(endpoint, {"model": "fast", endpoint.content: [] if endpoint is CHAT else "x", field: value})
    assert (error.code, error.param) == ("invalid_type", field)
    assert f"'{field}'" in error.message
    assert words in error.message


def test_a_whole_number_is_a_number() -> None:
    assert read_bounded(RESPONSES, b'{"input": "x", "temperature": 1}', JSON)["temperature"] == 1


@pytest.mark.parametrize(("endpoint", "field"), [(RESPONSES, "best_of"), (RESPONSES, "n"), (CHAT, "best_of")])
def test_an_unknown_field_is_refused_by_name(endpoint: Endpoint, field: str) -> None:
    error = refusal(endpoint, {endpoint.content: "x" if endpoint is RESPONSES else [], field: 1})
    assert (error.code, error.param) == ("unsupported_parameter", field)


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.path)
def test_the_content_must_be_there(endpoint: Endpoint) -> None:
    error = refusal(endpoint, {"model": "fast"})
    assert (error.code, error.param) == ("missing_required_parameter", endpoint.content)
    assert refusal(endpoint, {endpoint.content: None}).code == "missing_required_parameter"


def test_2048_embeddings_pass_and_2049_do_not() -> None:
    assert read_bounded(EMBEDDINGS, orjson.dumps({"input": ["x"] * 2048}), JSON)
    error = refusal(EMBEDDINGS, {"input": ["x"] * 2049})
    assert "2048" in error.message
    assert read_bounded(EMBEDDINGS, orjson.dumps({"input": [1] * 3000}), JSON)  # one text as tokens


@pytest.mark.parametrize("value", ["", [], [""], ["a", ""], ["a", 1], [[1], []], [{}], [None], [True]])
def test_an_embedding_of_nothing_or_of_something_else_is_refused(value: Any) -> None:
    error = refusal(EMBEDDINGS, {"input": value})
    assert error.param is not None
    assert error.param.startswith("input")


def outcome(endpoint: Endpoint, body: bytes) -> dict[str, Any] | ApiError:
    try:
        return read_bounded(endpoint, body, JSON)
    except ApiError as error:
        return error


@given(st.sampled_from(list(ENDPOINTS.values())), st.dictionaries(st.text(max_size=12), JSON_VALUES, max_size=6))
def test_any_object_is_taken_or_refused_with_a_reason(endpoint: Endpoint, body: dict[str, Any]) -> None:
    got = outcome(endpoint, orjson.dumps(body))
    assert got == body or (isinstance(got, ApiError) and 400 <= got.status < 500 and got.message)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused_with_a_reason(body: bytes) -> None:
    got = outcome(RESPONSES, body)
    assert isinstance(got, dict) or 400 <= got.status < 500


def test_a_path_that_is_not_served_says_which_are() -> None:
    with pytest.raises(ApiError) as caught:
        endpoint_of("/v1/files")
    assert (caught.value.status, caught.value.code) == (404, "unsupported_endpoint")
    assert "/v1/responses" in caught.value.message
