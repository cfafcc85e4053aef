"""What Linux says about processes: CPU time and memory of a tree, out of the text under /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_SCHEDULED = 2
"""The clock of clock_getcpuclockid(3): with the process's number, what its threads ran, those that ended too."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/<pid>/stat that are used here."""

    pid: int
    parent: int
    ended_ticks: int
    """User and system time of its children that ended and were waited for, in clock ticks."""


def parse_stat(text: str) -> Stat:
    """One line of /proc/<pid>/stat; the name in it may hold spaces and parentheses."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    # proc(5) counts from 1 and the pid; `fields` begins with field 3, the state.
    return Stat(int(pid), int(fields[1]), int(fields[13]) + int(fields[14]))


def parse_resident_kib(text: str) -> int:
    """VmRSS in /proc/<pid>/status, KiB; 0 for a process that has no memory any more."""
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def tree(root: int, stats: list[Stat]) -> list[Stat]:
    """`root` and everything below it."""
    members = {root}
    while True:
        more = {stat.pid for stat in stats if stat.parent in members} - members
        if not more:
            return [stat for stat in stats if stat.pid in members]
        members |= more


def tree_of(pid: int) -> list[Stat]:
    """The tree of a running process."""
    found = []
    for path in PROC.glob("[0-9]*/stat"):
        try:
            found.append(parse_stat(path.read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we read
    return tree(pid, found)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process's tree so far."""
    return sum(own_seconds(stat.pid) + stat.ended_ticks / os.sysconf("SC_CLK_TCK") for stat in tree_of(pid))


def own_seconds(pid: int) -> float:
    """The same of this process alone, with all its threads, to the nanosecond; 0 when it is gone."""
    try:
        return time.clock_gettime_ns(~pid << 3 | _SCHEDULED) / 1e9
    except OSError:
        return 0.0


def resident_mib(pid: int) -> float:
    """Resident memory of a process's tree; pages that two of its processes share count twice."""
    return sum(parse_resident_kib(_status(stat.pid)) for stat in tree_of(pid)) / 1024


def _status(pid: int) -> str:
    try:
        return (PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
