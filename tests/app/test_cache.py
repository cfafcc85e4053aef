from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app import cache
from app.aws import Aws
from app.cache import CachedResponse, ResponseCache, cache_key, canonical, pack, unpack
from app.settings import Settings
from app.valkey import Valkey
from tests.app.conftest import free_port

ANSWER = CachedResponse(b'{"id": "resp_1"}', "application/json", "gpt-6-luna", 12, 34)
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


def shuffled(value: object) -> object:
    """The same JSON value with every object's fields the other way round."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(BODIES)
def test_the_same_request_written_in_another_order_is_the_same_request(body: dict[str, object]) -> None:
    other = shuffled(body)
    assert isinstance(other, dict)
    assert canonical(body) == canonical(other)
    assert canonical(body) == canonical({**other, "stream": True}) == canonical({**other, "stream": False})
    assert orjson.loads(canonical(body)) == {name: value for name, value in body.items() if name != "stream"}


@given(BODIES, BODIES)
def test_different_requests_never_look_the_same(one: dict[str, object], other: dict[str, object]) -> None:
    assume({**one, "stream": None} != {**other, "stream": None})
    assert canonical(one) != canonical(other)
    assert cache_key("a", ENDPOINT, canonical(one)) != cache_key("a", ENDPOINT, canonical(other))


def test_stream_is_left_out_at_the_top_only() -> None:
    assert canonical({"input": {"stream": True}}) != canonical({"input": {}})


@given(st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5)), st.integers(0, 5))
def test_a_key_is_of_one_tenant_and_one_endpoint(parts: tuple[str, str, bytes], cut: int) -> None:
    tenant, endpoint, body = parts
    moved = (tenant[:cut], tenant[cut:] + endpoint, body)
    if moved != parts:
        assert cache_key(*moved).rpartition(":")[2] != cache_key(*parts).rpartition(":")[2]


COUNTS = st.integers(0, 10**9)


@given(st.builds(CachedResponse, st.binary(), st.text(max_size=40), st.text(max_size=40), COUNTS, COUNTS))
def test_what_is_stored_comes_back(response: CachedResponse) -> None:
    assert unpack("k", pack("k", response)) == response


@given(st.data())
def test_damage_is_a_miss(data: st.DataObject) -> None:
    value = bytearray(pack("k", ANSWER))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    assert unpack("k", bytes(value)) is None


@given(st.binary(max_size=200))
def test_any_foreign_value_is_a_miss(value: bytes) -> None:
    assert unpack("k", value) is None
    assert unpack("k", pack("k", ANSWER)[: len(value)]) is None


def test_a_value_under_another_key_is_a_miss() -> None:
    assert unpack("other", pack("k", ANSWER)) is None


def test_a_value_with_a_good_digest_and_a_bad_description_is_a_miss() -> None:
    for meta in (b"[]", b"{}", b'{"model": 1}', b"x"):
        rest = len(meta).to_bytes(cache.LENGTH_BYTES, "big") + meta
        assert unpack("k", cache._digest("k", rest) + rest) is None
    assert unpack("k", cache._digest("k", b"") + b"") is None


@pytest.fixture
async def valkey(settings: Settings, aws: Aws) -> AsyncIterator[Valkey]:
    store = Valkey(settings, aws, max_connections=8)
    await store.start()
    yield store
    await store.stop()


@pytest.mark.process
async def test_an_answer_is_found_by_its_tenant_alone(valkey: Valkey) -> None:
    store = ResponseCache(valkey, lambda: 60)
    question = canonical({"model": "fast", "input": "hello"})
    assert await store.get("acme", ENDPOINT, question) is None
    assert await store.put("acme", ENDPOINT, question, ANSWER)
    assert await store.get("acme", ENDPOINT, question) == ANSWER
    assert await store.get("globex", ENDPOINT, question) is None
    assert await store.get("acme", "/v1/chat/completions", question) is None
    assert 0 < await valkey.client.ttl(cache_key("acme", ENDPOINT, question)) <= 60


@pytest.mark.process
async def test_a_damaged_entry_and_a_foreign_type_are_misses(valkey: Valkey) -> None:
    store = ResponseCache(valkey, lambda: 60)
    key = cache_key("acme", ENDPOINT, b"damaged")
    await valkey.client.set(key, b"\x00garbage", ex=60)
    assert await store.get("acme", ENDPOINT, b"damaged") is None
    foreign = cache_key("acme", ENDPOINT, b"foreign")
    await valkey.client.hset(foreign, "a", "b")
    assert await store.get("acme", ENDPOINT, b"foreign") is None


@pytest.mark.process
async def test_a_large_answer_is_not_stored(valkey: Valkey) -> None:
    store = ResponseCache(valkey, lambda: 60)
    large = replace(ANSWER, body=bytes(cache.MAX_VALUE_BYTES))
    assert not await store.put("acme", ENDPOINT, b"large", large)
    assert await store.get("acme", ENDPOINT, b"large") is None


@pytest.mark.process
async def test_a_time_to_live_of_zero_turns_it_off(valkey: Valkey) -> None:
    ttl = 60
    store = ResponseCache(valkey, lambda: ttl)
    assert await store.put("acme", ENDPOINT, b"off", ANSWER)
    ttl = 0
    assert await store.get("acme", ENDPOINT, b"off") is None
    assert not await store.put("acme", ENDPOINT, b"off", ANSWER)


@pytest.mark.process
async def test_without_valkey_every_look_is_a_miss_and_no_error(settings: Settings, aws: Aws) -> None:
    valkey = Valkey(replace(settings, cache_port=free_port()), aws, max_connections=8)
    await valkey.start()
    store = ResponseCache(valkey, lambda: 60)
    assert not await store.put("acme", ENDPOINT, b"away", ANSWER)
    assert await store.get("acme", ENDPOINT, b"away") is None
    await valkey.stop()
