"""The worker reads what the queue names, tells bad documents from bad moments, and stops cleanly."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import ApiError
from app.keys import Identity, create_key
from app.observability.metrics import Metrics
from app.pipeline import Call, Pipeline, Reply
from app.product.consumer import Message, retry_seconds
from app.product.documents import Documents, Job
from app.product.routes import documents_of
from app.services import Services
from app.settings import Settings
from app.upstream.pool import Upstream
from app.worker import DocumentReader
from local.openai.server import Running, running
from tests.app.conftest import CloudParts, free_port, wait_until
from tests.app.ecs_agent import CLEARED, SET, running_agent
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]


class Counted(Metrics):
    """Metrics that remember their counts."""

    def __init__(self) -> None:
        super().__init__("test", "worker", write=lambda _line: None)
        self.counted: list[str] = []

    def count(self, name: str, value: float = 1) -> None:
        self.counted.append(name)
        super().count(name, value)


class Refusing:
    """A pipeline that refuses everything, and remembers who asked."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.identities: list[Identity] = []

    async def run(self, call: Call) -> Reply:
        self.identities.append(call.identity)
        raise ApiError(self.code, "refused by the test")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def worker_settings(settings: Settings, cloud: CloudParts, simulator: Running) -> Settings:
    """A worker with a queue of its own."""
    simulator.reset()
    arn = cloud.client("secretsmanager").create_secret(
        Name=secrets.token_hex(8), SecretString="sk-" + secrets.token_hex(16)
    )["ARN"]
    queue = cloud.client("sqs").create_queue(QueueName=secrets.token_hex(8))["QueueUrl"]
    return replace(
        settings, service="worker", openai_base_url=simulator.base_url, openai_secret_arn=arn, queue_url=queue
    )


@pytest.fixture
async def started(worker_settings: Settings) -> AsyncIterator[Services]:
    services = await Services.start(worker_settings)
    await services.metrics.stop()
    services.metrics = Counted()
    yield services
    await services.stop()


@pytest.fixture
def documents(started: Services) -> Documents:
    return documents_of(started)


def counted(services: Services) -> list[str]:
    assert isinstance(services.metrics, Counted)
    return [name for name in services.metrics.counted if name.startswith("Documents")]


async def post(documents: Documents, tenant: str, key_id: str = "0123456789ab") -> Job:
    made = await documents.create(tenant, key_id, "name", "Some text.")
    return Job(tenant, made.id, key_id)


def message(body: str, receives: int = 1, last: bool = False) -> Message:
    return Message(body, "receipt", receives, last)


async def test_a_document_becomes_ready_and_is_counted_once(
    started: Services, documents: Documents, tenant: str
) -> None:
    job = await post(documents, tenant)
    async with Upstream(started.settings.openai_base_url, connections=2, tcp_keep_alive_seconds=45) as upstream:
        pipeline = Pipeline(started, upstream)
        reader = DocumentReader(started, pipeline)
        assert await reader.read(message(job.to_message())) is None
        assert await reader.read(message(job.to_message(), receives=2)) is None
        await pipeline.close()
    found = await documents.get(tenant, job.document_id)
    assert found is not None
    assert found.status == "ready"
    assert counted(started) == ["DocumentsIngested"]


async def test_it_works_on_the_account_of_the_key_that_posted(
    started: Services, documents: Documents, cloud: CloudParts, tenant: str
) -> None:
    table = started.settings.state_table
    key = create_key(cloud.client("dynamodb"), table, tenant, name="n", requests_per_minute=7, tokens_per_minute=70)
    key_id = key.split("_")[1]
    pipeline = Refusing("model_not_found")
    await DocumentReader(started, pipeline).read(message((await post(documents, tenant, key_id)).to_message()))
    assert pipeline.identities == [Identity(tenant, key_id, "n", "user", 7, 70)]


async def test_a_key_that_is_gone_still_pays_for_what_it_posted(
    started: Services, documents: Documents, tenant: str
) -> None:
    pipeline = Refusing("model_not_found")
    await DocumentReader(started, pipeline).read(message((await post(documents, tenant)).to_message()))
    assert pipeline.identities == [Identity(tenant, "0123456789ab", "", "user", None, None)]


async def test_a_bad_document_fails_with_its_reason_and_goes_to_the_dead_letters(
    started: Services, documents: Documents, tenant: str
) -> None:
    job = await post(documents, tenant)
    reader = DocumentReader(started, Refusing("invalid_value"))
    for receives in (1, 2, 3):
        assert await reader.read(message(job.to_message(), receives)) == 0.0
    found = await documents.get(tenant, job.document_id)
    assert found is not None
    assert (found.status, found.reason) == ("failed", "refused by the test")
    assert counted(started) == ["DocumentsFailed"]


async def test_a_bad_moment_is_tried_again_and_the_last_one_says_so(
    started: Services, documents: Documents, tenant: str
) -> None:
    job = await post(documents, tenant)
    reader = DocumentReader(started, Refusing("api_key_missing"))
    assert await reader.read(message(job.to_message(), receives=2)) == retry_seconds(2)
    found = await documents.get(tenant, job.document_id)
    assert found is not None
    assert (found.status, counted(started)) == ("pending", [])
    await reader.read(message(job.to_message(), receives=5, last=True))
    found = await documents.get(tenant, job.document_id)
    assert found is not None
    assert (found.status, found.reason) == ("failed", "Given up after 5 attempts: refused by the test")
    assert counted(started) == ["DocumentsFailed"]


@pytest.mark.parametrize("body", ["not json", "{}", '{"version": 1, "kind": "ingest", "tenant": "../x"}'])
async def test_a_message_that_makes_no_sense_goes_to_the_dead_letters(started: Services, body: str) -> None:
    assert await DocumentReader(started, Refusing("invalid_value")).read(message(body)) == 0.0
    assert counted(started) == []


@contextlib.contextmanager
def worker_process(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command."""
    command = [sys.executable, "-m", "app", "worker"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(port: int, path: str) -> tuple[int, Any]:
    """Status and JSON of a health check; 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
        except OSError:
            return 0, None
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def test_the_command_reads_a_document_answers_health_checks_and_stops_on_sigterm(
    worker_settings: Settings, environment: dict[str, str], cloud: CloudParts, tenant: str
) -> None:
    port = free_port()
    changed = environment | {
        "PRODKIT_SERVICE": "worker",
        "PRODKIT_HOST": "127.0.0.1",
        "PRODKIT_PORT": str(port),
        "PRODKIT_OPENAI_BASE_URL": worker_settings.openai_base_url,
        "PRODKIT_OPENAI_SECRET_ARN": worker_settings.openai_secret_arn,
        "PRODKIT_QUEUE_URL": worker_settings.queue_url,
    }
    document_id = "doc_" + secrets.token_hex(14)
    seed(cloud, worker_settings, tenant, document_id)
    with running_agent() as agent, worker_process(changed | {"ECS_AGENT_URI": agent.uri}) as process:
        wait_until(lambda: ask(port, "/health/ready")[0] == 200)
        assert ask(port, "/health/live") == (200, {"status": "live"})
        wait_until(lambda: status_of(cloud, worker_settings, tenant, document_id) == "ready")
        wait_until(lambda: agent.asked == [SET, CLEARED])
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines()]
    [ready] = [line for line in lines if line.get("message") == "document ready"]
    assert (ready["tenant"], ready["document_id"]) == (tenant, document_id)
    requests = [line for line in lines if line.get("event") == "request"]
    assert [(line["endpoint"], line["tenant"], line["key_id"]) for line in requests] == [
        ("/v1/embeddings", tenant, "0123456789ab")
    ]


def seed(cloud: CloudParts, settings: Settings, tenant: str, document_id: str) -> None:
    """A pending document and its message, as POST /documents leaves them."""
    key = f"tenants/{tenant}/{document_id}/source"
    cloud.client("s3").put_object(Bucket=settings.documents_bucket, Key=key, Body=b"Some text.")
    item = {
        "pk": {"S": f"TENANT#{tenant}"},
        "sk": {"S": f"DOC#{document_id}"},
        "name": {"S": "name"},
        "status": {"S": "pending"},
        "bytes": {"N": "10"},
        "chunks": {"N": "0"},
        "created_at": {"N": "0"},
    }
    cloud.client("dynamodb").put_item(TableName=settings.state_table, Item=item)
    job = Job(tenant, document_id, "0123456789ab").to_message()
    cloud.client("sqs").send_message(QueueUrl=settings.queue_url, MessageBody=job)


def status_of(cloud: CloudParts, settings: Settings, tenant: str, document_id: str) -> str:
    key = {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"DOC#{document_id}"}}
    item = cloud.client("dynamodb").get_item(TableName=settings.state_table, Key=key)["Item"]
    return str(item["status"]["S"])
