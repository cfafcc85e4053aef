"""A step that runs is ended with its plugins; one that has ended is nobody any more."""

import os
import threading
from pathlib import Path

import pytest

from stacks import emulated
from tests.engine.life import Life


def a_life(folder: Path) -> Life:
    """Of a stack whose pulumi has nothing to do, and waits when it is to preview."""
    command = folder / "pulumi"
    command.write_text('#!/bin/sh\n[ "$1" = preview ] && exec sleep 60\nexit 0\n')
    command.chmod(0o755)
    return Life(str(command), "dev", emulated.Emulation(folder, "http://127.0.0.1:1", 0))


@pytest.mark.process
def test_only_a_step_that_runs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = a_life(tmp_path)
    signalled: list[int] = []
    kill = os.killpg

    def noted(group: int, number: int) -> None:
        signalled.append(group)
        kill(group, number)

    monkeypatch.setattr(os, "killpg", noted)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(life.run("preview").status))
    thread.start()
    while life._running is None:
        thread.join(0.01)
    life.end()
    thread.join()
    assert statuses == [-9]
    assert len(set(signalled)) == 1
    del signalled[:]
    life.end()
    assert signalled == []
    with pytest.raises(RuntimeError, match="was ended"):
        life.run("preview")
