"""The watchman of one run: ends what is left when the run itself was killed and could not clean up.

    python -S local/guard.py < pipe

It reads lines from a pipe whose other end only the run holds: `+PGID` and `-PGID` for process groups, `!PATH` for a
directory and `?PATH` to keep it. When the pipe closes, for whatever reason, it kills the groups and removes the
directories still on its list. Nothing but the standard library is imported: it is there before the first child.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable


def survivors(lines: Iterable[str]) -> tuple[set[int], set[str]]:
    """The process groups and directories that the lines leave on the list."""
    groups: set[int] = set()
    directories: set[str] = set()
    for line in lines:
        kind, value = line[:1], line[1:].rstrip("\n")
        match kind:
            case "+":
                groups.add(int(value))
            case "-":
                groups.discard(int(value))
            case "!":
                directories.add(value)
            case "?":
                directories.discard(value)
            case _:
                raise ValueError(f"guard: line {line!r} begins with none of + - ! ?")
    return groups, directories


def main() -> None:
    """Read until the pipe closes, then clean up."""
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, signal.SIG_IGN)  # only the end of the run ends the watch
    groups, directories = survivors(sys.stdin)
    for group in groups:
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # already gone, or the id is another user's by now
            os.killpg(group, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
