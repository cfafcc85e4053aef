"""The ECS agent's endpoint inside of a task, over real sockets, with every shape of answer it has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.protection import EXPIRES_MINUTES
from tests.patience import PATIENCE_SECONDS

ARN = "arn:aws:ecs:us-east-1:123456789012:task/cluster/0123"
SET = {"ProtectionEnabled": True, "ExpiresInMinutes": EXPIRES_MINUTES}
CLEARED = {"ProtectionEnabled": False}


class Agent:
    """Remembers what it was asked; `uri` is ECS_AGENT_URI."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[tuple[int, bytes]] = []
        """Answers that come before the right one, oldest first."""
        self.gate = threading.Event()
        self.gate.set()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/api/0123/task-protection/v1/state"
                assert self.headers["content-type"] == "application/json"
                agent.asked.append(content)
                agent.gate.wait(10)
                held = {"ProtectionEnabled": content["ProtectionEnabled"], "TaskArn": ARN}
                status, body = agent.answers.pop(0) if agent.answers else (200, encoded({"protection": held}))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/api/0123"

    async def until(self, asked: list[dict[str, Any]]) -> None:
        """Return once exactly this was asked."""
        await until(lambda: self.asked == asked)


def encoded(content: object) -> bytes:
    return json.dumps(content).encode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - another thread sets no event of this loop
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def running_agent() -> Iterator[Agent]:
    """An agent at work."""
    agent = Agent()
    thread = threading.Thread(target=agent.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield agent
    finally:
        agent.gate.set()
        agent.server.shutdown()
        agent.server.server_close()
        thread.join()
