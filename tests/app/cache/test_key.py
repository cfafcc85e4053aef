from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.cache.key import DEFAULTS, canonical, question_key

ENDPOINT = "/v1/responses"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
BODIES = st.dictionaries(st.text(), JSON, max_size=5)


def other_spelling(value: Any, chance: random.Random) -> str:
    """The same JSON with other orders, spaces and spellings of numbers."""
    space = chance.choice(["", " ", "\n\t"])
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        inner = [f"{json.dumps(name)}{space}:{space}{other_spelling(item, chance)}" for name, item in items]
        return "{" + space + f",{space}".join(inner) + space + "}"
    if isinstance(value, list):
        return "[" + space + f"{space},".join(other_spelling(item, chance) for item in value) + "]"
    if type(value) is int and abs(value) < 2**53:
        return chance.choice([str(value), f"{value}.0", f"{value}e0", f"{value}.000E+0"])
    return json.dumps(value, ensure_ascii=chance.choice([True, False]))


@given(BODIES, st.integers())
def test_the_same_request_written_otherwise_is_the_same_request(body: dict[str, Any], seed: int) -> None:
    other = json.loads(other_spelling(body, random.Random(seed)))
    assert canonical(ENDPOINT, body) == canonical(ENDPOINT, other)
    assert canonical(ENDPOINT, body) == canonical(ENDPOINT, {**other, "stream": True})


@settings(max_examples=60)
@given(BODIES, BODIES)
def test_different_requests_never_look_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    def told(body: dict[str, Any]) -> str:
        return json.dumps({name: value for name, value in body.items() if value is not None}, sort_keys=True)

    assume("stream" not in one and "stream" not in other)
    assume(json.loads(told(one)) != json.loads(told(other)))
    assert canonical("/v1/moderations", one) != canonical("/v1/moderations", other)


def test_true_is_not_one_and_a_text_is_not_its_number() -> None:
    spellings: list[dict[str, Any]] = [{"a": True}, {"a": 1}, {"a": "1"}, {"a": "1.0"}, {"a": [1]}, {"a": 1.5}]
    assert len({canonical(ENDPOINT, body) for body in spellings}) == len(spellings)


def test_a_whole_number_is_the_same_in_any_size_that_json_can_hold() -> None:
    for whole in (0, 1, -1, 2**53, 10**16, 10**18, -(2**62), 2**63):
        assert canonical(ENDPOINT, {"seed": whole}) == canonical(ENDPOINT, {"seed": float(whole)})
    assert canonical(ENDPOINT, {"seed": 1e300}) != canonical(ENDPOINT, {"seed": 1e301})


@pytest.mark.parametrize("endpoint", sorted(DEFAULTS))
def test_a_default_spelled_out_is_the_same_as_absent(endpoint: str) -> None:
    plain: dict[str, Any] = {"model": "m", "input": "hi"}
    for name, value in DEFAULTS[endpoint].items():
        assert canonical(endpoint, {**plain, name: value}) == canonical(endpoint, plain), name
        assert canonical(endpoint, {**plain, name: None}) == canonical(endpoint, plain), name
        assert canonical(endpoint, {**plain, name: "other"}) != canonical(endpoint, plain), name
    assert canonical(endpoint, {**plain, "temperature": True}) != canonical(endpoint, plain)


@given(st.tuples(st.text(max_size=5), st.binary(max_size=5), st.binary(max_size=5)), st.integers(0, 5))
def test_a_key_is_of_one_tenant_and_one_split_of_its_parts(parts: tuple[str, bytes, bytes], cut: int) -> None:
    tenant, path, body = parts
    moved = (tenant, path[:cut], path[cut:] + body)
    if moved != parts:
        assert question_key(*moved) != question_key(*parts)
    assert question_key(tenant + "x", path, body) != question_key(*parts)
