from __future__ import annotations

import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import keys
from app.keys import create_key, key_hash, list_keys, main, revoke_key
from tests.app.conftest import CloudParts

pytestmark = pytest.mark.process
TABLE = "state"


@pytest.fixture
def client(cloud: CloudParts) -> Any:
    return cloud.client("dynamodb")


def tenant() -> str:
    return f"t-{secrets.token_hex(4)}"


def key_id(key: str) -> str:
    return key.split("_")[1]


def test_the_table_holds_no_key(client: Any) -> None:
    key = create_key(client, TABLE, tenant())
    stored = repr(client.scan(TableName=TABLE)["Items"])
    assert key not in stored
    assert key.split("_", 2)[2] not in stored
    assert key_hash(key) in stored


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
    assert keys.KEY.fullmatch(key)
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
