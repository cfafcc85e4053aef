"""Plays ECS: keeps the wanted number of replicas running, each started exactly as its recorded task definition says."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from local.cache import free_port
from local.children import Child, ChildFailedError, Children, base_environment, exit_text
from local.metadata import Metadata
from local.targets import Target, Targets
from local.twin import Task

START_SECONDS = 60.0
"""A replica that is not healthy by then has failed."""
WORKER_CHECK_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 30.0
SETTLED_SECONDS = 10.0
"""A replica that was healthy this long did not fail at its start: its replacement need not wait."""


EMULATED_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
"""The emulated AWS takes any; a command needs some."""


@dataclass(frozen=True)
class Overrides:
    """The only differences between a local replica and its recorded task definition."""

    aws_url: str
    region: str
    cache: str
    """`host:port`; the recorded one has the port that ElastiCache always uses, which may be taken here."""
    openai_base_url: str | None
    """None keeps the recorded one."""

    def replaced(self, port: int) -> dict[str, str]:
        """New values for variables that the task definition sets."""
        values = {
            "PRODKIT_HOST": "127.0.0.1",
            "PRODKIT_PORT": str(port),
            "PRODKIT_CACHE_ENDPOINT": self.cache,
            "PRODKIT_CACHE_AUTH": "none",
            "PRODKIT_CACHE_MODE": "single",
            # nobody waits a minute here to see a batch begin
            "PRODKIT_DEFER_COLLECT_SECONDS": "1",
        }
        if self.openai_base_url is not None:
            values["PRODKIT_OPENAI_BASE_URL"] = self.openai_base_url
        return values

    def added(self, metadata_url: str) -> dict[str, str]:
        """What ECS puts into a container besides, pointing at this run."""
        return {
            "ECS_CONTAINER_METADATA_URI_V4": metadata_url,
            "ECS_AGENT_URI": metadata_url,
            "AWS_ENDPOINT_URL": self.aws_url,
            "AWS_REGION": self.region,
            **EMULATED_CREDENTIALS,
            # no profile of whoever runs this may leak in
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def environment(self, task: Task, port: int, metadata_url: str) -> dict[str, str]:
        """Everything a replica sees. A variable that the task definition does not set is never set here for it."""
        recorded = dict(task.environment)
        recorded.update((name, value) for name, value in self.replaced(port).items() if name in recorded)
        return {**base_environment(), **recorded, **self.added(metadata_url)}


@dataclass
class Replica:
    """One running task."""

    name: str
    task: Task
    port: int
    child: Child
    slot: "asyncio.Task[None]"
    """What puts another one into its place when it ends."""
    target: Target | None = None
    """Its place behind the balancer; None for a worker."""


@dataclass(frozen=True)
class Departure:
    """How a replica left that was told to."""

    name: str
    began: float
    """When it got its last request, by `time.monotonic`."""
    cut: int
    """Requests that were still open at the end of the deregistration delay."""
    status: int
    """Exit status; the negative number of a signal."""


class Supervisor:
    """Starts, watches, replaces and stops replicas."""

    def __init__(
        self,
        children: Children,
        targets: Targets,
        metadata: Metadata,
        overrides: Overrides,
        report: Callable[[str], None],
    ) -> None:
        """`report` gets one line for each thing that happens to a replica."""
        self.crashed: list[str] = []
        """Names of replicas that ended by themselves and not in order."""
        self._children = children
        self._targets = targets
        self._metadata = metadata
        self._overrides = overrides
        self._report = report
        self._numbers: dict[str, itertools.count[int]] = {}
        self._replicas: dict[str, Replica] = {}
        self._slots: dict[asyncio.Task[None], str] = {}

    @property
    def replicas(self) -> list[Replica]:
        """Those that run now."""
        return list(self._replicas.values())

    async def start(self, task: Task, count: int) -> None:
        """Keep `count` replicas of a task from now on; returns when all are healthy.

        Raises ChildFailedError with the end of the log when one ends, or is not healthy in time, before it ever was.
        """
        firsts = []
        for _ in range(count):
            first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            firsts.append(first)
            slot = asyncio.create_task(self._keep(task, first))
            slot.add_done_callback(lambda ended, first=first: self._slot_ended(ended, first))  # type: ignore[misc]
            self._slots[slot] = task.name
        await asyncio.gather(*firsts)

    async def roll(self, task: Task) -> list[Departure]:
        """Replace every replica of a task as a rolling deployment of ECS does; how the old ones left.

        The service is recorded with 100 to 200 percent: as many new ones as there are old ones start at once, and when
        they are healthy each old one is deregistered, finishes its requests, gets SIGTERM and its stop timeout.

        Raises ChildFailedError when a new one does not get healthy: the new ones leave and the old ones serve on, as
        after a rollback.
        """
        old = [slot for slot, name in self._slots.items() if name == task.name]
        started = await asyncio.gather(*(self.start(task, 1) for _ in old), return_exceptions=True)
        failures = [failure for failure in started if failure is not None]
        new = [slot for slot, name in self._slots.items() if name == task.name and slot not in old]
        left = await asyncio.gather(*(self._retire(slot) for slot in (new if failures else old)))
        for failure in failures:
            raise failure
        return [departure for departures in left for departure in departures]

    async def stop(self) -> None:
        """End the run: deregister, wait for open requests, SIGINT, stop timeout, SIGKILL.

        ECS sends SIGTERM, on which a replica serves on until a balancer has noticed; this run's balancer knows already.
        """
        await self.let_go()
        await asyncio.gather(*(self._stop(replica, signal.SIGINT) for replica in self.replicas))

    async def let_go(self) -> None:
        """From now on replace nothing that ends."""
        await asyncio.gather(*(self._close(slot) for slot in list(self._slots)))

    async def _close(self, slot: "asyncio.Task[None]") -> None:
        """Leave a place empty from now on; a replica that is in it stays."""
        slot.cancel()
        await asyncio.gather(slot, return_exceptions=True)
        self._slots.pop(slot, None)

    async def _retire(self, slot: "asyncio.Task[None]") -> list[Departure]:
        """Close a place and end its replica, if it has one, in ECS's order."""
        await self._close(slot)
        replicas = [replica for replica in self.replicas if replica.slot is slot]
        for replica in replicas:
            if replica.target is not None:
                self._report(f"{replica.name} gets nothing new and finishes {replica.target.outstanding} requests")
        return await asyncio.gather(*(self._stop(replica, signal.SIGTERM) for replica in replicas))

    async def _keep(self, task: Task, first: "asyncio.Future[None]") -> None:
        """Fill one place with one replica after the other."""
        failures = 0
        while True:
            replica = await self._launch(task)
            started = time.monotonic()
            try:
                await self._until_healthy(replica)
            except ChildFailedError as failure:
                self._forget(replica)
                if not first.done():
                    first.set_exception(failure)
                    return
                self._report(str(failure))
            else:
                if first.done():
                    self._report(f"{replica.name} took its place and is healthy")
                else:
                    first.set_result(None)
                await replica.child.process.wait()
                self._forget(replica)
                self._report(f"{replica.name} ended with {exit_text(replica.child.process.returncode)}")
            failures = 0 if time.monotonic() - started > SETTLED_SECONDS else failures + 1
            await asyncio.sleep(backoff_seconds(failures))

    def _slot_ended(self, slot: "asyncio.Task[None]", first: "asyncio.Future[None]") -> None:
        """Nobody awaits a slot, so what made it end is passed on here."""
        if slot.cancelled() or (failure := slot.exception()) is None:
            return
        if first.done():
            self._report(f"a replica could not be replaced: {failure}")
        else:
            first.set_exception(failure)

    async def _launch(self, task: Task) -> Replica:
        number = next(self._numbers.setdefault(task.name, itertools.count(1)))
        name, port = f"{task.name}-{number}", free_port()
        metadata_url = self._metadata.add(name, task.family, task.cpu_units, task.memory_mib)
        environment = self._overrides.environment(task, port, metadata_url)
        child = await self._children.start(name, _local_command(task), environment)
        slot = asyncio.current_task()
        assert slot is not None
        replica = Replica(name, task, port, child, slot)
        if task.behind_balancer:
            replica.target = self._targets.register(name, "127.0.0.1", port)
        self._replicas[name] = replica
        return replica

    async def _until_healthy(self, replica: Replica) -> None:
        """Return when it passed its first health check. Raises ChildFailedError."""
        healthy = asyncio.create_task(replica.target.ready.wait() if replica.target else _lives(replica.port))
        ended = asyncio.create_task(replica.child.process.wait())
        try:
            await asyncio.wait({healthy, ended}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise replica.child.failed("starting")
            if not healthy.done():
                await self._children.stop(replica.child)
                raise replica.child.error(f"was not healthy after {START_SECONDS:.0f} s")
        finally:
            healthy.cancel()
            ended.cancel()

    def _forget(self, replica: Replica) -> None:
        """Take an ended replica out of everything at once."""
        self._targets.remove(replica.name)
        self._metadata.remove(replica.name)
        self._replicas.pop(replica.name, None)
        status = self._children.forget(replica.child)
        # Both signals come from outside (SIGTERM when it was told to stop before it could listen to that): no crash.
        if status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self.crashed.append(replica.name)

    async def _stop(self, replica: Replica, order: signal.Signals) -> Departure:
        """Deregister, wait for open requests, `order`, stop timeout, SIGKILL."""
        began, cut = time.monotonic(), 0
        if replica.target is not None:
            cut = await self._targets.deregister(replica.name)
            if cut:
                self._report(f"{replica.name}: {cut} requests were cut at the end of the deregistration delay")
        timeout = replica.task.stop_timeout_seconds
        status = await self._children.stop(replica.child, timeout, order)
        if status:
            self._report(f"{replica.name} ended with {exit_text(status)} within its {timeout} s to stop")
        self._forget(replica)
        return Departure(replica.name, began, cut, status)


def _local_command(task: Task) -> list[str]:
    """The recorded command with this interpreter in place of the image's."""
    interpreter, *arguments = task.command
    if interpreter != "python":
        raise ChildFailedError(
            f"{task.family}: command {list(task.command)} does not begin with python and cannot run here"
        )
    return [sys.executable, *arguments]


async def _lives(port: int) -> None:
    """Return once the container health check of a task without a balancer passes."""
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # not yet
                async with session.get(f"http://127.0.0.1:{port}/health/live") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(WORKER_CHECK_SECONDS)


def backoff_seconds(failures: int) -> float:
    """How long a place stays empty after this many failures in a row: not at all the first time, then 1, 2, 4 ..."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0 ** (failures - 2)) if failures > 1 else 0.0
