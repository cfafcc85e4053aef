"""Wire values survive the way there and back, and what is secret is never shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight import wire

_LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8) | st.just(wire.UNKNOWN)
_VALUES = st.recursive(
    _LEAVES | _LEAVES.map(wire.Secret),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(_VALUES)
def test_a_value_survives_the_wire(value: Any) -> None:
    assert wire.decode(wire.encode(value)) == value


def test_a_fraction_stays_a_fraction_and_a_whole_number_becomes_an_int() -> None:
    assert [wire.decode(wire.encode(number)) for number in (0.25, 1024.0)] == [0.25, 1024]
    assert isinstance(wire.decode(wire.encode(1024.0)), int)


@given(st.text(min_size=6, alphabet="abcdefghij"))
def test_no_rendering_of_a_secret_contains_it(text: str) -> None:
    value = {"outer": [wire.Secret(text)], "plain": 1}
    assert text not in repr(value)
    assert text not in json.dumps(wire.printable(value))
    assert wire.plain(value) == {"outer": [text], "plain": 1}


def test_an_unknown_value_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="UNKNOWN"):
        bool(wire.UNKNOWN)


def test_an_object_without_wire_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no wire form"):
        wire.encode(object())


def test_walk_names_every_leaf_by_its_path() -> None:
    value = {"a": [{"b": 1}, 2], "c": wire.Secret({"d": 3})}
    assert [path for path, _ in wire.walk(value)] == ["a[0].b", "a[1]", "c"]
