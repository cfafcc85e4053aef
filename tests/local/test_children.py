"""Processes end when the run ends, whichever way it ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local import guard
from local.children import ROOT, ChildFailedError, Children, base_environment, exit_text, python
from local.guard import survivors
from tests.patience import PATIENCE_SECONDS

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc"),
]

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); signal.pause()",
]


def alive(pid: int) -> bool:
    """Whether a process exists and is not only waiting for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the operating system sets no event
            await asyncio.sleep(0.01)


async def test_closing_ends_every_child_and_removes_the_directory() -> None:
    async with Children() as children:
        child = await children.start("one", FOREVER, base_environment())
        assert children.directory.is_dir()
    assert not alive(child.pid)
    assert not children.directory.exists()


async def test_logs_stay_when_they_are_to_be_kept(tmp_path: Path) -> None:
    async with Children() as children:
        child = await children.start("one", [sys.executable, "-c", "print('said')"], base_environment())
        await child.process.wait()
        children.keep_logs = True
    assert (children.directory / "one.log").read_text() == "said\n"
    (children.directory / "one.log").unlink()
    children.directory.rmdir()


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    async with Children() as children:
        child = await children.announced("deaf", DEAF, base_environment())
        assert await children.stop(child, grace_seconds=0.1) == -signal.SIGKILL


async def test_grandchildren_end_with_their_group() -> None:
    program = (
        "import json, signal, subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "print(json.dumps({'pid': p.pid}), flush=True); signal.pause()"
    )
    async with Children() as children:
        child = await children.announced("parent", [sys.executable, "-c", program], base_environment())
        os.kill(child.pid, signal.SIGKILL)
        await children.stop(child)
        await until(lambda: not alive(child.announced["pid"]))


async def test_who_got_the_number_of_a_child_that_has_ended_is_left_alone() -> None:
    async with Children() as children:
        ended = await children.start("ended", [sys.executable, "-c", ""], base_environment())
        await ended.process.wait()
        stranger = await asyncio.create_subprocess_exec(*FOREVER, start_new_session=True)
        try:
            # As if the system had come round to this number again.
            namesake = SimpleNamespace(pid=stranger.pid, returncode=0, wait=_waited)
            ended.process = cast(asyncio.subprocess.Process, namesake)
            children.kill_all()
            await children.stop(ended)
        finally:
            stranger.terminate()
            assert await stranger.wait() == -signal.SIGTERM  # not the SIGKILL of a group


async def _waited() -> int:
    return 0


async def test_a_server_that_ends_before_it_is_ready_says_why() -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    async with Children() as children:
        with pytest.raises(ChildFailedError, match=r"(?s)broken ended with status 1 while starting.*no such thing"):
            await children.announced("broken", broken, base_environment())


async def test_a_run_that_is_killed_leaves_no_process_and_no_directory() -> None:
    program = (
        "import asyncio, json, sys\n"
        "from local.children import Children, base_environment\n"
        "async def main():\n"
        "    async with Children() as children:\n"
        f"        child = await children.start('one', {FOREVER!r}, base_environment())\n"
        "        print(json.dumps({'pid': child.pid, 'directory': str(children.directory)}), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert run.stdout is not None
    told = json.loads(await run.stdout.readline())
    assert alive(told["pid"])
    run.kill()
    await run.wait()
    await until(lambda: not alive(told["pid"]))
    await until(lambda: not Path(told["directory"]).exists())


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(1, 5)), max_size=30))
def test_the_guard_ends_exactly_what_was_started_and_not_stopped(told: list[tuple[str, int]]) -> None:
    last = {group: kind for kind, group in told}
    groups, directories = survivors(f"{kind}{group}\n" for kind, group in told)
    assert groups.keys() == {group for group, kind in last.items() if kind == "+"}
    assert directories == set()


async def test_the_guard_leaves_alone_who_got_the_number_of_a_child_that_has_ended() -> None:
    one = await asyncio.create_subprocess_exec(*FOREVER, start_new_session=True)
    groups, _ = survivors([f"+{one.pid}\n"])
    assert groups[one.pid].isdecimal()
    guard.end(one.pid, str(int(groups[one.pid]) - 1))  # as if that had been an earlier process
    guard.end(one.pid, "")  # or one that was gone before it was looked at
    await asyncio.sleep(0.1)
    assert alive(one.pid)
    guard.end(one.pid, groups[one.pid])
    assert await one.wait() == -signal.SIGKILL
    guard.end(one.pid, groups[one.pid])  # of no effect


def test_the_guard_refuses_a_line_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="begins with none of"):
        survivors(["*7\n"])


def test_children_inherit_no_secret_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("AWS_PROFILE", "production")
    assert not {"OPENAI_API_KEY", "AWS_PROFILE"} & set(base_environment())


def test_an_exit_status_is_said_in_words() -> None:
    assert exit_text(-9) == "SIGKILL"
    assert exit_text(3) == "status 3"
    assert python("app")[1:] == ["-m", "app"]
