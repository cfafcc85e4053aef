"""One web replica as a real process, talking to a simulator of OpenAI over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.keys import create_key
from tests.app.conftest import CloudParts, free_port, wait_until
from tests.patience import PATIENCE_SECONDS


@dataclass
class Replica:
    """A replica that is ready: its address, its process and every line it wrote."""

    port: int
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def request_lines(self) -> list[dict[str, Any]]:
        """The log lines about finished requests, oldest first."""
        found = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [line for line in found if line.get("event") == "request"]

    def line_of(self, request_id: str) -> dict[str, Any]:
        """The one log line of a request, waiting until it is written."""
        wait_until(lambda: any(line["request_id"] == request_id for line in self.request_lines()))
        [line] = [line for line in self.request_lines() if line["request_id"] == request_id]
        return line

    def status(self, path: str) -> int:
        """The status of a GET; 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of one plain HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def replica(environment: dict[str, str]) -> Iterator[Replica]:
    """Run `python -m app web` with a task's environment until the block ends."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "web"],
        env={**os.environ, **environment, "PRODKIT_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Replica(port, process)
    assert process.stdout is not None
    reader = threading.Thread(target=_collect, args=(process, running.lines), daemon=True)
    reader.start()
    try:
        wait_until(lambda: process.poll() is not None or running.status("/health/ready") == 200)
        assert process.poll() is None, "".join(running.lines)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)  # noqa: PERF402 - others read the list while it grows


def openai_secret(cloud: CloudParts, value: str | None) -> str:
    """The ARN of a new secret, holding an OpenAI key or nothing yet."""
    client = cloud.client("secretsmanager")
    name = f"openai-{secrets.token_hex(6)}"
    made = client.create_secret(Name=name) if value is None else client.create_secret(Name=name, SecretString=value)
    return str(made["ARN"])


def made_up_openai_key() -> str:
    """A key that no scanner of the repository finds, as it exists while the tests run only."""
    return "sk-" + secrets.token_urlsafe(24).replace("_", "x").replace("-", "y")


def prodkit_key(cloud: CloudParts, tenant: str, **options: Any) -> str:
    """A new key of a tenant."""
    return create_key(cloud.client("dynamodb"), "state", tenant, **options)
