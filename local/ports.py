"""Taking the address that people type, and saying who has it when it is taken."""

import contextlib
import errno
import socket
from pathlib import Path

HOST = "127.0.0.1"
BACKLOG = 1024


class PortTakenError(Exception):
    """The port is in use; the text names the holder and the fix."""


def listen(port: int) -> socket.socket:
    """A socket that listens on loopback from now on, so that nobody takes the port while the rest starts.

    Raises PortTakenError.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} is held by {holder(port)}; stop it or choose another: make up PORT={port + 1}"
            ) from None
        if error.errno == errno.EACCES:
            raise PortTakenError(
                f"port {port} is reserved for the system; choose one above 1023: make up PORT=8080"
            ) from None
        raise
    return listener


def holder(port: int, proc: Path = Path("/proc")) -> str:
    """The process that listens on a port, as `pid 12 (python -m http.server)`, or "an unknown process"."""
    inodes = _listening_inodes(port, proc)
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"pid {process.name} ({_command(process)})"
    return "an unknown process"


def _listening_inodes(port: int, proc: Path) -> set[str]:
    """`socket:[inode]` of everything that listens on the port, over IPv4 and IPv6."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # not Linux
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A is LISTEN
                    found.add(f"socket:[{fields[9]}]")
    return found


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    return b" ".join(words).decode(errors="replace")
