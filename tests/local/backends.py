"""A balancer with small servers behind it, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from local.balancer import Balancer
from local.twin import Balancing, HealthCheck
from tests.patience import PATIENCE_SECONDS

CHECK = HealthCheck("/health/ready", 0.05, 1.0, healthy_threshold=2, unhealthy_threshold=2, matcher="200-299")
BALANCING = Balancing("least_outstanding_requests", 5.0, 3600.0, 5.0, CHECK)
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Target:
    """A small server behind the balancer that counts what it gets."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.healthy = True
        self.requests: list[web.BaseRequest] = []
        self.cancelled = asyncio.Event()
        self.port = 0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == CHECK.path:
            return web.Response(status=204 if self.healthy else 503)
        self.requests.append(request)
        try:
            return await self.handler(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def running(handler: Handler) -> AsyncIterator[Target]:
    target = Target(handler)
    runner = web.ServerRunner(web.Server(target.serve, handler_cancellation=True, access_log=None), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target.port = runner.addresses[0][1]
    try:
        yield target
    finally:
        await runner.cleanup()


@asynccontextmanager
async def balancing(*targets: Target, settings: Balancing = BALANCING) -> AsyncIterator[tuple[Balancer, str]]:
    listener = socket.create_server(("127.0.0.1", 0))
    async with Balancer(settings, listener) as balancer:
        for number, target in enumerate(targets):
            registered = balancer.targets.register(f"t{number}", "127.0.0.1", target.port)
            await registered.ready.wait()
        yield balancer, f"http://127.0.0.1:{listener.getsockname()[1]}"


async def name_of(request: web.BaseRequest) -> web.Response:
    return web.Response(text=str(request.transport.get_extra_info("sockname")[1]) if request.transport else "")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - health checks and counters set no event for tests
            await asyncio.sleep(0.005)
