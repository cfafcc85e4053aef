"""The commands on a real account check before they start, and never show or pass on the OpenAI key."""

import io
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from stacks import __main__ as commands

ALLOWED_ACCOUNT = "123456789012"  # moto's account, and the one in the committed stack files

# Behaves like the pulumi command as far as it is called: keeps the names of stacks, and writes down each call.
FAKE = """
    import json, os, pathlib, sys
    home = pathlib.Path(os.environ["FAKE_PULUMI_HOME"])
    args = sys.argv[1:]
    with (home / "calls").open("a") as calls:
        calls.write(json.dumps([args, os.getcwd()]) + "\\n")
    stacks = home / "stacks"
    known = stacks.read_text().split() if stacks.exists() else []
    if args[:2] == ["stack", "--show-name"]:
        sys.exit(0 if args[-1] in known else 6)
    if args[:2] == ["stack", "init"]:
        if os.environ.get("FAKE_PULUMI_REFUSES"):
            sys.exit("error: no backend")
        # as the real one does: the stack file beside the project file is written anew
        pathlib.Path(f"Pulumi.{args[2]}.yaml").write_text("encryptionsalt: v1:x\\n")
        stacks.write_text(" ".join([*known, args[2]]))
    if args[:2] == ["stack", "export"]:
        state = home / "state"
        print(state.read_text() if state.exists() else '{"version": 3, "deployment": null}')
    if args[:2] == ["stack", "output"]:
        if args[-1] not in known:
            sys.exit(f"error: no stack named '{args[-1]}' found")
        print((home / "outputs").read_text())
    if os.environ.get("FAKE_PULUMI_WAITS") and args[0] == "up":
        import signal
        stopped = []
        signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
        (home / "pid").write_text(str(os.getpid()))
        while not stopped:
            signal.pause()
        (home / "finished").write_text("its step")
        sys.exit(4)
    if args[0] in ("up", "destroy"):
        sys.exit(int(os.environ.get("FAKE_PULUMI_STATUS", "0")))
"""


class Pulumi:
    """The fake command's memory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call so far."""
        return [arguments for arguments, _ in self._lines()]

    @property
    def folders(self) -> list[str]:
        """Working directory of each call so far."""
        return [folder for _, folder in self._lines()]

    def knows(self, *stacks: str, **outputs: Any) -> None:
        """Lets stacks exist, with these outputs."""
        (self.home / "stacks").write_text(" ".join(stacks))
        (self.home / "outputs").write_text(json.dumps(outputs))

    def _lines(self) -> list[Any]:
        file = self.home / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    """A fake pulumi command, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "pulumi"
    command.write_text(f"#!{sys.executable}\n{textwrap.dedent(FAKE)}")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_PULUMI_HOME", str(tmp_path))
    return Pulumi(tmp_path)


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An emulated AWS in this process; no credentials of the machine are seen."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with moto.mock_aws():
        yield


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts text on standard input, which is no terminal."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def made_up_key() -> str:
    """A key of the right shape that is nobody's."""
    return "sk-" + secrets.token_urlsafe(30)


@pytest.mark.process
def test_up_makes_a_new_stack_and_deploys_it(pulumi: Pulumi) -> None:
    before = (commands.ROOT / "stacks" / "Pulumi.dev.yaml").read_text()
    assert commands.main(["up", "dev"]) == 0
    assert pulumi.calls == [
        ["stack", "--show-name", "--stack", "dev"],
        ["stack", "init", "dev"],
        ["stack", "export", "--stack", "dev"],
        ["up", "--stack", "dev"],
    ]
    assert pulumi.folders[2] == str(commands.ROOT)
    assert pulumi.folders[1] != str(commands.ROOT)
    assert (commands.ROOT / "stacks" / "Pulumi.dev.yaml").read_text() == before
    assert not Path(pulumi.folders[1]).exists()


@pytest.mark.process
def test_up_of_a_stack_that_exists_makes_none(pulumi: Pulumi) -> None:
    pulumi.knows("dev")
    assert commands.main(["up", "dev", "--yes"]) == 0
    assert pulumi.calls[2:] == [["up", "--stack", "dev", "--yes"]]


def test_an_up_after_one_that_was_cut_short_asks_aws_what_became_of_it(
    pulumi: Pulumi, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi.knows("dev")
    urn = "urn:pulumi:dev::prodkit::aws:ecs/cluster:Cluster::web-cluster"
    for left, refreshing in ((["context canceled"], ["--refresh"]), (None, [])):
        state = {"deployment": {"resources": [{"urn": urn, "initErrors": left}]}}
        (pulumi.home / "state").write_text(json.dumps(state))
        assert commands.main(["up", "dev"]) == 0
        assert pulumi.calls[-1] == ["up", "--stack", "dev", *refreshing]
        assert ("became of: web-cluster" in capsys.readouterr().out) is bool(left)


@pytest.mark.process
def test_the_status_of_pulumi_is_the_command_s(pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch) -> None:
    pulumi.knows("dev")
    monkeypatch.setenv("FAKE_PULUMI_STATUS", "3")
    assert commands.main(["up", "dev"]) == 3


@pytest.mark.process
def test_an_interrupted_deployment_finishes_its_step(pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch) -> None:
    pulumi.knows("dev")
    monkeypatch.setenv("FAKE_PULUMI_WAITS", "1")
    told = pulumi.home / "pid"

    def interrupt() -> None:
        while not (told.exists() and told.read_text()):
            threading.Event().wait(0.01)
        # as a terminal does: everyone in the foreground is told
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(int(told.read_text()), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    handler = signal.getsignal(signal.SIGINT)
    assert commands.main(["up", "dev"]) == 4
    thread.join()
    assert (pulumi.home / "finished").read_text() == "its step"
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.process
def test_a_stack_that_cannot_be_made_is_not_deployed(
    pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PULUMI_REFUSES", "1")
    assert commands.main(["up", "dev"]) == 2
    assert "could not make stack 'dev'" in capsys.readouterr().err
    assert "up" not in [call[0] for call in pulumi.calls]


@pytest.mark.parametrize("verb", ["up", "destroy", "key", "rotate"])
def test_an_unknown_stack_is_refused_with_those_that_exist(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([verb, "prdo"]) == 2
    assert "there is no stack 'prdo'; stacks that exist: dev, prod, staging" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["up", "destroy", "key", "rotate"])
def test_a_missing_command_is_said_with_where_to_get_it(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commands.main([verb, "dev"]) == 2
    assert "pulumi command is not on PATH; install it: https://www.pulumi.com/docs/install/" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["up", "destroy", "key", "rotate"])
def test_the_wrong_account_is_refused_before_pulumi_runs(
    verb: str, pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boto3.client("sts").get_caller_identity()["Account"] == ALLOWED_ACCOUNT
    monkeypatch.setattr(commands, "_config", lambda _stack: {"aws:allowedAccountIds": ["999999999999"]})
    assert commands.main([verb, "dev"]) == 2
    assert "account 123456789012, and stack 'dev' may go to 999999999999 only" in capsys.readouterr().err
    assert pulumi.calls == []


def test_a_stack_without_allowed_accounts_is_refused(
    pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "_config", lambda _stack: {})
    assert commands.main(["up", "dev"]) == 2
    assert "has no aws:allowedAccountIds" in capsys.readouterr().err
    assert pulumi.calls == []


def test_whoever_is_not_signed_in_is_told(
    pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    boto3.setup_default_session()
    assert commands.main(["up", "dev"]) == 2
    assert "AWS does not know who you are" in capsys.readouterr().err
    assert pulumi.calls == []


@pytest.mark.process
def test_destroy_goes_on_when_the_name_was_typed(pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _prompt: "dev")
    assert commands.main(["destroy", "dev"]) == 0
    assert pulumi.calls == [["destroy", "--stack", "dev", "--yes"]]


def test_destroy_stops_at_any_other_word(
    pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda _prompt: "yes")
    assert commands.main(["destroy", "dev"]) == 2
    assert "nothing was deleted" in capsys.readouterr().err
    assert pulumi.calls == []


def test_a_protected_stack_is_not_half_destroyed(pulumi: Pulumi, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["destroy", "prod", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "stack 'prod' is protected; nothing was deleted" in said
    assert "set prodkit:protect to false in stacks/Pulumi.prod.yaml, deploy that with make up STACK=prod" in said
    assert pulumi.calls == []


@pytest.mark.process
def test_destroy_with_yes_does_not_ask(pulumi: Pulumi) -> None:
    assert commands.main(["destroy", "dev", "--yes"]) == 0
    assert pulumi.calls == [["destroy", "--stack", "dev", "--yes"]]


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


@pytest.mark.process
def test_help_names_every_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stacks", "--help"], cwd=commands.ROOT, capture_output=True, text=True, check=True
    )
    assert all(verb in done.stdout for verb in ("up", "destroy", "key", "rotate", "promote"))
