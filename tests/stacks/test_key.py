"""`make key` stores a key that nobody sees: not on the screen, not in Pulumi's calls."""

import json
import secrets
import sys
from collections.abc import Callable

import boto3
import pytest

from stacks import __main__ as commands
from tests.stacks.conftest import Pulumi

pytestmark = pytest.mark.usefixtures("aws")


def made_up_key() -> str:
    """A key of the right shape that is nobody's."""
    return "sk-" + secrets.token_urlsafe(30)


@pytest.mark.process
def test_key_stores_what_standard_input_says_and_shows_nothing_of_it(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    client = boto3.client("secretsmanager", region_name="us-east-1")
    name, key = client.create_secret(Name="api-key-secret-1")["Name"], made_up_key()
    pulumi.knows("dev", secret_name=name)
    typed(f"{key}\n")
    assert commands.main(["key", "dev"]) == 0
    assert client.get_secret_value(SecretId=name)["SecretString"] == key
    shown = capsys.readouterr()
    assert name in shown.out
    assert key not in shown.out + shown.err
    assert key not in json.dumps(pulumi.calls)


@pytest.mark.process
def test_key_asks_without_echo_on_a_terminal(pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("secretsmanager", region_name="us-east-1")
    name, key = client.create_secret(Name="api-key-secret-1")["Name"], made_up_key()
    pulumi.knows("dev", secret_name=name)
    asked: list[str] = []

    def hidden(prompt: str) -> str:
        asked.append(prompt)
        return key

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", hidden)
    assert commands.main(["key", "dev"]) == 0
    assert asked == ["OpenAI key for stack dev (not shown): "]
    assert client.get_secret_value(SecretId=name)["SecretString"] == key


@pytest.mark.process
@pytest.mark.parametrize("text", ["", "not-a-key", "sk-short", "sk-has spaces in it and is long enough"])
def test_key_refuses_what_is_no_key_without_repeating_it(
    text: str, pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi.knows("dev", secret_name="api-key-secret-1")
    typed(text)
    assert commands.main(["key", "dev"]) == 2
    shown = capsys.readouterr()
    assert "that is no OpenAI key" in shown.err
    assert not text or text not in shown.out + shown.err


@pytest.mark.process
def test_the_admin_key_goes_into_a_secret_of_its_own(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    client = boto3.client("secretsmanager", region_name="us-east-1")
    name, key = client.create_secret(Name="api-key-admin-1")["Name"], f"sk-admin-{secrets.token_urlsafe(30)}"
    pulumi.knows("prod", secret_name="api-key-secret-1", admin_secret_name=name)
    typed(key)
    assert commands.main(["key", "prod", "--admin"]) == 0
    assert client.get_secret_value(SecretId=name)["SecretString"] == key
    shown = capsys.readouterr()
    assert key not in shown.out + shown.err


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "start", "text"),
    [((), "sk-admin-", "that is an admin key"), (("--admin",), "sk-svcacct-", "that is a project's key")],
)
def test_one_kind_of_key_is_not_taken_for_the_other(
    options: tuple[str, ...],
    start: str,
    text: str,
    pulumi: Pulumi,
    typed: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = start + secrets.token_urlsafe(30)
    pulumi.knows("prod", secret_name="api-key-secret-1", admin_secret_name="api-key-admin-1")
    typed(key)
    assert commands.main(["key", "prod", *options]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert key not in shown.out + shown.err


@pytest.mark.process
def test_an_admin_key_has_no_place_where_nothing_rotates(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi.knows("dev", secret_name="api-key-secret-1")
    typed(made_up_key())
    assert commands.main(["key", "dev", "--admin"]) == 2
    assert "set prodkit:rotationDays and deploy it first" in capsys.readouterr().err


@pytest.mark.process
def test_key_says_that_the_stack_must_be_deployed_first(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed(made_up_key())
    assert commands.main(["key", "dev"]) == 2
    assert "no stack named 'dev' found" in capsys.readouterr().err
    pulumi.knows("dev")
    assert commands.main(["key", "dev"]) == 2
    assert "deploy it first: make up STACK=dev" in capsys.readouterr().err


@pytest.mark.process
def test_key_says_when_the_secret_is_gone_without_showing_the_key(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    key = made_up_key()
    pulumi.knows("dev", secret_name="api-key-secret-gone")
    typed(key)
    assert commands.main(["key", "dev"]) == 2
    shown = capsys.readouterr()
    assert "the key was not stored in api-key-secret-gone" in shown.err
    assert key not in shown.out + shown.err
