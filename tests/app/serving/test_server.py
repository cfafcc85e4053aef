"""A deploy cuts no stream: what SIGTERM does to a replica that is at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
from openai import OpenAI

from app.prices import PICO_PER_USD
from local.openai.server import Running, running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, wait_until
from tests.app.replica import made_up_openai_key, openai_secret, prodkit_key, replica
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture
def task(cloud: CloudParts, valkey_port: int, upstream: Running) -> dict[str, str]:
    upstream.reset()
    return BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "PRODKIT_READINESS_GRACE_SECONDS": "2",
        "PRODKIT_HEARTBEAT_SECONDS": "1",
        "AWS_ENDPOINT_URL": cloud.url,
    }


def test_a_stream_outlives_the_order_to_stop(task: dict[str, str], cloud: CloudParts, upstream: Running) -> None:
    key = prodkit_key(cloud, "drain")
    upstream.fault("slow_first_token", seconds=5)
    with replica(task) as process, OpenAI(base_url=process.base_url, api_key=key, max_retries=0) as client:
        with client.responses.create(model="fast", input="hi", stream=True) as stream:
            assert next(stream).type == "response.created"
            process.process.send_signal(signal.SIGTERM)
            # Readiness fails first, while requests are still taken: the balancer needs time to notice.
            wait_until(lambda: process.status("/health/ready") == 503)
            assert process.status("/health/live") == 200
            assert client.with_options(timeout=PATIENCE_SECONDS).models.list().data
            # Then nobody new gets in, and the stream goes on.
            wait_until(lambda: process.status("/health/live") == 0)
            kinds = [event.type for event in stream]
        assert kinds[-1] == "response.completed"
        assert process.process.wait(20) == 0
        line = process.request_lines()[-1]
        assert (line["status"], line.get("error_code")) == (200, None)
    ledger = cloud.client("dynamodb").query(
        TableName="ledger",
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": "B#tenant:drain"}},
    )
    assert int(ledger["Items"][0]["spent"]["N"]) == round(line["cost_usd"] * PICO_PER_USD) > 0


def test_what_is_longer_than_the_drain_is_ended_and_accounted(
    task: dict[str, str], cloud: CloudParts, upstream: Running
) -> None:
    upstream.fault("stall", after=9)
    environment = task | {"PRODKIT_READINESS_GRACE_SECONDS": "0", "PRODKIT_DRAIN_SECONDS": "1"}
    key = prodkit_key(cloud, "long")
    with replica(environment) as process, OpenAI(base_url=process.base_url, api_key=key, max_retries=0) as client:
        with client.responses.create(model="fast", input="hi", stream=True) as stream:
            assert next(stream).type == "response.created"
            assert process.terminate() == 0
        line = process.request_lines()[-1]
        assert (line["usage_estimated"], line["error_code"]) == (True, "stopped")
        assert len(process.request_lines()) == 1
    assert upstream.requests()[-1]["outcome"] == "disconnected"


def test_a_second_signal_stops_at_once(task: dict[str, str], cloud: CloudParts, upstream: Running) -> None:
    upstream.fault("stall", after=9)
    environment = task | {"PRODKIT_READINESS_GRACE_SECONDS": "30", "PRODKIT_DRAIN_SECONDS": "60"}
    key = prodkit_key(cloud, "twice")
    with (
        replica(environment) as process,
        OpenAI(base_url=process.base_url, api_key=key, max_retries=0) as client,
        client.responses.create(model="fast", input="hi", stream=True) as stream,
    ):
        assert next(stream).type == "response.created"
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.status("/health/ready") == 503)
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(10) == 1


def test_ctrl_c_waits_for_no_balancer(task: dict[str, str]) -> None:
    with replica(task | {"PRODKIT_READINESS_GRACE_SECONDS": "3600"}) as process:
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(30) == 0


def test_an_idle_replica_stops_cleanly_and_leaves_no_thread_behind(task: dict[str, str]) -> None:
    with replica(task | {"PRODKIT_READINESS_GRACE_SECONDS": "0"}) as process:
        assert process.terminate() == 0
        assert not any("Traceback" in line for line in process.lines)
    assert threading.active_count() < 50
