"""The watchman of one run: ends what is left when the run itself was killed and could not clean up.

    python -S local/guard.py < pipe

It reads lines from a pipe whose other end only the run holds: `+PGID` and `-PGID` for process groups, `!PATH` for a
directory and `?PATH` to keep it. When the pipe closes, for whatever reason, it kills the groups and removes the
directories still on its list. Nothing but the standard library is imported: it is there before the first child.

A child that has ended may have left others of its group, and the system may have given its number to a stranger. Where
there is /proc the two are told apart by when the process of that number began.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_BEGAN = 19  # of the fields of /proc/PID/stat behind the name, which may hold spaces; proc(5) counts it the 22nd


def survivors(lines: Iterable[str]) -> tuple[dict[int, str], set[str]]:
    """The process groups, with when the first process of each began, and directories that the lines leave listed."""
    groups: dict[int, str] = {}
    directories: set[str] = set()
    for line in lines:
        kind, value = line[:1], line[1:].rstrip("\n")
        match kind:
            case "+":
                groups[int(value)] = began(int(value))
            case "-":
                groups.pop(int(value), None)
            case "!":
                directories.add(value)
            case "?":
                directories.discard(value)
            case _:
                raise ValueError(f"guard: line {line!r} begins with none of + - ! ?")
    return groups, directories


def began(pid: int) -> str:
    """When a process began, by the system's count; empty when there is none, or no /proc."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[_BEGAN]
    except OSError:
        return ""


def end(group: int, first: str) -> None:
    """Kill a process group, unless its number is a stranger's: one whose `first` process began at another time."""
    # No process gets the number of a group that is still there, so whoever has it now is of the group or a stranger.
    if began(group) not in ("", first):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or another user's by now
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Read until the pipe closes, then clean up."""
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, signal.SIG_IGN)  # only the end of the run ends the watch
    groups, directories = survivors(sys.stdin)
    for group, first in groups.items():
        end(group, first)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
