"""Installs what tests call from outside of the virtual environment, each by its lock: `python -m tests.installs`."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prodkit-tests"
NODE_CLIENT = Path(__file__).parent / "node"
"""OpenAI's client for Node.js."""
SCHEMATHESIS = Path(__file__).parent / "schemathesis"
"""Tests an API by its OpenAPI document; apart from the others, as it wants its own versions of what we pin."""
INSTALL_SECONDS = 300


def folder(pinned: Path) -> Path:
    """Where an install is kept, a folder for each lock, outside of the repository."""
    files = sorted(path for path in pinned.iterdir() if path.suffix in (".json", ".lock"))
    return CACHE / f"{pinned.name}-{hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]}"


def node_client() -> Path | None:
    """The folder with the client for Node.js; None when it or Node.js is not installed."""
    whole = (folder(NODE_CLIENT) / "node_modules/.package-lock.json").is_file()
    return folder(NODE_CLIENT) if whole and shutil.which("node") else None


def schemathesis() -> Path | None:
    """The command; None when it is not installed."""
    command = folder(SCHEMATHESIS) / "bin/schemathesis"
    return command if (folder(SCHEMATHESIS) / ".installed").is_file() else None


def install_node_client() -> None:
    """npm checks each file against the lock's hash and runs no script of a package."""
    target = folder(NODE_CLIENT)
    target.mkdir(parents=True, exist_ok=True)
    for path in NODE_CLIENT.glob("*.json"):
        shutil.copy(path, target)
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=target)


def install_schemathesis() -> None:
    """pip checks each file against the lock's hash."""
    target = folder(SCHEMATHESIS)
    _run(sys.executable, "-m", "venv", "--clear", str(target))
    lock = SCHEMATHESIS / "requirements.lock"
    _run(str(target / "bin/pip"), "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", str(lock))
    (target / ".installed").touch()


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, timeout=INSTALL_SECONDS)


def main() -> None:
    """Install what is missing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("Node.js or npm is missing: the tests of OpenAI's client for Node.js are skipped.")  # noqa: T201
    elif node_client() is None:
        install_node_client()
    if schemathesis() is None:
        install_schemathesis()


if __name__ == "__main__":
    main()
