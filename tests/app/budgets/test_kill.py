"""The kill switch as an operator uses it: two replicas, the official client, the command line."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import openai
import pytest

from local.openai.server import Running, running
from tests.app.conftest import REGION, CloudParts
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica

pytestmark = pytest.mark.process
PROMISED_SECONDS = 2.0
BUSY_MACHINE_SECONDS = 3.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture
def replicas(cloud: CloudParts, environment: dict[str, str], upstream: Running) -> Iterator[list[Replica]]:
    upstream.reset()
    secret = openai_secret(cloud, made_up_openai_key())
    own = environment | {"PRODKIT_OPENAI_SECRET_ARN": secret, "PRODKIT_OPENAI_BASE_URL": upstream.base_url}
    with ExitStack() as stack:
        yield [stack.enter_context(replica(own)) for _ in range(2)]


def switch(cloud: CloudParts, verb: str, scope: str) -> float:
    """Runs the command; when it was done."""
    command = [sys.executable, "-m", "app.budgets", verb, scope, "--why", "test", "--by", "test"]
    where = {"AWS_ENDPOINT_URL": cloud.url, "AWS_REGION": REGION, "PRODKIT_STATE_TABLE": "state"}
    subprocess.run(command, env={**os.environ, **where}, check=True, capture_output=True, timeout=60)
    return time.monotonic()


def ask(client: openai.OpenAI) -> str:
    """`ok`, or the code of the refusal."""
    try:
        client.responses.create(model="fast", input=f"Say hello {secrets.token_hex(4)}", max_output_tokens=32)
    except openai.PermissionDeniedError as refused:
        return str(refused.code)
    return "ok"


def seconds_until(clients: list[openai.OpenAI], wanted: str, since: float) -> float:
    """How long it took until every replica answers so."""
    for client in clients:
        while ask(client) != wanted:
            assert time.monotonic() - since < PROMISED_SECONDS + BUSY_MACHINE_SECONDS
            time.sleep(0.05)
    return time.monotonic() - since


def test_a_killed_tenant_is_refused_by_every_replica_within_two_seconds_and_its_stream_runs_out(
    cloud: CloudParts, replicas: list[Replica], capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    key, other = prodkit_key(cloud, tenant), prodkit_key(cloud, f"{tenant}-other")
    clients = [openai.OpenAI(base_url=each.base_url, api_key=key, max_retries=0) for each in replicas]
    bystander = openai.OpenAI(base_url=replicas[0].base_url, api_key=other, max_retries=0)
    raw = clients[0].responses.with_raw_response.create(model="fast", input="Hi", max_output_tokens=32)
    assert raw.headers["x-prodkit-budget-rung"] == "normal"
    assert [ask(client) for client in clients] == ["ok", "ok"]
    stream = clients[0].responses.create(
        model="fast", input="Write 60 words.", stream=True, max_output_tokens=500, reasoning={"effort": "none"}
    )
    events = iter(stream)
    next(events)
    held = switch(cloud, "hold", f"tenant:{tenant}")
    try:
        took = seconds_until(clients, "spending_held", held)
        assert ask(bystander) == "ok"
        assert [event.type for event in events][-1] == "response.completed"
        models = httpx2.get(f"{replicas[0].base_url}/models", headers={"authorization": f"Bearer {key}"})
        assert models.status_code == 200  # what costs nothing goes on
    finally:
        released = switch(cloud, "release", f"tenant:{tenant}")
    back = seconds_until(clients, "ok", released)
    operator = {"authorization": f"Bearer {prodkit_key(cloud, 'ops', role='admin')}"}
    for method, wanted in (("PUT", "spending_held"), ("DELETE", "ok")):  # by HTTP, at one of the replicas
        place = replicas[0].base_url.replace("/v1", f"/budgets/tenant:{tenant}/hold")
        assert httpx2.request(method, place, headers=operator, json={"why": "test"}).status_code == 200
        seconds_until(clients, wanted, time.monotonic())
    with capsys.disabled():
        sys.stdout.write(f"\nheld on both replicas {took:.2f} s after the command, released after {back:.2f} s")
    for client in (*clients, bystander):
        client.close()
