"""Start and stop a simulator: two listening sockets, API and admin, served by one thread."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local.openai.admin import create_admin
from local.openai.api import Api
from local.openai.clock import Clock, RealClock
from local.openai.options import Options
from local.openai.state import Simulator

_KEEP_ALIVE_SECONDS = 75
_ADMIN_WAIT_SECONDS = 10.0


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 that lets the application reach its connection: scripted faults break it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class Running:
    """A simulator that is up: `url` (the API is under `/v1`), `admin_url`, and the admin path as methods."""

    def __init__(self, url: str, admin_url: str) -> None:
        self.url = url
        self.admin_url = admin_url

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"{self.url}/v1"

    def admin(self, method: str, path: str, value: Any = None) -> Any:
        """Call the admin path and return its JSON; ValueError says why it refused."""
        connection = http.client.HTTPConnection(self.admin_url.removeprefix("http://"), timeout=_ADMIN_WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, None if value is None else json.dumps(value))
            reply = connection.getresponse()
            answer = json.load(reply)
        if reply.status != http.HTTPStatus.OK:
            raise ValueError(answer["error"])
        return answer

    def fault(self, kind: str, **fields: Any) -> None:
        """Script one fault (see `faults.Fault`)."""
        self.admin("POST", "/faults", {"kind": kind, **fields})

    def limit(self, **rule: Any) -> None:
        """Set limits: rpm, tpm, project_tpm, for one model or key or for all."""
        self.admin("POST", "/limits", rule)

    def accept_keys(self, *keys: str) -> None:
        """Accept only these API keys."""
        self.admin("POST", "/keys", {"accept": keys})

    def requests(self, wait_seconds: float = 5.0) -> list[dict[str, Any]]:
        """The journal, oldest first, once nothing is in flight or after `wait_seconds`."""
        found: list[dict[str, Any]] = self.admin("GET", f"/requests?wait_seconds={wait_seconds}")["requests"]
        return found

    def batches(self) -> list[dict[str, Any]]:
        """Every batch as it is by now, oldest first, with the tokens that are `billed` at `percent` of the price."""
        found: list[dict[str, Any]] = self.admin("GET", "/batches")["batches"]
        return found

    def reset(self) -> None:
        """Back to the state after the start."""
        self.admin("POST", "/reset", {})


@contextmanager
def running(
    host: str = "127.0.0.1",
    port: int = 0,
    admin_port: int = 0,
    *,
    speed: float = 0.0,
    seed: int = 0,
    rpm: int | None = None,
    tpm: int | None = None,
    today: str | None = None,
    day_seconds: float = 86_400.0,
    clock: Clock | None = None,
) -> Iterator[Running]:
    """Serve a simulator in a thread while the block runs; port 0 takes a free port. Options as in `Options`."""
    options = Options(speed, seed, rpm, tpm, today, day_seconds, clock or RealClock())
    simulator = Simulator(options)
    servers = [_server(Api(simulator)), _server(create_admin(simulator))]
    with contextlib.ExitStack() as open_now:
        sockets = [open_now.enter_context(_listen(host, number)) for number in (port, admin_port)]
        runner = open_now.enter_context(asyncio.Runner(loop_factory=servers[0].config.get_loop_factory()))
        ended = asyncio.Event()
        thread = threading.Thread(target=runner.run, args=(_serve(servers, sockets, ended),), name="openai-simulator")
        loop = runner.get_loop()
        thread.start()
        try:
            yield Running(*(f"http://{host}:{sock.getsockname()[1]}" for sock in sockets))
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()


async def _serve(servers: list[uvicorn.Server], sockets: list[socket.socket], ended: asyncio.Event) -> None:
    """Serve until `ended`; what is in flight then is broken off."""
    serving = [asyncio.ensure_future(server.serve([sock])) for server, sock in zip(servers, sockets, strict=True)]
    await ended.wait()
    for server in servers:
        server.should_exit = True
        for task in server.server_state.tasks:
            task.cancel()
    await asyncio.gather(*serving)


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.create_server((host, port), backlog=1024)
    sock.setblocking(False)
    return sock


def _server(app: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
