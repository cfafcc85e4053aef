"""`make kill` finds the stack's table and says who asks; the app's own command does the rest."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import moto
import pytest

from stacks import __main__ as commands


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every call of the app's command; it says that it worked."""
    made: list[list[str]] = []

    def run(*command: str, **_options: Any) -> subprocess.CompletedProcess[str]:
        made.append(list(command))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(commands, "_run", run)
    monkeypatch.setattr(commands, "_ready", lambda _stack: "pulumi")
    monkeypatch.setattr(commands, "_outputs", lambda _pulumi, _stack: {"state_table": "state-1"})
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return made


@pytest.mark.parametrize(
    ("arguments", "verb", "scope"),
    [
        (["--tenant", "acme"], "hold", "tenant:acme"),
        (["--key", "0123456789ab"], "hold", "key:0123456789ab"),
        (["--model", "gpt-6.2-sol", "--undo"], "release", "model:gpt-6.2-sol"),
        (["--all"], "hold", "org"),
    ],
)
def test_the_app_is_told_what_and_where_and_by_whom(
    calls: list[list[str]], arguments: list[str], verb: str, scope: str
) -> None:
    with moto.mock_aws():
        assert commands.main(["kill", "dev", *arguments, "--why", "runaway"]) == 0
    [command] = calls
    assert command[:5] == [sys.executable, "-m", "app.budgets", verb, scope]
    said = dict(zip(command[5::2], command[6::2], strict=True))
    undo = said.pop("--undo-by", "")
    assert said == {"--why": "runaway", "--by": said["--by"], "--table": "state-1", "--region": "us-east-1"}
    assert said["--by"]
    what = f"{arguments[0][2:].upper()}={arguments[1] if arguments[0] != '--all' else 1}"
    assert undo == (f"make kill STACK=dev {what} UNDO=1 WHY='...'" if verb == "hold" else "")


def test_the_app_has_the_command_that_is_called() -> None:
    from app.budgets.__main__ import _parser

    given = _parser().parse_args(
        ["hold", "org", *["--why", "w", "--by", "b", "--table", "t", "--region", "r", "--undo-by", "u", "--dry-run"]]
    )
    assert (given.verb, given.table, given.region, given.dry_run) == ("hold", "t", "r", True)


@pytest.mark.parametrize("arguments", [[], ["--tenant", "a", "--all"], ["--tenant", "a", "--model", "m"]])
def test_one_thing_is_killed_at_a_time(calls: list[list[str]], arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["kill", "dev", *arguments, "--why", "x"])
    assert calls == []


def test_a_stack_that_was_never_deployed_is_refused(
    calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "_outputs", lambda _pulumi, _stack: {})
    assert commands.main(["kill", "dev", "--all", "--why", "x"]) == 2
    assert "deploy it first: make up STACK=dev" in capsys.readouterr().err
    assert calls == []


def made(*given: str) -> subprocess.CompletedProcess[str]:
    root = Path(commands.__file__).resolve().parent.parent
    command = ["make", "--dry-run", "--assume-old", ".venv/.installed", "kill", *given]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_makefile_passes_everything_on() -> None:
    shown = made("STACK=dev", "TENANT=acme", "UNDO=1", "WHY=a test").stdout
    assert "-m stacks kill dev --tenant 'acme'" in shown
    assert "--undo --why 'a test'" in shown


def test_a_reason_may_hold_what_the_shell_and_make_have_a_meaning_for() -> None:
    why = 'it\'s $5 an hour; "stop" `it` $(now)'
    [line] = [line for line in made("STACK=dev", "ALL=1", f"WHY={why}").stdout.splitlines() if "--why" in line]
    assert shlex.split(line)[-2:] == ["--why", why]


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (["STACK=dev", "WHY=x"], "name what to stop: TENANT="),
        (["STACK=dev", "ALL=1"], 'say why, for the record and whoever undoes it: WHY="..."'),
    ],
)
def test_the_makefile_says_what_is_missing(given: list[str], fix: str) -> None:
    refused = made(*given)
    assert refused.returncode != 0
    assert fix in refused.stderr
    assert " kill " not in refused.stdout


def test_without_a_stack_it_is_the_run_on_this_machine_and_an_exported_stack_is_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STACK", raising=False)
    assert "-m local kill --port 8080 tenant:'acme'" in made("TENANT=acme", "WHY=x").stdout
    monkeypatch.setenv("STACK", "prod")
    refused = made("TENANT=acme", "WHY=x")
    assert "an exported STACK does not count: make kill STACK=prod" in refused.stderr
    assert " kill " not in refused.stdout
    assert "-m stacks kill dev" in made("STACK=dev", "TENANT=acme", "WHY=x").stdout
