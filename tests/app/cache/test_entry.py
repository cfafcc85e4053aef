from __future__ import annotations

from dataclasses import asdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache import entry
from app.cache.entry import Entry, decode, encode

ANSWER = Entry(b'{"id": "resp_1"}', "application/json", "gpt-6-luna", 200, 1.5, 300, 60)
SECONDS = st.floats(0, 1e9)
TEXT = st.text(max_size=40).filter(str.isprintable)


@given(st.builds(Entry, st.binary(), TEXT, TEXT, st.just(200), SECONDS, SECONDS, fingerprint=TEXT))
def test_what_is_stored_comes_back(answer: Entry) -> None:
    assert decode("k", encode("k", answer)) == answer


@given(st.data())
def test_damage_is_a_miss(data: st.DataObject) -> None:
    value = bytearray(encode("k", ANSWER))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    assert decode("k", bytes(value)) is None


@given(st.binary(max_size=200))
def test_any_foreign_value_is_a_miss(value: bytes) -> None:
    assert decode("k", value) is None
    assert decode("k", encode("k", ANSWER)[: len(value)]) is None


def test_a_value_under_another_key_is_a_miss() -> None:
    assert decode("other", encode("k", ANSWER)) is None


GOOD = {name: value for name, value in asdict(ANSWER).items() if name != "body"}


@pytest.mark.parametrize(
    "meta",
    [
        b"[]",
        b"{}",
        b'{"model": 1}',
        b"x",
        b"",
        orjson.dumps(GOOD | {"status": "200"}),
        orjson.dumps(GOOD | {"x": 1}),
        orjson.dumps(GOOD | {"fingerprint": 1}),
    ]
    + [orjson.dumps(GOOD | bad) for bad in ({"model": "m\r\nx: y"}, {"content_type": "a\n"}, {"status": 99})],
)
def test_a_value_with_a_good_digest_and_a_bad_description_is_a_miss(meta: bytes) -> None:
    rest = len(meta).to_bytes(entry.LENGTH_BYTES, "big") + meta
    assert decode("k", entry.KEPT + entry._digest("k", rest) + rest) is None
