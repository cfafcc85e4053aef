from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import keys
from app.aws import Aws
from app.errors import ApiError
from app.keys import Identity, KeyStore, create_key, key_hash, list_keys, main, revoke_key
from tests.app.conftest import CloudParts, free_port
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
TABLE = "state"


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class CountingAws(Aws):
    """The app's own clients, and how often they were called."""

    calls = 0

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        self.calls += 1
        return await super().call(service, operation, **parameters)


@pytest.fixture
def counting(cloud: CloudParts) -> CountingAws:
    return CountingAws("us-east-1", cloud.url)


@pytest.fixture
def client(cloud: CloudParts) -> Any:
    return cloud.client("dynamodb")


def tenant() -> str:
    return f"t-{secrets.token_hex(4)}"


def key_id(key: str) -> str:
    return key.split("_")[1]


async def test_a_created_key_is_known_by_everything_it_was_given(client: Any, counting: CountingAws) -> None:
    name = tenant()
    key = create_key(client, TABLE, name, name="ci", role="admin", requests_per_minute=7, tokens_per_minute=900)
    found = await KeyStore(counting, TABLE, max_entries=10).lookup(key)
    assert found == Identity(name, key_id(key), "ci", "admin", 7, 900)
    plain = await KeyStore(counting, TABLE, max_entries=10).lookup(create_key(client, TABLE, name))
    assert plain is not None
    assert (plain.role, plain.requests_per_minute, plain.tokens_per_minute) == ("user", None, None)


def test_the_table_holds_no_key(client: Any) -> None:
    key = create_key(client, TABLE, tenant())
    stored = repr(client.scan(TableName=TABLE)["Items"])
    assert key not in stored
    assert key.split("_", 2)[2] not in stored
    assert key_hash(key) in stored


async def test_a_revoked_key_is_dead_within_five_seconds(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    name = tenant()
    key = create_key(client, TABLE, name)
    assert await store.lookup(key) is not None
    revoke_key(client, TABLE, name, key_id(key))
    assert keys.IDENTITY_SECONDS < 5
    clock.now += keys.IDENTITY_SECONDS - 0.001
    assert await store.lookup(key) is not None
    clock.now += 0.001
    assert await store.lookup(key) is None


async def test_a_key_in_use_is_read_again_beside_its_requests(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    name = tenant()
    key = create_key(client, TABLE, name)
    assert await store.lookup(key) is not None
    clock.now += keys.REFRESH_SECONDS - 0.001
    assert await store.lookup(key) is not None
    assert not store._reads, "soon enough later"
    clock.now += 0.001
    for _ in range(3):
        assert await asyncio.wait_for(store.lookup(key), PATIENCE_SECONDS) is not None
    [read] = store._reads.values()
    await read
    assert counting.calls == 2
    clock.now += keys.IDENTITY_SECONDS - 0.001
    revoke_key(client, TABLE, name, key_id(key))
    assert await store.lookup(key) is not None
    await asyncio.wait(store._reads.values())
    assert await store.lookup(key) is None, "what was read beside counts"


async def test_keys_in_use_that_are_due_together_are_read_again_one_after_the_other(
    client: Any, cloud: CloudParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watching(CountingAws):
        inside = most = 0

        async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                return await super().call(service, operation, **parameters)
            finally:
                self.inside -= 1

    made = [create_key(client, TABLE, tenant()) for _ in range(4)]
    for due_a_read, most in ((keys.DUE_A_READ, 1), (2, 2)):
        monkeypatch.setattr(keys, "DUE_A_READ", due_a_read)
        watching, clock = Watching("us-east-1", cloud.url), Clock()
        store = KeyStore(watching, TABLE, max_entries=10, clock=clock)
        for key in made:
            assert await store.lookup(key) is not None
        clock.now += keys.REFRESH_SECONDS
        for key in [*made, *made]:
            assert store.known(key) is not None
        while store._reads:
            await asyncio.wait(store._reads.values())
        assert watching.calls == 2 * len(made)
        assert watching.most == most


async def test_a_new_key_works_a_second_after_it_was_refused(client: Any, counting: CountingAws) -> None:
    clock = Clock()
    store = KeyStore(counting, TABLE, max_entries=10, clock=clock)
    key = create_key(client, TABLE, tenant())
    item_key = {"pk": {"S": f"KEY#{key_hash(key)}"}, "sk": {"S": "KEY"}}
    item = client.get_item(TableName=TABLE, Key=item_key)["Item"]
    client.delete_item(TableName=TABLE, Key=item_key)
    assert await store.lookup(key) is None
    client.put_item(TableName=TABLE, Item=item)
    calls = counting.calls
    assert await store.lookup(key) is None
    assert counting.calls == calls
    clock.now += keys.UNKNOWN_SECONDS
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


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tenant": "Acme"}, "tenant='Acme' is not"),
        ({"tenant": "a#b"}, "tenant='a#b' is not"),
        ({"tenant": "a" * 64}, "is not 1 to 63"),
        ({"name": ""}, "name='' is not"),
        ({"name": "a\nb"}, "is not 1 to 128 printable"),
        ({"role": "root"}, "role='root' is not one of user, admin"),
        ({"requests_per_minute": 0}, "requests_per_minute=0 is not from 1"),
    ],
)
def test_bad_facts_about_a_key_are_refused_with_the_reason(changes: dict[str, Any], text: str) -> None:
    arguments = {"tenant": "acme"} | changes
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        create_key(None, TABLE, arguments.pop("tenant"), **arguments)


@given(st.text(max_size=80))
def test_only_well_formed_tenants_pass(name: str) -> None:
    well_formed = name.isascii() and name.replace("-", "a").isalnum() and name == name.lower() and name[0] != "-"
    if well_formed and len(name) <= 63:
        keys._check_tenant(name)
    else:
        with pytest.raises(ValueError, match="tenant="):
            keys._check_tenant(name)


def test_a_tenant_sees_and_revokes_its_own_keys_only(client: Any) -> None:
    one, other = tenant(), tenant()
    moments = iter((10.0, 20.0))
    first = create_key(client, TABLE, one, name="first", now=lambda: next(moments))
    second = create_key(client, TABLE, one, name="second", role="admin", now=lambda: next(moments))
    with pytest.raises(LookupError, match=f"tenant {other} has no key"):
        revoke_key(client, TABLE, other, key_id(first))
    assert revoke_key(client, TABLE, one, key_id(first), now=lambda: 30.0) == "1970-01-01T00:00:30Z"
    assert revoke_key(client, TABLE, one, key_id(first), now=lambda: 99.0) == "1970-01-01T00:00:30Z"
    assert list_keys(client, TABLE, other) == []
    assert list_keys(client, TABLE, one) == [
        {
            "key_id": key_id(first),
            "name": "first",
            "role": "user",
            "created_at": "1970-01-01T00:00:10Z",
            "revoked_at": "1970-01-01T00:00:30Z",
        },
        {
            "key_id": key_id(second),
            "name": "second",
            "role": "admin",
            "created_at": "1970-01-01T00:00:20Z",
            "revoked_at": "",
        },
    ]


@pytest.fixture
def command_environment(cloud: CloudParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("PRODKIT_STATE_TABLE", TABLE)


@pytest.mark.usefixtures("command_environment")
def test_the_command_creates_lists_and_revokes(capsys: pytest.CaptureFixture[str]) -> None:
    name = tenant()
    assert main(["create", "--tenant", name, "--name", "ci", "--rpm", "5"]) == 0
    created = capsys.readouterr()
    key = created.out.strip()
    assert keys._KEY.fullmatch(key)
    assert "shown once" in created.err
    assert main(["revoke", "--tenant", name, key_id(key)]) == 0
    assert "revoked at 2" in capsys.readouterr().out
    assert main(["list", "--tenant", name]) == 0
    listed = capsys.readouterr().out
    assert key_id(key) in listed
    assert key not in listed
    assert "ci" in listed


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["create", "--tenant", "Acme"], 2, "tenant='Acme' is not 1 to 63"),
        (["create"], 2, "--tenant"),
        (["create", "--tenant", "acme", "--role", "root"], 2, "invalid choice: 'root'"),
        (["revoke", "--tenant", "acme", "zz"], 2, "is not 12 hex digits"),
        (["revoke", "--tenant", "acme", "0" * 12], 1, "tenant acme has no key 000000000000"),
        (["list", "--tenant", "acme", "--table", "absent"], 1, "table absent in us-east-1: ResourceNotFoundException"),
        ([], 2, "create|list|revoke"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(arguments)
    except SystemExit as stop:
        found = int(str(stop.code))
    assert found == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_the_command_needs_a_table_and_a_region(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PRODKIT_STATE_TABLE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for arguments, text in (
        (["list", "--tenant", "a"], "which table?"),
        (["list", "--tenant", "a", "--table", "t"], "which region?"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert text in capsys.readouterr().err
