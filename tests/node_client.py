"""Installs OpenAI's client for Node.js as `tests/node/package-lock.json` pins it: `python -m tests.node_client`."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json")
INSTALL_SECONDS = 120


def node() -> str | None:
    """The Node.js of this machine."""
    return shutil.which("node")


def folder() -> Path:
    """Where the pinned client is kept, a folder for each lock, outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    lock = hashlib.sha256(b"".join((PINNED / name).read_bytes() for name in FILES)).hexdigest()
    return cache / "prodkit-node" / lock[:16]


def installed() -> bool:
    """Whether the pinned client is there, whole."""
    return (folder() / "node_modules/.package-lock.json").is_file()


def install() -> None:
    """Install it if it is missing; npm checks each file against the lock's hash and runs no script of a package."""
    if installed():
        return
    target = folder()
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(PINNED / name, target / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=target, check=True, timeout=INSTALL_SECONDS)


if __name__ == "__main__":
    if node() is None or shutil.which("npm") is None:
        sys.exit("Node.js or npm is missing: the test of OpenAI's client for Node.js will be skipped.")
    install()
    print(folder())  # noqa: T201
