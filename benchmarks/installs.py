"""The rivals, each in an environment of its own outside the repository, and one for ourselves on another Python."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INSTALL_SECONDS = 420
LITELLM = "litellm[proxy]==1.106.2"
NAIVE = ("fastapi==0.165.0", "openai==3.54.0", "uvicorn[standard]==0.54.0")
PORTKEY = "@portkey-ai/gateway@1.15.2"
ROOT = Path(__file__).resolve().parents[1]
FLOOR = ("aiohttp", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl")
"""What the floor in Python needs beside the app's own packages."""
TRIES = 2
"""To fetch packages: a registry that fails once answers the next time."""
_BLOCK = re.compile(r"^([A-Za-z0-9._-]+)==.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


class SkippedError(Exception):
    """A rival cannot run here; the text says why."""


def cache_directory() -> Path:
    """Where environments are kept between runs: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prodkit-benchmarks"


def litellm(home: Path) -> Path:
    """The `litellm` command on this interpreter; installs it the first time. Raises SkippedError."""
    return _python_environment("litellm", home, [LITELLM]) / "litellm"


def naive(home: Path) -> Path:
    """This interpreter with what the naive app needs. Raises SkippedError."""
    return _python_environment("naive", home, NAIVE) / "python"


def project(home: Path) -> Path:
    """This interpreter with what the app and the floor need, as the locks have it. Raises SkippedError."""
    lock = own_lock()
    return _python_environment("project", home, [], lock) / "python"


def own_lock() -> str:
    """The app's lock, and of the whole project's what the floor needs beside it."""
    every = {found[1]: found[0] for found in _BLOCK.finditer((ROOT / "requirements.lock").read_text())}
    return (ROOT / "app/requirements.lock").read_text() + "".join(every[name] for name in FLOOR)


def portkey() -> tuple[Path, Path]:
    """node, and Portkey's server script. Raises SkippedError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise SkippedError("node and npm are not installed")
    home = cache_directory() / "portkey"
    script = home / "node_modules/@portkey-ai/gateway/build/start-server.js"

    def install() -> None:
        _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home), PORTKEY])

    _once(home, PORTKEY, install)
    return Path(node), script


def nginx() -> Path:
    """The nginx command, from PATH or unpacked from Debian's package without installing it. Raises SkippedError."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found:
        return Path(found)
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise SkippedError("nginx is not installed, and this is no Debian to take its package from")
    home = cache_directory() / "nginx"

    def install() -> None:
        _run([apt, "download", "nginx"], home)
        for package in home.glob("nginx_*.deb"):
            _run([dpkg, "--extract", str(package), str(home)])

    _once(home, "nginx", install)
    return home / "usr/sbin/nginx"


def _python_environment(name: str, python: Path, packages: Sequence[str], lock: str = "") -> Path:
    """The folder of commands of a virtual environment of an interpreter, with these packages or those of a lock."""
    # By our own pip: an interpreter of a distribution may come without one.
    home = cache_directory() / f"{name}-{hashlib.sha256(str(python).encode()).hexdigest()[:8]}"
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--quiet"]
    options = ["--disable-pip-version-check", "--no-warn-script-location"]

    def install() -> None:
        _run([str(python), "-m", "venv", "--without-pip", str(home)])
        wanted = list(packages)
        if lock:
            file = home / "requirements.lock"
            file.write_text(lock)
            wanted = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(file)]
        _run([*pip, *options, *wanted], tries=TRIES)

    version = _run([str(python), "--version"])
    _once(home, f"{version} {' '.join(packages)}{hashlib.sha256(lock.encode()).hexdigest()}", install)
    return home / "bin"


def _once(home: Path, what: str, install: Callable[[], None]) -> None:
    """Install unless exactly this is there already."""
    mark = home / ".installed"
    if mark.is_file() and mark.read_text() == what:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    install()
    mark.write_text(what)


def _run(command: Sequence[str], directory: Path | None = None, tries: int = 1) -> str:
    """What a command prints; raises SkippedError when it fails every time."""
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SkippedError(f"{Path(command[0]).name}: {type(error).__name__}") from error
    if done.returncode == 0:
        return done.stdout.strip()
    if tries > 1:
        return _run(command, directory, tries - 1)
    last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
    raise SkippedError(f"{Path(command[0]).name} failed: {' '.join(last)[:200]}")


def nginx_version(command: Path) -> str:
    """As nginx says it."""
    done = subprocess.run([str(command), "-v"], capture_output=True, text=True, timeout=10, check=False)
    return done.stderr.strip().rpartition("/")[2]
