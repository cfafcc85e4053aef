"""The commands on a real account check before they start."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from stacks import __main__ as commands
from tests.stacks.conftest import Pulumi

pytestmark = pytest.mark.usefixtures("aws")

ALLOWED_ACCOUNT = "123456789012"  # moto's account, and the one in the committed stack files


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


def test_destroy_without_anybody_to_ask_names_the_option_for_that(
    pulumi: Pulumi, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed("")
    assert commands.main(["destroy", "dev"]) == 2
    assert "nothing was deleted. A pipeline says --yes" in capsys.readouterr().err
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
def test_help_names_every_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stacks", "--help"], cwd=commands.ROOT, capture_output=True, text=True, check=True
    )
    assert all(verb in done.stdout for verb in ("up", "destroy", "key", "rotate", "promote"))
