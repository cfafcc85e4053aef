"""The rivals, each in an environment of its own outside the repository; one that cannot be had is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INSTALL_SECONDS = 420
LITELLM = "litellm[proxy]==1.106.2"
NAIVE = ("fastapi==0.165.0", "openai==3.54.0", "uvicorn[standard]==0.54.0")
PORTKEY = "@portkey-ai/gateway@1.15.2"


class SkippedError(Exception):
    """A rival cannot run here; the text says why."""


def cache_directory() -> Path:
    """Where environments are kept between runs: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prodkit-benchmarks"


def litellm() -> Path:
    """The `litellm` command; installs it the first time. Raises SkippedError."""
    return _python_environment("litellm", [LITELLM]) / "litellm"


def naive() -> Path:
    """The interpreter with what the naive app needs. Raises SkippedError."""
    return _python_environment("naive", NAIVE) / "python"


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


def _python_environment(name: str, packages: Sequence[str]) -> Path:
    """The folder of commands of a virtual environment with these packages."""
    home = cache_directory() / name

    def install() -> None:
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(home / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *packages])

    _once(home, f"{sys.version_info[:2]} {' '.join(packages)}", install)
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


def _run(command: Sequence[str], directory: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SkippedError(f"{Path(command[0]).name}: {type(error).__name__}") from error
    if done.returncode:
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
        raise SkippedError(f"{Path(command[0]).name} failed: {' '.join(last)[:200]}")


def nginx_version(command: Path) -> str:
    """As nginx says it."""
    done = subprocess.run([str(command), "-v"], capture_output=True, text=True, timeout=10, check=False)
    return done.stderr.strip().rpartition("/")[2]
