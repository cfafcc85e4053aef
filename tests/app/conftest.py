"""What the app leans on, over real sockets: an emulated AWS, a Valkey, and the settings that point to them."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import redis

from app import secret
from app.aws import READ_SECONDS, Aws
from app.ledger import service as ledger_service
from app.services import Services
from app.settings import Settings
from local.children import ROOT
from tests.patience import PATIENCE_SECONDS

REGION = "us-east-1"
BASE_ENVIRONMENT = {
    "PRODKIT_STACK": "test",
    "PRODKIT_SERVICE": "web",
    "PRODKIT_HOST": "127.0.0.1",
    "PRODKIT_PORT": "8080",
    "PRODKIT_LOG_LEVEL": "info",
    "PRODKIT_OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "PRODKIT_STATE_TABLE": "state",
    "PRODKIT_LEDGER_TABLE": "ledger",
    "PRODKIT_DOCUMENTS_BUCKET": "documents",
    "PRODKIT_CACHE_AUTH": "none",
    "PRODKIT_CACHE_USER": "app",
    "PRODKIT_CACHE_NAME": "cache",
    "PRODKIT_CACHE_MODE": "single",
    "PRODKIT_APPCONFIG_APPLICATION": "",
    "PRODKIT_APPCONFIG_ENVIRONMENT": "",
    "PRODKIT_APPCONFIG_PROFILE": "",
    "PRODKIT_TOKEN_BUDGET_USD": "1000000",
    "PRODKIT_BUDGET_TIME_ZONE": "UTC",
    "PRODKIT_ALERT_TOPIC_ARN": "",
    "PRODKIT_MAX_STREAM_SECONDS": "60",
    "PRODKIT_HEARTBEAT_SECONDS": "15",
    "PRODKIT_KEEP_ALIVE_SECONDS": "75",
    "PRODKIT_REQUEST_TIMEOUT_SECONDS": "30",
    "PRODKIT_DRAIN_SECONDS": "10",
    "PRODKIT_READINESS_GRACE_SECONDS": "0",
    "PRODKIT_TCP_KEEP_ALIVE_SECONDS": "45",
    "PRODKIT_DEFER_COLLECT_SECONDS": "1",
    "AWS_REGION": REGION,
}


@dataclass(frozen=True, slots=True)
class CloudParts:
    """The emulated AWS and the names of what was made in it."""

    url: str
    secret_arn: str
    queue_url: str

    def client(self, service: str) -> Any:
        return _client(service, self.url)


@functools.cache
def _client(service: str, url: str) -> Any:
    make: Any = boto3.client
    return make(service, region_name=REGION, endpoint_url=url)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def _unhurried() -> Iterator[None]:
    """The emulated AWS is as slow as this machine is busy: it is away only where a test says so."""
    with pytest.MonkeyPatch.context() as patch:
        for service in READ_SECONDS:
            patch.setitem(READ_SECONDS, service, PATIENCE_SECONDS)
        patch.setattr(secret, "READ_SECONDS", PATIENCE_SECONDS)
        patch.setattr(ledger_service, "RESERVE_SECONDS", PATIENCE_SECONDS)
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_read_once() -> Iterator[None]:
    """Each test has sessions of its own with AWS, and each would parse megabytes of descriptions of its services."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def cloud() -> Iterator[CloudParts]:
    """The emulated AWS of a stack."""
    with emulated_cloud() as parts:
        yield parts


@contextlib.contextmanager
def emulated_cloud() -> Iterator[CloudParts]:
    """An emulated AWS with the two tables, the bucket, the queue and the (still unset) secret of a stack."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # A process of its own: `moto.mock_aws()` in another test empties every emulated AWS of this one.
        process = subprocess.Popen([sys.executable, "-m", "local.aws"], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            yield make_parts(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def make_parts(url: str) -> CloudParts:
    """Create a stack's tables, bucket, queue and secret in the AWS at `url`."""
    empty = CloudParts(url, "", "")
    for table in (BASE_ENVIRONMENT["PRODKIT_STATE_TABLE"], BASE_ENVIRONMENT["PRODKIT_LEDGER_TABLE"]):
        empty.client("dynamodb").create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )
    empty.client("s3").create_bucket(Bucket=BASE_ENVIRONMENT["PRODKIT_DOCUMENTS_BUCKET"])
    queue = empty.client("sqs").create_queue(QueueName="ingest")
    secret = empty.client("secretsmanager").create_secret(Name="openai")
    return CloudParts(url, secret["ARN"], queue["QueueUrl"])


@contextlib.contextmanager
def redis_server(
    directory: Path, *options: str, port: int | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A real redis-server on loopback: its port and its process."""
    port = port or free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(directory),
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port))
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def fake_server() -> Iterator[int]:
    """fakeredis behind a real socket: its port."""
    from fakeredis import TcpFakeServer

    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = int(server.server_address[1])
    with redis.Redis(port=port) as client:
        client.eval("return 1", 0)  # the first script loads Lua, which takes longer than an operation may
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answers(port: int) -> bool:
    """Whether a Valkey or Redis answers PING at a port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fails after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Valkey: the real redis-server when it is installed, else fakeredis."""
    if shutil.which("redis-server"):
        with redis_server(tmp_path_factory.mktemp("redis")) as (port, _):
            yield port
    else:
        with fake_server() as port:
            yield port


@pytest.fixture(scope="session")
def cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real cluster of one node that holds every slot; skips the test when redis-server is not installed."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    with cluster_server(tmp_path_factory.mktemp("cluster")) as (port, _):
        yield port


@contextlib.contextmanager
def cluster_server(directory: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A real cluster of one node: its port and its process."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(directory, *options) as (port, process):
        cli = ["redis-cli", "-p", str(port), "cluster"]
        subprocess.run([*cli, "addslotsrange", "0", "16383"], check=True, stdout=subprocess.DEVNULL)
        wait_until(lambda: b"cluster_state:ok" in subprocess.run([*cli, "info"], capture_output=True).stdout)
        yield port, process


@pytest.fixture
def environment(cloud: CloudParts, valkey_port: int) -> dict[str, str]:
    """The environment of a task that runs against the emulated AWS and the Valkey."""
    return BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_SECRET_ARN": cloud.secret_arn,
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "AWS_ENDPOINT_URL": cloud.url,
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """Settings out of `environment`."""
    return Settings.from_environment(environment)


@pytest.fixture
def aws(cloud: CloudParts) -> Iterator[Aws]:
    """The app's own clients of the emulated AWS."""
    clients = Aws(REGION, cloud.url)
    yield clients
    clients.close()


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    """Every service, started; stopped after the test."""
    started = await Services.start(settings)
    yield started
    await started.stop()


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[str]]]:
    """Tells the types of the app's objects that since the test began only the collector of garbage could free."""

    def found() -> list[str]:
        gc.collect()
        return [type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("app.")]

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
