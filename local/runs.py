"""Which runs of `make up` serve now: each leaves a note while it does, by which commands find its AWS."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from local.children import ROOT

FOLDER = ROOT / ".prodkit" / "up"


@dataclass(frozen=True)
class Run:
    """What a note says."""

    port: int
    environment: Mapping[str, str]
    """Points a command at the run's emulated AWS. Nothing in it is secret: the credentials are made up."""


@contextlib.contextmanager
def noted(run: Run) -> Iterator[None]:
    """Leave a note inside the block. It is locked by this process, so that one whose process died is known by that."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path, new = FOLDER / f"{run.port}.json", FOLDER / f"{run.port}.{os.getpid()}.new"
    with new.open("w") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        json.dump(asdict(run), note)
        note.flush()
        new.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def serving() -> list[Run]:
    """The runs that serve, by port; the notes of those that were killed are thrown away."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        with contextlib.suppress(FileNotFoundError), path.open() as note:
            try:
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(Run(**json.load(note)))
            else:
                path.unlink(missing_ok=True)
    return found
