"""The image's recipe: pinned, hashed, without root, and complete."""

from __future__ import annotations

import compileall
import re
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
CONTAINER_USER = "10001:10001"

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The Dockerfile as (name, arguments), comments gone and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (APP / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    parsed = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in parsed]


def arguments(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def last_stage() -> list[Instruction]:
    """The instructions of the image that runs."""
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def locked() -> list[tuple[str, list[str]]]:
    """Each requirement of the lock with its hashes."""
    text = re.sub(r"^\s*#.*\n", "", (APP / "requirements.lock").read_text(), flags=re.MULTILINE)
    entries = re.sub(r"\\\n", " ", text).splitlines()
    return [
        (entry.split()[0], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)) for entry in entries if entry.strip()
    ]


def test_every_stage_begins_with_the_base_that_the_build_resolved() -> None:
    assert arguments("ARG") == ["BASE=public.ecr.aws/docker/library/python:3.13-slim-bookworm"]
    assert instructions()[0][0] == "ARG", "an ARG after FROM is not known to it"
    assert [stage.split()[0] for stage in arguments("FROM")] == ["${BASE}", "${BASE}"]


def test_only_locked_and_hashed_wheels_are_installed() -> None:
    [install] = [command for run in arguments("RUN") for command in run.split("&&") if "pip" in shlex.split(command)]
    words = shlex.split(install)
    assert {"--require-hashes", "--only-binary=:all:", "--no-deps"} <= set(words)
    assert Path(words[words.index("--requirement") + 1]).name == "requirements.lock"
    assert not [word for word in words if word.startswith(("http", "--index", "--extra-index", "--trusted"))]


def test_the_lock_pins_and_hashes_everything_and_names_no_index() -> None:
    entries = locked()
    assert len(entries) > 20
    for requirement, hashes in entries:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", requirement), requirement
        assert hashes, requirement
    assert "index-url" not in (APP / "requirements.lock").read_text()


def test_every_file_that_is_copied_exists_in_the_context() -> None:
    for copied in arguments("COPY"):
        words = shlex.split(copied)
        if words[0].startswith("--from="):
            stage = words[0].removeprefix("--from=")
            assert any(line.endswith(f"AS {stage}") for line in arguments("FROM"))
            continue
        for source in words[:-1]:
            assert (APP / source).exists(), source
            assert not is_ignored(source), source


def is_ignored(path: str) -> bool:
    patterns = [line for line in (APP / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    return any(fnmatch(path, pattern.removeprefix("**/")) for pattern in patterns)


@pytest.mark.parametrize(
    "path", ["__main__.py", "models.yaml", "prices.yaml", "models.schema.json", "requirements.lock", "product"]
)
def test_nothing_that_runs_is_left_out(path: str) -> None:
    assert (APP / path).exists()
    assert not is_ignored(path)


def test_caches_of_a_laptop_stay_on_it() -> None:
    assert is_ignored("__pycache__")
    assert is_ignored("server.cpython-311.pyc")


def test_it_runs_without_root_and_owns_its_one_writable_place() -> None:
    stage = last_stage()
    names = [name for name, _ in stage]
    assert ("USER", CONTAINER_USER) in stage
    assert "RUN" not in names[names.index("USER") :], "nothing is done as another user after it"
    assert ("VOLUME", '["/tmp"]') in stage
    owned = next(
        place for place, (name, rest) in enumerate(stage) if name == "RUN" and "chown 10001:10001 /tmp" in rest
    )
    assert owned < names.index("VOLUME"), "what is changed after a VOLUME is dropped"


def test_it_has_the_systems_certificates() -> None:
    assert any("ca-certificates" in rest for name, rest in last_stage() if name == "RUN")


def test_the_default_command_is_the_web_service() -> None:
    assert arguments("CMD") == ['["python", "-m", "app", "web"]']
    assert arguments("WORKDIR") == ["/srv"]
    assert "COPY . /srv/app" in [f"{name} {rest}" for name, rest in last_stage()]


def test_bytecode_is_made_in_the_build_and_never_when_it_runs(tmp_path: Path) -> None:
    assert any("PYTHONDONTWRITEBYTECODE=1" in line for line in arguments("ENV"))
    compiled = [run for run in arguments("RUN") if "compileall" in run]
    assert any("/srv/app" in run for run in compiled)
    assert any("/opt/venv/lib" in run for run in compiled)
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(copy, quiet=2)


def test_no_secret_and_no_version_of_its_own_is_in_the_recipe() -> None:
    text = (APP / "Dockerfile").read_text()
    assert not re.search(r"(?i)password|secret|api_key|token", text)
    assert "latest" not in text
