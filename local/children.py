"""The processes of one run: started in groups of their own, logged to files, watched by the guard, ended for sure."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KILL_GRACE_SECONDS = 3.0
"""How long a server has between SIGTERM and SIGKILL; replicas have their recorded stop timeout instead."""


class ChildFailedError(Exception):
    """A process ended before it was ready; the text carries the last lines of its log."""


@dataclass(eq=False)
class Child:
    """A started process. `announced` is the JSON object it printed when ready, if it prints one."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    announced: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not exited yet."""
        return self.process.returncode is None

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def failed(self, doing: str) -> ChildFailedError:
        """The error that says what it was doing when it ended, and its last words."""
        return self.error(f"ended with {exit_text(self.process.returncode)} while {doing}")

    def error(self, what: str) -> ChildFailedError:
        """An error about this process, with its last words."""
        return ChildFailedError(f"{self.name} {what}; the end of {self.log}:\n{self.tail()}")


def exit_text(code: int | None) -> str:
    """An exit status in words: "status 3" or "SIGKILL"."""
    if code is None:
        return "no status"
    return signal.Signals(-code).name if code < 0 else f"status {code}"


class Children:
    """Owner of every process and of the run directory. Use it as an async context manager."""

    def __init__(self, keep_logs: bool = False) -> None:
        """`keep_logs`: leave the run directory behind."""
        self.keep_logs = keep_logs
        self.directory = Path(tempfile.mkdtemp(prefix="prodkit-"))
        self.children: list[Child] = []
        guard = [sys.executable, "-S", "-E", str(ROOT / "local" / "guard.py")]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, env=base_environment(), start_new_session=True)
        self._tell(f"!{self.directory}")

    async def __aenter__(self) -> "Children":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(line.encode() + b"\n")
        self._guard.stdin.flush()

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, pipes: bool = False
    ) -> Child:
        """Start a command in the project's directory with exactly this environment; its output goes to `<name>.log`.

        With `pipes` standard input and output are left to the caller and only standard error is logged.
        """
        log = self.directory / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if pipes else sink,
                stderr=sink,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._tell(f"+{child.pid}")
        self.children.append(child)
        return child

    async def announced(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a server that prints one JSON line when ready, and wait for that line. Raises ChildFailedError."""
        child = await self.start(name, command, environment, pipes=True)
        child.announced = await self.answer(child)
        return child

    async def answer(self, child: Child) -> dict[str, Any]:
        """The next line of a piped child as a JSON object; ChildFailedError when it ends instead."""
        assert child.process.stdout is not None
        line = await child.process.stdout.readline()
        if not line:
            await child.process.wait()
            raise child.failed("starting")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(
        self,
        child: Child,
        grace_seconds: float = KILL_GRACE_SECONDS,
        order: signal.Signals = signal.SIGTERM,
    ) -> int:
        """`order`, wait, SIGKILL to the whole group; the exit status. A child that is gone is only forgotten."""
        if child.running:
            _signal(child, order)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await child.process.wait()
        _signal(child, signal.SIGKILL)
        await child.process.wait()
        return self.forget(child)

    def forget(self, child: Child) -> int:
        """Take an ended child, and whatever it left of its group, off the list; its exit status."""
        _signal(child, signal.SIGKILL)
        if child in self.children:
            self.children.remove(child)
            self._tell(f"-{child.pid}")
        assert child.process.returncode is not None
        return child.process.returncode

    def kill_all(self) -> None:
        """End every process now."""
        for child in self.children:
            _signal(child, signal.SIGKILL)

    async def close(self) -> None:
        """Stop what still runs, remove the run directory unless it is kept, and let the guard go."""
        await asyncio.gather(*(self.stop(child) for child in self.children))
        if self.keep_logs:
            self._tell(f"?{self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        await asyncio.to_thread(self._guard.wait)


def _signal(child: Child, number: signal.Signals) -> None:
    """To a child's group, which may outlive it; to nobody else."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone; macOS says so with EPERM
        # No process gets the number of a group that is still there: one that has it now leads a group of its own.
        if child.running or not _exists(child.pid):
            os.killpg(child.pid, number)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def base_environment() -> dict[str, str]:
    """What every process of a run inherits from the shell: where programs are, how text is encoded. No secret."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of the project's modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
