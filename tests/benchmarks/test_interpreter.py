"""What is measured runs on the fastest Python at hand, and on no other than the one that was asked for."""

import json
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import installs, interpreter
from benchmarks.installs import SkippedError
from benchmarks.interpreter import BadInterpreterError, best, fastest_of, on_path, probe, running

OWN_NANOSECONDS = 1_000_000


def python(folder: Path, name: str, nanoseconds: int, version: str = "3.12.1") -> Path:
    """A command that says of itself what pace.py says."""
    path = folder / name
    said = json.dumps({"home": str(path), "version": version, "nanoseconds": nanoseconds})
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH; the running Python takes OWN_NANOSECONDS, and every environment can be made."""
    home, own = running().home, probe(sys.executable)
    assert own is not None
    slow = interpreter.Candidate(home, own.version, OWN_NANOSECONDS)
    monkeypatch.setattr(interpreter, "probe", lambda name: slow if name == str(home) else probe(name))
    monkeypatch.setattr(installs, "project", lambda python: python.with_name("in-its-environment"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_running_python_is_probed_by_real_work() -> None:
    found = probe(sys.executable)
    assert found is not None
    assert found.home == running().home
    assert found.version == running().version
    assert 1_000 < found.nanoseconds < 100_000_000


@pytest.mark.parametrize("says", ["echo nonsense", "exit 1", 'echo \'{"version": "3"}\'', "echo []"])
def test_what_is_no_python_is_no_candidate(tmp_path: Path, says: str) -> None:
    path = tmp_path / "python3"
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    assert probe(str(path)) is None
    assert probe(str(tmp_path / "missing")) is None


def test_a_python_that_is_too_old_is_no_candidate(tmp_path: Path) -> None:
    assert probe(str(python(tmp_path, "python3", 1, version="3.10.13"))) is None


def test_a_shadowed_python_is_found_and_one_behind_two_names_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    shadow, hidden = python(tmp_path / "first", "python3", 9), python(tmp_path / "second", "python3", 7)
    (tmp_path / "second/python3.12").symlink_to(hidden)
    (tmp_path / "second/python3-config").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/second")
    assert on_path() == [str(shadow), str(hidden), str(tmp_path / "second/python3.12")]
    assert {home: one.nanoseconds for home, one in fastest_of(on_path()).items()} == {shadow: 9, hidden: 7}


def test_the_fastest_is_chosen_with_the_reason(at_hand: Path) -> None:
    python(at_hand, "python3", 900_000)
    fast = python(at_hand, "python3.13", 800_000, version="3.13.2")
    found = best(lambda _line: None)
    assert (found.home, found.version) == (fast, "3.13.2")
    assert found.module("app", "web") == [str(at_hand / "in-its-environment"), "-m", "app", "web"]
    assert found.why == f"25% faster than the {running().version} that runs the load"


def test_hardly_faster_is_chance_and_the_running_one_stays(at_hand: Path) -> None:
    python(at_hand, "python3", OWN_NANOSECONDS - 20_000)
    found = best(lambda _line: None)
    assert found.home == running().home
    assert found.command == Path(sys.executable)
    assert found.why == "the running one: none at hand is faster by 5%"


def test_a_faster_one_that_does_not_take_the_packages_is_left_and_said(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(at_hand, "python3", 500_000)

    def refuse(_python: Path) -> Path:
        raise SkippedError("pip failed: no network")

    monkeypatch.setattr(installs, "project", refuse)
    said: list[str] = []
    assert best(said.append).why == "the running one: the faster 3.12.1 does not take the packages"
    assert said == ["Python 3.12.1 is faster but not used: pip failed: no network"]


def test_the_one_that_is_asked_for_is_used_however_slow(at_hand: Path) -> None:
    slow = python(at_hand, "mine", 5 * OWN_NANOSECONDS)
    assert interpreter.asked_for(str(slow)).home == slow
    assert interpreter.asked_for(str(running().home)).command == Path(sys.executable)


def test_what_cannot_be_had_is_refused_and_nothing_else_is_taken(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["run", "--python", str(at_hand / "missing")]) == 1
    assert "no Python 3.11 or newer answers there" in capsys.readouterr().err

    def refuse(_python: Path) -> Path:
        raise SkippedError("pip failed: no network")

    monkeypatch.setattr(installs, "project", refuse)
    with pytest.raises(BadInterpreterError, match="no network"):
        interpreter.asked_for(str(python(at_hand, "mine", 1)))


def test_the_environment_has_by_hash_all_that_the_floor_needs() -> None:
    lock = installs.own_lock()
    names = {found[1] for found in installs._BLOCK.finditer(lock)}
    wanted = {"uvicorn", "uvloop", "httptools", "starlette", *installs.FLOOR}
    for one in requires("aiohttp") or []:
        if ";" not in one:
            wanted.add(one.split(">")[0].split("<")[0].strip())
    assert wanted <= names
    assert all("--hash=sha256:" in found[0] for found in installs._BLOCK.finditer(lock))
