"""What becomes a document, and what is refused with the reason."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.product.upload import MAX_TEXT_BYTES, Upload


@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown; charset=UTF-8", 'Text/Plain; charset="utf-8"'])
def test_text_is_taken_as_it_is(media_type: str) -> None:
    assert Upload.read(media_type, "notes.md", "# Café".encode()) == Upload("notes.md", "# Café")


def test_json_brings_its_own_name() -> None:
    body = orjson.dumps({"name": "a", "text": "alpha"})
    assert Upload.read("application/json", "ignored", body) == Upload("a", "alpha")


def test_a_document_without_a_name_has_one() -> None:
    assert Upload.read("text/plain", None, b"alpha").name == "untitled"


def test_a_byte_order_mark_is_no_text() -> None:
    assert Upload.read("text/plain", None, b"\xef\xbb\xbfalpha").text == "alpha"


def test_exactly_the_largest_text_is_taken() -> None:
    assert len(Upload.read("text/plain", None, b"a" * MAX_TEXT_BYTES).text) == MAX_TEXT_BYTES


@pytest.mark.parametrize(
    ("media_type", "name", "body", "status", "param"),
    [
        ("text/plain", None, b"a" * (MAX_TEXT_BYTES + 1), 413, "text"),
        ("text/plain", None, b"\xff\xfe", 400, "text"),
        ("text/plain", None, b" \n\t", 400, "text"),
        ("text/plain", None, b"a\0b", 400, "text"),
        ("text/plain", "a\nb", b"alpha", 400, "name"),
        ("text/plain", "n" * 201, b"alpha", 400, "name"),
        ("text/plain; charset=latin-1", None, b"alpha", 415, None),
        ("application/pdf", None, b"%PDF", 415, None),
        (None, None, b"alpha", 415, None),
        ("application/json", None, b"{", 400, None),
        ("application/json", None, b"[]", 400, None),
        ("application/json", None, b'{"name": "a"}', 400, "text"),
        ("application/json", None, b'{"text": "a", "name": 1}', 400, "name"),
        ("application/json", None, b'{"text": "a", "tags": []}', 400, "tags"),
        ("application/json", None, b'{"text": "\\ud800"}', 400, None),
    ],
)
def test_what_is_no_document_is_refused_by_name(
    media_type: str | None, name: str | None, body: bytes, status: int, param: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        Upload.read(media_type, name, body)
    assert (caught.value.status, caught.value.param) == (status, param)


@given(st.binary(max_size=64))
def test_any_body_is_a_text_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert Upload.read("text/plain", None, body).text.encode() == body.removeprefix(b"\xef\xbb\xbf")
