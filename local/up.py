"""The whole product on this machine: the recorded stack, the servers it needs, its replicas, behind its balancer."""

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from local import cache, ports, runs
from local.balancer import Balancer
from local.children import Child, ChildFailedError, Children, base_environment, exit_text, python
from local.interrupts import InterruptedRunError, Interrupts
from local.metadata import Metadata
from local.screen import Progress, Ready
from local.tasks import EMULATED_CREDENTIALS, Overrides, Supervisor
from local.twin import Twin

WORKERS = 1
DAY_SECONDS = 600.0
"""How long a day takes for the simulator's batches: one is done after a second."""


@dataclass(frozen=True)
class Options:
    """How to run the product here."""

    port: int
    stack: str
    replicas: int
    keep_logs: bool
    openai_key: str | None
    """None uses the simulator; a key talks to the real API. It goes into the emulated secret and nowhere else."""
    speed: float = 1.0
    """Multiplies the simulator's latencies."""
    deregistration_delay_seconds: float | None = None
    """None plays the recorded one."""

    def __repr__(self) -> str:
        return f"Options(port={self.port}, stack={self.stack!r}, upstream={self.upstream!r})"

    @property
    def upstream(self) -> str:
        """Who answers: `simulator` or `openai`."""
        return "simulator" if self.openai_key is None else "openai"


@dataclass(frozen=True)
class Servers:
    """The servers that the stack's outputs point at."""

    aws_url: str
    cache: cache.Cache
    simulator: dict[str, Any] | None


@dataclass(frozen=True)
class Running:
    """A run that serves."""

    supervisor: Supervisor
    ready: Ready
    twin: Twin
    children: Children
    interrupts: Interrupts


Use = Callable[[Running, Progress], Awaitable[int]]
"""What a run is for; returns its exit status."""


async def up(options: Options, progress: Progress) -> int:
    """Start everything, show the screen, serve until a signal, stop everything; the exit status.

    Raises PortTakenError before anything starts.
    """
    return await run(options, progress, _serve_noted)


async def run(options: Options, progress: Progress, use: Use) -> int:
    """Start everything, use it, stop everything in order; the exit status.

    Raises PortTakenError before anything starts.
    """
    with contextlib.closing(ports.listen(options.port)) as listener, Interrupts() as interrupts:
        async with Children(options.keep_logs) as children:
            interrupts.at_once = children.kill_all
            try:
                return await _run(options, progress, listener, interrupts, children, use)
            except InterruptedRunError:
                progress.line("stopped before it was up")
                return 130
            except ChildFailedError as failure:
                children.keep_logs = True
                progress.line(str(failure))
                return 1


async def _run(
    options: Options, progress: Progress, listener: socket.socket, interrupts: Interrupts, children: Children, use: Use
) -> int:
    async with AsyncExitStack() as stack:
        starting = _start(options, progress, listener, children, interrupts, stack)
        running = await interrupts.unless(interrupts.first, starting)
        status = await use(running, progress)
        progress.line(
            "draining: open requests finish, then each task takes its recorded time to leave (Ctrl-C: at once)"
        )
        try:
            await interrupts.unless(interrupts.second, running.supervisor.stop())
            progress.line("stopped")
        except InterruptedRunError:
            progress.line("stopped at once")
        if running.supervisor.crashed:
            children.keep_logs = True
            progress.line(f"{', '.join(running.supervisor.crashed)} crashed")
        if children.keep_logs:
            progress.line(f"logs are kept in {children.directory}")
        return status


async def _serve_noted(running: Running, progress: Progress) -> int:
    """Serve, and let commands find the run meanwhile."""
    with runs.noted(runs.Run(running.ready.port, running.ready.operator)):
        return await _serve(running, progress)


async def _serve(running: Running, progress: Progress) -> int:
    """Wait for the first signal, or for a server to end that nothing can do without; the exit status."""
    progress.show(running.ready.text())
    replicas = {replica.child for replica in running.supervisor.replicas}
    servers = [child for child in running.children.children if child not in replicas]
    ends = {asyncio.create_task(child.process.wait()): child for child in servers}
    asked = asyncio.create_task(running.interrupts.first.wait())
    done, waiting = await asyncio.wait({asked, *ends}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if asked in done:
        return 0
    for task in done:
        child = ends[task]
        running.children.keep_logs = True
        progress.line(f"{child.name} ended with {exit_text(child.process.returncode)}; see {child.log}")
    return 1


async def _start(
    options: Options,
    progress: Progress,
    listener: socket.socket,
    children: Children,
    interrupts: Interrupts,
    stack: AsyncExitStack,
) -> Running:
    openai_key = options.openai_key or _made_up_key()
    preparing = await children.start(
        "prepare", python("local.prepare", "--stack", options.stack), base_environment(), pipes=True
    )
    progress.line(f"evaluating the {options.stack} stack and starting the servers it talks to")
    servers = await _servers(options, progress, children)
    order = {"aws_url": servers.aws_url, "cache": servers.cache.endpoint, "openai_key": openai_key}
    prepared = await _prepared(children, preparing, order)
    twin = Twin.from_json(prepared["twin"])
    if options.deregistration_delay_seconds is not None:
        other = replace(twin.balancing, deregistration_delay_seconds=options.deregistration_delay_seconds)
        twin = replace(twin, balancing=other)
    progress.line(f"stack made: {prepared['resources']} resources, {prepared['emulated']} of them in the emulated AWS")

    metadata = await stack.enter_async_context(Metadata())
    balancer = await stack.enter_async_context(Balancer(twin.balancing, listener))
    base_url = f"{servers.simulator['url']}/v1" if servers.simulator else None
    overrides = Overrides(servers.aws_url, prepared["region"], servers.cache.endpoint, base_url)
    supervisor = Supervisor(children, balancer.targets, metadata, overrides, progress.line)
    stack.push_async_callback(supervisor.let_go)
    await asyncio.gather(supervisor.start(twin.web, options.replicas), supervisor.start(twin.worker, WORKERS))
    progress.line(f"{options.replicas} web replicas and {WORKERS} worker are healthy")
    behind = [each for each in supervisor.replicas if each.target]
    return Running(
        supervisor,
        Ready(
            port=listener.getsockname()[1],
            replicas=tuple(f"http://{ports.HOST}:{each.port}" for each in behind),
            pids=tuple(each.child.process.pid for each in behind),
            api_key=prepared["api_key"],
            tenant=prepared["tenant"],
            upstream=options.upstream,
            faults=servers.simulator["admin_url"] if servers.simulator else None,
            stack=options.stack,
            cache=servers.cache.server,
            logs=children.directory,
            seconds=progress.seconds,
            operator=_operator(overrides, twin),
        ),
        twin,
        children,
        interrupts,
    )


async def _servers(options: Options, progress: Progress, children: Children) -> Servers:
    """Emulated AWS, cache and simulator, all at the same time."""

    async def announced(name: str, module: str, *arguments: str) -> dict[str, Any]:
        child = await children.announced(name, python(module, *arguments), base_environment())
        progress.line(f"{name}: {child.announced['url']}")
        return child.announced

    async def simulator() -> dict[str, Any] | None:
        if options.openai_key is not None:
            return None
        return await announced(
            "simulator", "local.openai", "--speed", str(options.speed), "--day-seconds", str(DAY_SECONDS)
        )

    async def cached() -> cache.Cache:
        made = await cache.start(children)
        progress.line(f"cache: {made.endpoint} ({made.server})")
        return made

    aws, valkey, openai = await asyncio.gather(announced("aws", "local.aws"), cached(), simulator())
    return Servers(aws["url"], valkey, openai)


async def _prepared(children: Children, preparing: Child, order: dict[str, str]) -> dict[str, Any]:
    """Tell the evaluation where the servers are, and wait for its result."""
    assert preparing.process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it ended already: reading says why
        preparing.process.stdin.write(json.dumps(order).encode() + b"\n")
        await preparing.process.stdin.drain()
    prepared = await children.answer(preparing)
    await children.stop(preparing)
    return prepared


def _operator(overrides: Overrides, twin: Twin) -> dict[str, str]:
    """What an operator's command needs to find this run's tables, and its OpenAI."""
    names = ("PRODKIT_STATE_TABLE", "PRODKIT_LEDGER_TABLE", "PRODKIT_OPENAI_BASE_URL")
    recorded = {name: twin.web.environment[name] for name in names}
    if overrides.openai_base_url is not None:
        recorded["PRODKIT_OPENAI_BASE_URL"] = overrides.openai_base_url
    where = {"AWS_ENDPOINT_URL": overrides.aws_url, "AWS_REGION": overrides.region}
    return {**where, **EMULATED_CREDENTIALS, **recorded}


def _made_up_key() -> str:
    """A key of OpenAI's shape for the simulator, new for each run."""
    return f"sk-local-{secrets.token_urlsafe(24)}"
