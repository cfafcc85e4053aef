"""Replicas as real processes over a real Valkey, an emulated AWS and a simulated OpenAI, and a client that is quick."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.openai.server import Running, running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, cluster_server, redis_server
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica

PATH = "/v1/responses"
RATE = 100_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise and what was seen."""

    name: str
    promised: str
    seen: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cache(self) -> str:
        """Where it is from."""
        return self.headers.get("x-prodkit-cache", "")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is up."""

    replicas: list[Replica]
    upstream: Running
    cloud: CloudParts
    valkey: subprocess.Popen[bytes]
    valkey_port: int

    def key(self, tenant: str) -> str:
        """A key of a tenant that meets no limit."""
        return prodkit_key(self.cloud, tenant, requests_per_minute=RATE, tokens_per_minute=RATE)


@contextlib.contextmanager
def fleet(cloud: CloudParts, *, replicas: int = 3, cluster: bool = False, speed: float = 0.0) -> Iterator[Fleet]:
    """Start it; ended with the block. `speed` 1 makes the simulated OpenAI as slow as the real one."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, process = stack.enter_context(cluster_server(directory) if cluster else redis_server(directory))
        upstream = stack.enter_context(running(speed=speed))
        environment = BASE_ENVIRONMENT | {
            "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
            "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
            "PRODKIT_QUEUE_URL": cloud.queue_url,
            "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{port}",
            "PRODKIT_CACHE_MODE": "cluster" if cluster else "single",
            "AWS_ENDPOINT_URL": cloud.url,
        }
        started = [stack.enter_context(replica(environment)) for _ in range(replicas)]
        yield Fleet(started, upstream, cloud, process, port)


def body_of(text: str, **more: Any) -> bytes:
    """A request's body."""
    return json.dumps({"model": "fast", "input": text, **more}).encode()


async def send(
    port: int, key: str, body: bytes = b"", *, method: str = "POST", path: str = PATH, **headers: str
) -> Answer:
    """One request on a connection of its own; raises OSError or IncompleteReadError when it is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    try:
        writer.write(head.encode() + b"\r\n" + body)
        start, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
        length = found.get("content-length")
        content = await (reader.read() if length is None else reader.readexactly(int(length)))
        return Answer(int(start.split()[1]), found, content)
    finally:
        writer.close()
