"""What stands around the gateways: the stub, a real Valkey or Redis, an emulated AWS, and prodkit's own environment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.keys import MAX_RATE, create_key
from benchmarks.interpreter import Interpreter, running
from components._timeouts import derive
from local import cache
from local.children import Child, Children, base_environment, python
from local.emulated import Aws

GATEWAY_CPU = 0
LOAD_CPU = 1
"""For the load generator, the stub, the cache and the emulated AWS: in production all of them are other machines."""
REGION = "us-east-1"
KEYS = 8
"""Callers of the gateway: two tenants with four keys each."""
MAX_STREAM_SECONDS = 600
READY_SECONDS = 90.0
POLL_SECONDS = 0.005
_TABLES = ("state", "ledger")
_BUCKET = "documents"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


class MissingError(Exception):
    """Something that the measurement cannot do without; the text says what to install."""


@dataclass(frozen=True)
class World:
    """Addresses of what the gateways lean on."""

    stub: Child
    stub_port: int
    cache: Child
    cache_endpoint: str
    cache_server: str
    aws_url: str
    secret_arn: str
    queue_url: str
    keys: tuple[str, ...]
    """prodkit keys without a limit that a measurement could reach."""
    interpreter: Interpreter
    """Runs the stub and every target in Python."""

    @property
    def stub_url(self) -> str:
        """Where the model is, without /v1."""
        return f"http://127.0.0.1:{self.stub_port}"


async def build(children: Children, interpreter: Interpreter | None = None) -> World:
    """Start everything; raises MissingError when no real server of the cache is installed."""
    interpreter = interpreter or running()
    if cache.installed() is None:
        message = "redis-server or valkey-server is needed and neither is on PATH; Debian: apt-get install redis-server"
        raise MissingError(message)
    with pinned(LOAD_CPU):
        stub = await children.announced("stub", interpreter.module("benchmarks.stub"), base_environment())
        aws = await children.announced("aws", python("local.aws", "--port", "0"), base_environment())
        store = await cache.start(children)
        cache_child = children.children[-1]
    url: str = aws.announced["url"]
    secret_arn, queue_url, keys = await asyncio.to_thread(_provision, url)
    return World(
        stub=stub,
        stub_port=int(stub.announced["url"].rpartition(":")[2]),
        cache=cache_child,
        cache_endpoint=store.endpoint,
        cache_server=store.server,
        aws_url=url,
        secret_arn=secret_arn,
        queue_url=queue_url,
        keys=keys,
        interpreter=interpreter,
    )


def prodkit_environment(world: World, *, service: str, port: int, upstream: str) -> dict[str, str]:
    """Exactly what a task gets, with the stack's own timeouts; only the addresses are this machine's."""
    return {
        **base_environment(),
        **_CREDENTIALS,
        **derive(MAX_STREAM_SECONDS).environment(),
        "PRODKIT_STACK": "benchmark",
        "PRODKIT_SERVICE": service,
        "PRODKIT_HOST": "127.0.0.1",
        "PRODKIT_PORT": str(port),
        "PRODKIT_DEFER_COLLECT_SECONDS": "60",
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": upstream,
        "PRODKIT_OPENAI_SECRET_ARN": world.secret_arn,
        "PRODKIT_STATE_TABLE": _TABLES[0],
        "PRODKIT_LEDGER_TABLE": _TABLES[1],
        "PRODKIT_DOCUMENTS_BUCKET": _BUCKET,
        "PRODKIT_QUEUE_URL": world.queue_url,
        "PRODKIT_CACHE_ENDPOINT": world.cache_endpoint,
        "PRODKIT_CACHE_AUTH": "none",
        "PRODKIT_CACHE_USER": "app",
        "PRODKIT_CACHE_NAME": "cache",
        "PRODKIT_CACHE_MODE": "single",
        "PRODKIT_TOKEN_BUDGET_USD": "1000000",
        "PRODKIT_BUDGET_TIME_ZONE": "UTC",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": world.aws_url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Processes started inside the block run on this CPU alone; where that is not possible they run anywhere."""
    if not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@functools.cache  # asked before anything is pinned, and true from then on
def can_pin() -> bool:
    """Whether this is Linux and both CPUs are ours."""
    return hasattr(os, "sched_getaffinity") and {GATEWAY_CPU, LOAD_CPU} <= os.sched_getaffinity(0)


async def start_ready(
    children: Children, name: str, command: Sequence[str], environment: dict[str, str], port: int, path: str
) -> tuple[Child, float]:
    """Start a gateway on its CPU and wait until `path` answers 200: the process, and seconds from its start.

    Raises ChildFailedError.
    """
    started = time.perf_counter()
    with pinned(GATEWAY_CPU):
        child = await children.start(name, command, environment)
    while status(port, path) != http.HTTPStatus.OK:
        if not child.running:
            raise child.failed("starting")
        if time.perf_counter() - started > READY_SECONDS:
            raise child.error(f"was not ready after {READY_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    return child, time.perf_counter() - started


def status(port: int, path: str) -> int:
    """The status of a GET on loopback; 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


def ask(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The body of one answer; raises MissingError when its status is not 2xx."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        text = answer.read()
    if answer.status // 100 != 2:
        raise MissingError(f"{method} {path} was answered {answer.status}: {text[:300]!r}")
    return text


def _provision(url: str) -> tuple[str, str, tuple[str, ...]]:
    """Make what a stack has in the emulated AWS: the secret's ARN, the queue's address and the keys."""
    aws = Aws(url, REGION)
    dynamodb = aws.client("dynamodb")
    for table in _TABLES:
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )
    aws.client("s3").create_bucket(Bucket=_BUCKET)
    queue = aws.client("sqs").create_queue(QueueName="ingest")
    made_up = "sk-" + secrets.token_hex(24)
    secret = aws.client("secretsmanager").create_secret(Name="openai", SecretString=made_up)
    keys = [
        create_key(
            dynamodb,
            _TABLES[0],
            f"tenant-{index % 2}",
            name=f"benchmark {index}",
            requests_per_minute=MAX_RATE,
            tokens_per_minute=MAX_RATE,
        )
        for index in range(KEYS)
    ]
    return secret["ARN"], queue["QueueUrl"], tuple(keys)
