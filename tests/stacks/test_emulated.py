"""`up` and `destroy` with `--emulated`: nothing real is told, nothing committed is touched, what lacks is named."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks import __main__ as commands
from stacks import emulated

REGION = "us-east-1"
# As far as it is called: keeps the names of stacks, and writes down its arguments and what it was told of AWS.
FAKE = """
    import json, os, pathlib, sys
    home = pathlib.Path(os.environ["FAKE_PULUMI_HOME"])
    args = sys.argv[1:]
    told = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "PULUMI_"))}
    with (home / "calls").open("a") as calls:
        calls.write(json.dumps([args, told]) + "\\n")
    known = pathlib.Path(told["PULUMI_BACKEND_URL"].removeprefix("file://")) / "known"
    if args[:2] == ["stack", "--show-name"]:
        sys.exit(0 if known.exists() else 6)
    if args[:2] == ["stack", "init"]:
        with pathlib.Path(f"Pulumi.{args[2]}.yaml").open("a") as file:
            file.write("encryptionsalt: v1:x\\n")
        known.touch()
    if args[:2] == ["stack", "export"]:
        print('{"version": 3, "deployment": null}')
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake pulumi command with its plugin, real credentials in the environment; the file its calls are written to."""
    (tmp_path / "bin").mkdir()
    for name in ("pulumi", "pulumi-resource-aws"):
        command = tmp_path / "bin" / name
        command.write_text(f"#!{sys.executable}\n{textwrap.dedent(FAKE)}")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_PULUMI_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "real")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    monkeypatch.setattr(emulated, "FOLDER", tmp_path / "emulated")
    return tmp_path / "calls"


@pytest.fixture
def ended(calls: Path) -> Iterator[None]:
    """Ends what a test leaves running."""
    yield
    left = emulated.find(emulated.FOLDER / "dev")
    if left:
        left.forget()


def made(calls: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and AWS environment of each call so far."""
    return [(args, told) for args, told in map(json.loads, calls.read_text().splitlines())]


def an_emulation(folder: Path) -> emulated.Emulation:
    """A folder without a process."""
    return emulated.Emulation(folder, "http://127.0.0.1:1", 0)


@pytest.mark.process
@pytest.mark.usefixtures("ended")
def test_a_second_up_finds_what_the_first_one_made(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (emulated.ROOT / "stacks" / "Pulumi.dev.yaml").read_bytes()
    assert commands.main(["up", "dev", "--emulated"]) == 0
    first = emulated.find(emulated.FOLDER / "dev")
    assert "new and empty" in capsys.readouterr().out
    assert commands.main(["up", "dev", "--emulated"]) == 0
    assert "running already" in capsys.readouterr().out
    assert emulated.find(emulated.FOLDER / "dev") == first
    assert [args[:2] for args, _ in made(calls)] == [
        ["stack", "--show-name"],
        ["stack", "init"],
        ["stack", "export"],
        ["up", "--config-file"],
        ["stack", "--show-name"],
        ["stack", "export"],
        ["up", "--config-file"],
    ]
    assert yaml.safe_load((emulated.FOLDER / "dev" / "Pulumi.dev.yaml").read_text())["encryptionsalt"] == "v1:x"
    assert (emulated.ROOT / "stacks" / "Pulumi.dev.yaml").read_bytes() == before


@pytest.mark.process
@pytest.mark.usefixtures("ended")
def test_pulumi_is_told_of_the_emulated_aws_alone(calls: Path) -> None:
    commands.main(["up", "dev", "--emulated"])
    for _, told in made(calls):
        assert told["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
        assert (told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]) == ("test", "test")
        assert "real" not in told.values()
        assert told["PULUMI_BACKEND_URL"] == f"file://{emulated.FOLDER / 'dev' / 'state'}"


@pytest.mark.process
@pytest.mark.usefixtures("ended")
def test_destroy_ends_the_emulated_aws_and_forgets_it(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.main(["up", "dev", "--emulated"])
    assert commands.main(["destroy", "dev", "--emulated"]) == 0
    assert not (emulated.FOLDER / "dev").exists()
    assert commands.main(["destroy", "dev", "--emulated"]) == 2
    assert "make up STACK=dev EMULATED=1 starts one" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.usefixtures("ended")
def test_the_state_of_an_emulated_aws_that_has_ended_is_thrown_away(calls: Path) -> None:
    commands.main(["up", "dev", "--emulated"])
    first = emulated.find(emulated.FOLDER / "dev")
    assert first is not None
    first.end()
    assert emulated.find(emulated.FOLDER / "dev") is None
    commands.main(["up", "dev", "--emulated"])
    assert [args[1] for args, _ in made(calls) if args[0] == "stack"].count("init") == 2


@contextlib.contextmanager
def listener(unanswered: int, body: bytes) -> Iterator[str]:
    """An address that leaves the first callers without an answer and sends `body` to the others."""
    left, over = [unanswered], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            left[0] -= 1
            if left[0] >= 0:
                over.wait()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A request is not news."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def kept(folder: Path, url: str, pid: int) -> Path:
    """The folder of an emulated AWS, as if an earlier command had started it."""
    (folder / "state").mkdir(parents=True)
    (folder / "aws.json").write_text(json.dumps({"url": url, "pid": pid}))
    return folder


def ended_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_an_emulated_aws_that_is_only_slow_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "ASK_SECONDS", 0.2)
    with listener(2, b'{"pid": %d}' % os.getpid()) as url:
        found = emulated.emulation(kept(tmp_path / "dev", url, os.getpid()), "prodkit")
        assert (found.url, found.found) == (url, True)


def test_one_that_never_answers_is_named_and_nothing_of_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(emulated, "PATIENCE_SECONDS", 0.2)
    with listener(1_000, b"") as url:
        folder = kept(tmp_path / "dev", url, os.getpid())
        with pytest.raises(emulated.EmulationError, match=rf"process {os.getpid()}.*aws\.log.*kill {os.getpid()}"):
            emulated.emulation(folder, "prodkit")
        assert (folder / "state").exists()


def test_an_address_that_somebody_else_has_by_now_is_no_emulated_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, body in enumerate((b"welcome", b"[]", b'{"pid": %d}' % ended_process())):
        with listener(0, body) as url:
            assert emulated.find(kept(tmp_path / f"other-{number}", url, os.getpid())) is None
    assert emulated.find(kept(tmp_path / "nobody", url, os.getpid())) is None
    monkeypatch.setattr(emulated, "ASK_SECONDS", 0.05)
    with listener(1_000, b"") as url:
        assert emulated.find(kept(tmp_path / "silent", url, ended_process())) is None


def test_who_got_the_number_of_an_emulated_aws_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    for body in (None, b"welcome", b'{"pid": %d}' % ended_process()):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            try:
                with listener(0, body) if body else contextlib.nullcontext("http://127.0.0.1:1") as url:
                    emulated.Emulation(tmp_path, url, stranger.pid, found=True).end()
            finally:
                stranger.communicate(b"\n")
            assert stranger.returncode == 0


def test_destroying_a_protected_emulated_stack_is_refused_with_the_way_on(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulated, "find", lambda folder: emulated.Emulation(folder, "http://127.0.0.1:1", 12345))
    assert commands.main(["destroy", "prod", "--emulated"]) == 2
    refusal = capsys.readouterr().err
    for part in ("is protected", "nothing was deleted", "prodkit:protect", "EMULATED=1", "kill 12345"):
        assert part in refusal
    assert not calls.exists()


def test_a_missing_plugin_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "pulumi"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path))
    assert commands.main(["up", "dev", "--emulated"]) == 2
    assert "run: pulumi plugin install resource aws v" in capsys.readouterr().err
    command.unlink()
    assert commands.main(["up", "dev", "--emulated"]) == 2
    assert "the pulumi command is not on PATH; install it: https://" in capsys.readouterr().err


def test_the_copy_names_the_emulated_account_and_nothing_that_only_a_real_one_has(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "aws:region": REGION,
        "aws:allowedAccountIds": ["999999999999"],
        "aws:profile": "work",
        "prodkit:protect": True,
    }
    file = an_emulation(tmp_path).config_file("dev", config, {"prodkit:protect": False})
    written = yaml.safe_load(file.read_text())["config"]
    assert written == {"aws:region": REGION, "prodkit:protect": False, **emulated.SETTINGS}


@pytest.mark.parametrize("key", emulated.EXISTING)
def test_what_exists_in_a_real_account_only_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(emulated.EmulationError, match=key):
        an_emulation(tmp_path).config_file("dev", {"aws:region": REGION, f"prodkit:{key}": "x-1"})


@pytest.mark.parametrize(("given", "expected"), [("1", True), ("0", False), ("", False)])
def test_make_passes_emulated_on(given: str, expected: bool) -> None:
    for target in ("up", "destroy"):
        command = ["make", "--dry-run", "--assume-old", ".venv/.installed", target, "STACK=dev", f"EMULATED={given}"]
        shown = subprocess.run(command, cwd=emulated.ROOT, capture_output=True, text=True, check=True).stdout
        assert (f"-m stacks {target} dev --emulated" in shown) is expected
