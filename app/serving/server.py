"""Serve an application so that a deploy cuts no request: readiness fails first, then listening ends, then work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from app.observability.log import in_batches
from app.serving.protocol import Protocol as HttpProtocol

if TYPE_CHECKING:
    from app.settings import Settings

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 2048
SWITCH_SECONDS = 0.0005
"""A thread that asks AWS gives way to the requests after this, not after Python's 5 ms."""
GC_THRESHOLDS = (50_000, 20, 100)
"""Of Python's cyclic collector. Everything of a request is freed by its reference counts; at the default of 700, or at
what a few requests in flight are made of, the collector walks through them and finds nothing."""


class App(Protocol):
    """An ASGI application that can be told to fail its readiness."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def drain(self) -> None:
        """From now on /health/ready fails; requests are served as before."""


def serve(app: App, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit code, 0 after a drain.

    The order on a signal: /health/ready fails; `readiness_grace_seconds` pass, in which the balancer stops sending; the
    port closes; what is in flight gets `drain_seconds`. SIGINT comes from somebody at a terminal, where no balancer has
    to notice anything: it skips the grace. A second signal ends at once, exit code 1.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(app, settings))


async def _serve(app: App, settings: Settings) -> int:
    server = Server(app, settings)
    with in_batches():
        await server.serve()
    return 0 if server.started and not server.force_exit else 1


class Server(uvicorn.Server):
    """uvicorn with our own order of stopping."""

    def __init__(self, app: App, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="none",
            http=HttpProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",  # our own lines tell start and stop
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)
        self._app = app
        self._grace_seconds = settings.readiness_grace_seconds
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then take everything made so far out of the garbage collector's sight: it stays until the end."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_SECONDS)
        log.info("serving", extra={"fields": {"port": self.config.port}})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the loop. uvicorn's own way raises them again at the end, which is no exit code 0."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopping is not None:
            log.warning("second signal: stopping at once")
            self.force_exit = self.should_exit = True
            return
        self._app.drain()
        self._stopping = asyncio.create_task(
            self._stop_listening(0 if number is signal.SIGINT else self._grace_seconds), name="drain"
        )

    async def _stop_listening(self, grace_seconds: float) -> None:
        drain_seconds = self.config.timeout_graceful_shutdown
        log.info("draining", extra={"fields": {"grace_seconds": grace_seconds, "drain_seconds": drain_seconds}})
        await asyncio.sleep(grace_seconds)
        self.should_exit = True
