"""A pulumi command that is none, an emulated AWS, and what somebody types."""

import io
import json
import os
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moto
import pytest

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


@pytest.fixture
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
