"""A real Valkey with a copy of it, single or as a cluster, behind an address that leads to whichever is the primary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.app.conftest import free_port, redis_server, wait_until

SINGLE, CLUSTER = "single", "cluster"
_AT_ONCE = ("--repl-diskless-sync-delay", "0")
_CHUNK = 1 << 16


@dataclass
class Address:
    """What a name in DNS does: new connections go to whom it names now, open ones stay where they are."""

    leads_to: int
    port: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection with one to the primary of this moment."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
            await asyncio.gather(_pass(reader, there_writer), _pass(there_reader, writer))
        writer.close()
        self._open.discard(task)

    async def close(self) -> None:
        """End what is open."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@dataclass
class Node:
    """One redis-server."""

    port: int
    process: subprocess.Popen[bytes]

    def cli(self, *command: str) -> str:
        """What redis-cli says."""
        full = ["redis-cli", "-p", str(self.port), *command]
        return subprocess.run(full, check=True, capture_output=True, text=True).stdout

    def freeze(self) -> None:
        """It holds its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone."""
        self.process.kill()
        self.process.wait()


@dataclass
class Valkeys:
    """A primary, its copy, and the address of whichever serves."""

    mode: str
    primary: Node
    copy: Node
    address: Address

    def promote(self) -> None:
        """Make the copy the primary, as a managed service does when the primary does not answer."""
        self.copy.cli(*(("cluster", "failover", "takeover") if self.mode == CLUSTER else ("replicaof", "no", "one")))
        self.address.leads_to = self.copy.port

    def cut_off_the_copy(self) -> None:
        """From now on what the primary acknowledges reaches nobody else."""
        self.copy.freeze()
        self.primary.cli("client", "kill", "type", "replica")


@asynccontextmanager
async def valkeys(mode: str, directory: Path) -> AsyncIterator[Valkeys]:
    """Both servers, the copy in step with the primary."""
    async with AsyncExitStack() as stack:
        nodes, buses = [], []
        for name in ("primary", "copy"):
            (directory / name).mkdir()
            buses.append(str(free_port()))
            options = ("--cluster-enabled", "yes", "--cluster-port", buses[-1]) if mode == CLUSTER else ()
            nodes.append(Node(*stack.enter_context(redis_server(directory / name, *_AT_ONCE, *options))))
            stack.callback(nodes[-1].thaw)
        primary, copy = nodes
        if mode == CLUSTER:
            primary.cli("cluster", "addslotsrange", "0", "16383")
            copy.cli("cluster", "meet", "127.0.0.1", str(primary.port), buses[0])
            name = primary.cli("cluster", "myid").strip()
            wait_until(lambda: "OK" in copy.cli("cluster", "replicate", name))
            wait_until(lambda: "cluster_state:ok" in primary.cli("cluster", "info"))
        else:
            copy.cli("replicaof", "127.0.0.1", str(primary.port))
        wait_until(lambda: "master_link_status:up" in copy.cli("info", "replication"))
        address = Address(primary.port)
        server = await asyncio.start_server(address.accept, "127.0.0.1", 0)
        address.port = server.sockets[0].getsockname()[1]
        try:
            yield Valkeys(mode, primary, copy, address)
        finally:
            server.close()
            await address.close()
