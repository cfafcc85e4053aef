"""A run is found while it serves, and not after it ended or was killed."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local import kill, runs
from local.children import ROOT
from local.runs import Run, noted, serving

HERE = Run(8080, {"AWS_REGION": "us-east-1", "PRODKIT_STATE_TABLE": "state"})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FOLDER", tmp_path / "up")


def test_a_run_is_found_while_it_serves() -> None:
    assert serving() == []
    with noted(HERE), noted(Run(9090, {})):
        assert serving() == [HERE, Run(9090, {})]
        assert serving() == [HERE, Run(9090, {})]
    assert serving() == []


def test_a_run_that_was_killed_is_not_found_and_its_note_is_gone(tmp_path: Path) -> None:
    program = (
        f"import pathlib, time; from local import runs; runs.FOLDER = pathlib.Path({str(tmp_path / 'up')!r})\n"
        "with runs.noted(runs.Run(8080, {})): print('noted', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "noted\n"
        assert serving() == [Run(8080, {})]
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert serving() == []
    assert list((tmp_path / "up").iterdir()) == []


@pytest.mark.parametrize(
    ("ports", "wanted", "said"),
    [
        ((), 8080, "no run of make up serves here: nothing was stopped"),
        ((8081, 8082), 8080, "2 runs of make up serve here: say which by PORT=, one of 8081, 8082"),
    ],
)
def test_without_the_run_that_is_meant_nothing_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ports: tuple[int, ...], wanted: int, said: str
) -> None:
    monkeypatch.setattr(kill, "serving", lambda: [Run(port, {}) for port in ports])
    parser = argparse.ArgumentParser()
    kill.add_arguments(parser)
    assert kill.kill_here(parser.parse_args(["org", "--why", "x", "--port", str(wanted)])) == 2
    assert said in capsys.readouterr().err
