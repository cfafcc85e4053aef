"""The stack's Valkey on this machine: the real server when it is installed, else an embedded one.

`python -m local.cache [--port 0]` serves the embedded one and says where in one JSON line.
"""

import argparse
import asyncio
import re
import shutil
import signal
import socket
import subprocess
import threading
from typing import NamedTuple

from local.announce import announce
from local.children import Child, Children, base_environment, python

BINARIES = ("valkey-server", "redis-server")
OLDEST_REDIS = 7
"""Its first version with `SET ... NX GET`; every Valkey has it."""
START_SECONDS = 10.0
PORT_ATTEMPTS = 5


class Cache(NamedTuple):
    """A cache that answers."""

    endpoint: str
    """`host:port`."""
    server: str
    """What serves it, in words for people."""


def installed() -> str | None:
    """The path of a real server on PATH that is new enough, or None."""
    return next((path for name in BINARIES if (path := shutil.which(name)) and not _too_old(path)), None)


def _too_old(path: str) -> bool:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=START_SECONDS).stdout
    redis = re.match(r"Redis server v=(\d+)", said)
    return redis is not None and int(redis[1]) < OLDEST_REDIS


async def start(children: Children) -> Cache:
    """Start a cache that keeps nothing on disk. Raises ChildFailedError."""
    binary = installed()
    if binary is None:
        child = await children.announced("cache", python("local.cache"), base_environment())
        none = f"embedded; neither {' nor '.join(BINARIES)} (from {OLDEST_REDIS}.0 on) is on PATH"
        return Cache(child.announced["endpoint"], none)
    for attempt in range(PORT_ATTEMPTS):
        port = free_port()
        child = await children.start("cache", [binary, *_options(port, str(children.directory))], base_environment())
        if await _answers(child, port):
            return Cache(f"127.0.0.1:{port}", binary)
        if attempt == PORT_ATTEMPTS - 1:
            raise child.failed("starting")
        await children.stop(child)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _options(port: int, directory: str) -> list[str]:
    return [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        directory,
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
    ]


async def _answers(child: Child, port: int) -> bool:
    """Whether PING is answered with PONG before the server ends."""
    async with asyncio.timeout(START_SECONDS):
        while child.running:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            return child.running and answer.startswith(b"+PONG")
    return False


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Serve the embedded cache until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m local.cache", description="An embedded Valkey stand-in on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    port: int = parser.parse_args().port
    from fakeredis import TcpFakeServer  # only this process pays for it

    server = TcpFakeServer(("127.0.0.1", port), server_type="valkey")
    server.daemon_threads = True  # an open connection must not hold up the end
    ended = threading.Event()
    for caught in (signal.SIGINT, signal.SIGTERM):
        signal.signal(caught, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce({"endpoint": f"127.0.0.1:{server.server_address[1]}"})
    ended.wait()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
