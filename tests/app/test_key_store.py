from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from app import key_store
from app.aws import Aws
from app.errors import ApiError
from app.key_store import KeyStore
from app.keys import Identity, create_key, key_hash, key_key, revoke_key
from tests.app.conftest import CloudParts, free_port
from tests.app.counting import Clock, CountingAws
from tests.app.test_keys import TABLE, client, key_id, tenant
from tests.patience import PATIENCE_SECONDS

__all__ = ["client"]  # a fixture

pytestmark = pytest.mark.process


@pytest.fixture
def counting(cloud: CloudParts) -> CountingAws:
    return CountingAws("us-east-1", cloud.url)


async def test_a_created_key_is_known_by_everything_it_was_given(client: Any, counting: CountingAws) -> None:
    name = tenant()
    key = create_key(client, TABLE, name, name="ci", role="admin", requests_per_minute=7, tokens_per_minute=900)
    found = await KeyStore(counting, TABLE, max_entries=10).lookup(key)
    assert found == Identity(name, key_id(key), "ci", "admin", 7, 900)
    plain = await KeyStore(counting, TABLE, max_entries=10).lookup(create_key(client, TABLE, name))
    assert plain is not None
    assert (plain.role, plain.requests_per_minute, plain.tokens_per_minute) == ("user", None, None)


async def test_a_revoked_key_is_dead_within_five_seconds(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    name = tenant()
    key = create_key(client, TABLE, name)
    assert await store.lookup(key) is not None
    revoke_key(client, TABLE, name, key_id(key))
    assert key_store.IDENTITY_SECONDS < 5
    clock.now += key_store.IDENTITY_SECONDS - 0.001
    assert await store.lookup(key) is not None
    clock.now += 0.001
    assert await store.lookup(key) is None


async def test_a_key_in_use_is_read_again_beside_its_requests(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    name = tenant()
    key = create_key(client, TABLE, name)
    assert await store.lookup(key) is not None
    clock.now += key_store.REFRESH_SECONDS - 0.001
    assert await store.lookup(key) is not None
    assert not store._reads, "soon enough later"
    clock.now += 0.001
    for _ in range(3):
        assert await asyncio.wait_for(store.lookup(key), PATIENCE_SECONDS) is not None
    [read] = store._reads.values()
    await read
    assert counting.calls == 2
    clock.now += key_store.IDENTITY_SECONDS - 0.001
    revoke_key(client, TABLE, name, key_id(key))
    assert await store.lookup(key) is not None
    await asyncio.wait(store._reads.values())
    assert await store.lookup(key) is None, "what was read beside counts"


async def test_keys_in_use_that_are_due_together_are_read_in_one_question(
    client: Any, counting: CountingAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    owners = [tenant() for _ in range(5)]
    made = [create_key(client, TABLE, owner) for owner in owners]
    for key in made:
        assert await store.lookup(key) is not None
    revoke_key(client, TABLE, owners[0], key_id(made[0]))
    revoked, *others = made

    async def due(keys: list[str]) -> int:
        """Questions for keys that come due together and are used twice."""
        clock.now += key_store.REFRESH_SECONDS
        before = counting.calls
        assert None not in [store.known(key) for key in [*keys, *keys]]
        assert counting.calls == before, "they wait for one another"
        await asyncio.wait(store._reads.values())
        return counting.calls - before

    assert await due(made) == 1
    assert store.known(revoked) is None
    monkeypatch.setattr("app.key_store.MOST_KEYS", 2)
    assert await due(others) == 2
    assert None not in [store.known(key) for key in others]
    assert key_store.REFRESH_SECONDS + key_store.GATHER_SECONDS < key_store.IDENTITY_SECONDS, "none expires meanwhile"


async def test_keys_that_come_while_questions_are_open_go_together_in_the_next(
    client: Any, counting: CountingAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "QUESTIONS_AT_ONCE", 1)
    store = KeyStore(counting, TABLE, max_entries=10)
    owners = [tenant() for _ in range(5)]
    found = await asyncio.gather(*(store.lookup(create_key(client, TABLE, owner)) for owner in owners))
    assert [one and one.tenant for one in found] == owners
    assert counting.calls == 2


class Reluctant(CountingAws):
    """A table that comes to one key of a question, and puts the others off."""

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        asked = parameters["RequestItems"][TABLE]
        put_off = asked["Keys"][1:]
        answer = await super().call(service, operation, RequestItems={TABLE: {**asked, "Keys": asked["Keys"][:1]}})
        return {**answer, "UnprocessedKeys": {TABLE: {**asked, "Keys": put_off}} if put_off else {}}


async def test_keys_that_the_table_puts_off_are_asked_for_again_for_a_while(
    client: Any, cloud: CloudParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "QUESTIONS_AT_ONCE", 1)
    reluctant = Reluctant("us-east-1", cloud.url)
    store = KeyStore(reluctant, TABLE, max_entries=10)
    made = [create_key(client, TABLE, tenant()) for _ in range(4)]
    assert None not in await asyncio.gather(*map(store.lookup, made))
    assert reluctant.calls == 4
    monkeypatch.setattr(key_store, "PUT_OFF_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(key_store, "LOOKUP_SECONDS", 0.5)
    store = KeyStore(reluctant, TABLE, max_entries=10)
    found = await asyncio.gather(*map(store.lookup, made), return_exceptions=True)
    assert [isinstance(one, ApiError) for one in found] == [False, False, True, True], "one alone, one of the others"
    assert store.known(made[1]) is not None


async def test_an_item_that_is_none_of_ours_refuses_its_own_key_alone(
    client: Any, counting: CountingAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "QUESTIONS_AT_ONCE", 1)
    store = KeyStore(counting, TABLE, max_entries=10)
    first, broken, good = (create_key(client, TABLE, tenant()) for _ in range(3))
    client.put_item(TableName=TABLE, Item=key_key(key_hash(broken)))
    found = await asyncio.gather(*map(store.lookup, (first, broken, good)), return_exceptions=True)
    assert [type(one) for one in found] == [Identity, ApiError, Identity]


async def test_a_new_key_works_a_second_after_it_was_refused(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    key = create_key(client, TABLE, tenant())
    item_key = key_key(key_hash(key))
    item = client.get_item(TableName=TABLE, Key=item_key)["Item"]
    client.delete_item(TableName=TABLE, Key=item_key)
    assert await store.lookup(key) is None
    client.put_item(TableName=TABLE, Item=item)
    calls = counting.calls
    assert await store.lookup(key) is None
    assert counting.calls == calls
    clock.now += key_store.UNKNOWN_SECONDS
    assert await store.lookup(key) is not None


@pytest.mark.parametrize(
    "presented", ["", "prodkit_", "sk-" + "a" * 40, "prodkit_" + "0" * 12 + "_" + "a" * 42, "\ud800" * 64]
)
async def test_a_malformed_key_is_refused_without_asking_the_table(presented: str, counting: CountingAws) -> None:
    store = KeyStore(counting, TABLE, max_entries=10)
    assert await store.lookup(presented) is None
    assert await store.lookup("prodkit_" + "0" * 12 + "_" + "a" * 43 + "\n") is None
    assert counting.calls == 0


async def test_many_requests_with_one_key_ask_once(client: Any, counting: CountingAws) -> None:
    store = KeyStore(counting, TABLE, max_entries=10)
    key = create_key(client, TABLE, tenant())
    found = await asyncio.gather(*(store.lookup(key) for _ in range(20)))
    assert len(set(found)) == 1
    assert counting.calls == 1


async def test_a_caller_that_leaves_takes_no_other_with_it(client: Any, counting: CountingAws) -> None:
    store = KeyStore(counting, TABLE, max_entries=10)
    key = create_key(client, TABLE, tenant())
    first = asyncio.create_task(store.lookup(key))
    second = asyncio.create_task(store.lookup(key))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None
    assert first.cancelled()


async def test_guessing_fills_a_bounded_memory_and_pushes_out_no_identity(client: Any, counting: CountingAws) -> None:
    store = KeyStore(counting, TABLE, max_entries=8)
    key = create_key(client, TABLE, tenant())
    assert await store.lookup(key) is not None
    for _ in range(5):
        guess = f"prodkit_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
        assert await store.lookup(guess) is None
    assert len(store._unknown) == 2
    calls = counting.calls
    assert await store.lookup(key) is not None
    assert counting.calls == calls


async def test_a_table_that_is_away_lets_nobody_in_and_says_try_again() -> None:
    aws = Aws("us-east-1", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ApiError) as caught:
        await KeyStore(aws, TABLE, max_entries=8).lookup(f"prodkit_{'0' * 12}_{'a' * 43}")
    assert (caught.value.status, caught.value.code) == (503, "service_unavailable")
    assert caught.value.headers["retry-after"] == "1"
    aws.close()
