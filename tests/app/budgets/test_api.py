from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from tests.app.conftest import CloudParts
from tests.app.replica import Replica, prodkit_key, replica

pytestmark = pytest.mark.process
TENANT = f"t-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def web(cloud: CloudParts, valkey_port: int) -> Iterator[Replica]:
    from tests.app.conftest import BASE_ENVIRONMENT

    environment = BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_SECRET_ARN": cloud.secret_arn,
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "AWS_ENDPOINT_URL": cloud.url,
    }
    limit = {"pk": {"S": "L"}, "sk": {"S": f"M#tenant:{TENANT}"}, "limit": {"N": str(25 * 10**12)}}
    client = cloud.client("dynamodb")
    client.put_item(TableName="ledger", Item=limit)
    client.update_item(
        TableName="ledger",
        Key={"pk": {"S": "L"}, "sk": {"S": "!"}},
        UpdateExpression="ADD n :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    with replica(environment) as running:
        yield running


def test_a_tenant_sees_its_own_budgets_and_nobody_elses(web: Replica, cloud: CloudParts) -> None:
    tenant = TENANT
    key = prodkit_key(cloud, tenant)
    key_id = key.split("_")[1]
    status, headers, body = web.send("GET", "/budgets", headers={"authorization": f"Bearer {key}"})
    answer = json.loads(body)
    assert (status, headers["content-type"], answer["rung"]) == (200, "application/json", "normal")
    assert [each["scope"] for each in answer["data"]] == [f"tenant:{tenant}", f"key:{key_id}"]
    mine, _ = answer["data"]
    assert (mine["limit"], mine["limit_pico"], mine["spent_pico"], mine["held"]) == (
        "$25.00",
        "25000000000000",
        "0",
        False,
    )
    assert mine["resets_at"].endswith("-01T00:00:00+00:00")


@pytest.mark.parametrize(("method", "status"), [("GET", 401), ("POST", 405)])
def test_nobody_reads_without_a_key_and_nobody_writes_here(web: Replica, method: str, status: int) -> None:
    assert web.send(method, "/budgets")[0] == status
