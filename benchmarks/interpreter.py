"""Which Python runs what is measured: the fastest at hand, as the image's is built with every optimisation.

A Python that was compiled without them, as version managers do by default, is slower by a fifth. What is measured with
it is a gateway that nobody deploys. All targets in Python, and the stub, run on the same one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import installs, pace
from benchmarks.installs import SkippedError

LEAST = (3, 11)
"""As the project's own `requires-python` says."""
MARGIN = 1.05
"""Another one has to be faster by this: less is chance."""
PROBES = 3
PROBE_SECONDS = 20


class BadInterpreterError(Exception):
    """The interpreter that was asked for cannot be used; the text says why."""


@dataclass(frozen=True)
class Interpreter:
    """A Python with all that the project's own targets need."""

    home: Path
    """The interpreter that environments are made of."""
    command: Path
    """The one in its environment."""
    version: str
    why: str

    def module(self, name: str, *arguments: str) -> list[str]:
        """The command that runs one of the project's modules with it."""
        return [str(self.command), "-m", name, *arguments]


@dataclass(frozen=True)
class Candidate:
    """A Python that could be used."""

    home: Path
    version: str
    nanoseconds: int
    """The least for a fixed piece of work."""


def running(why: str = "the running one") -> Interpreter:
    """The interpreter of this process, which has everything already."""
    home = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return Interpreter(home, Path(sys.executable), platform.python_version(), why)


def asked_for(path: str) -> Interpreter:
    """This interpreter and no other; raises BadInterpreterError when it cannot be used."""
    found = probe(path)
    if found is None:
        least = ".".join(map(str, LEAST))
        raise BadInterpreterError(f"--python {path}: no Python {least} or newer answers there")
    if found.home == running().home:
        return running("asked for")
    try:
        return Interpreter(found.home, installs.project(found.home), found.version, "asked for")
    except SkippedError as error:
        raise BadInterpreterError(f"--python {path}: {error}") from error


def best(say: Callable[[str], None]) -> Interpreter:
    """The fastest of those on PATH and the running one that takes the project's packages."""
    own = running()
    measured = fastest_of([str(own.home), *on_path()])
    reference = measured.pop(own.home, None)
    if reference is None:
        return own
    why = f"{own.why}: none at hand is faster by {MARGIN - 1:.0%}"
    for candidate in sorted(measured.values(), key=lambda one: one.nanoseconds):
        faster = reference.nanoseconds / candidate.nanoseconds
        if faster < MARGIN:
            break
        try:
            command = installs.project(candidate.home)
        except SkippedError as error:
            why = f"{own.why}: the faster {candidate.version} does not take the packages"
            say(f"Python {candidate.version} is faster but not used: {error}")
            continue
        why = f"{faster - 1:.0%} faster than the {own.version} that runs the load"
        return Interpreter(candidate.home, command, candidate.version, why)
    return running(why)


def fastest_of(commands: Iterable[str]) -> dict[Path, Candidate]:
    """Each different interpreter behind these commands with the least time of several probes, taken in turns."""
    found: dict[Path, Candidate] = {}
    names = list(commands)
    for _ in range(PROBES):
        for name in list(names):
            seen = probe(name)
            if seen is None:
                names.remove(name)
            elif seen.home not in found or seen.nanoseconds < found[seen.home].nanoseconds:
                found[seen.home] = seen
    return found


def probe(command: str) -> Candidate | None:
    """What stands behind a command; None when it is no Python of a version that will do."""
    line = [command, "-I", str(pace.__file__)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
        said = json.loads(done.stdout)
        version = str(said["version"])
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
            return None
        return Candidate(Path(said["home"]), version, int(said["nanoseconds"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def on_path() -> list[str]:
    """Commands on PATH that are called like a Python of a version that will do, the shadowed ones too."""
    names = ["python3", *(f"python3.{minor}" for minor in range(LEAST[1], 20))]
    folders = dict.fromkeys(filter(None, os.environ.get("PATH", "").split(os.pathsep)))
    return [str(path) for folder in folders for name in names if os.access(path := Path(folder) / name, os.X_OK)]
