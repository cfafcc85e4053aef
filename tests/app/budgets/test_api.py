from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.budgets.__main__ import main
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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/budgets", 401),
        ("POST", "/budgets", 405),
        ("PUT", "/budgets/org/month", 401),
        ("DELETE", "/budgets/org/month", 401),
        ("PUT", "/budgets/org/hold", 401),
        ("DELETE", "/budgets/org/hold", 401),
    ],
)
def test_nobody_reads_or_sets_without_a_key(web: Replica, method: str, path: str, status: int) -> None:
    assert web.send(method, path)[0] == status


def put(web: Replica, key: str, path: str, body: object, method: str = "PUT") -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    status, _, answer = web.send(method, f"/budgets/{path}", headers=headers, body=json.dumps(body).encode())
    return status, json.loads(answer)


@pytest.fixture
def log(cloud: CloudParts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What is on record of a scope: for each change what was done, by whom, why."""
    for name, value in {"AWS_ENDPOINT_URL": cloud.url, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)

    def read(scope: str) -> str:
        assert main(["log", "--table", "state", "--ledger-table", "ledger", "--most", "200"]) == 0
        lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if f" {scope} " in line]
        return "\n".join(sorted(" ".join(line.split()) for line in lines))

    return read


def test_an_operator_sets_a_budget_and_it_is_on_record_who_and_why(
    web: Replica, cloud: CloudParts, log: Callable[[str], str]
) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    key, operator = prodkit_key(cloud, tenant), prodkit_key(cloud, "ops", role="admin")
    wanted = {"limit_usd": "0.25", "why": "a trial"}
    assert put(web, key, f"tenant:{tenant}/month", wanted)[1]["error"]["code"] == "not_allowed"
    _, _, before = web.send("GET", "/budgets", headers={"authorization": f"Bearer {key}"})
    assert json.loads(before)["data"][0]["limit"] is None
    status, made = put(web, operator, f"tenant:{tenant}/month", wanted)
    assert (status, made["limit_pico"], made["left_pico"], made["span"]) == (200, *("250000000000",) * 2, "month")
    _, _, seen = web.send("GET", "/budgets", headers={"authorization": f"Bearer {key}"})
    assert json.loads(seen)["data"][0]["limit"] == "$0.25"
    assert put(web, operator, f"tenant:{tenant}/month", {"limit_usd": None, "why": "over"})[1]["limit"] is None
    by = f"set tenant:{tenant} key {operator.split('_')[1]}"
    assert log(f"tenant:{tenant}") == f"{by} a trial [month $0.25]\n{by} over [month none]"


def test_a_budget_goes_back_to_what_the_stack_says_and_that_is_on_record(
    web: Replica, cloud: CloudParts, log: Callable[[str], str]
) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    operator, key = prodkit_key(cloud, "ops", role="admin"), prodkit_key(cloud, tenant)
    back = {"why": "over"}
    assert put(web, operator, f"tenant:{tenant}/month", {"limit_usd": "0", "why": "a trial"})[1]["limit"] == "$0.00"
    for body, code in (({}, "missing_required_parameter"), ({"limit_usd": "1", **back}, "unsupported_parameter")):
        assert put(web, operator, f"tenant:{tenant}/month", body, "DELETE")[1]["error"]["code"] == code
    assert put(web, key, f"tenant:{tenant}/month", back, "DELETE")[1]["error"]["code"] == "not_allowed"
    status, made = put(web, operator, f"tenant:{tenant}/month", back, "DELETE")
    assert (status, made["limit"]) == (200, None), "a tenant has no limit by default"
    by = f"set tenant:{tenant} key {operator.split('_')[1]}"
    assert log(f"tenant:{tenant}") == f"{by} a trial [month $0.00]\n{by} over [month default]"


def test_an_operator_holds_a_tenant_and_releases_it_and_nobody_else_may(
    web: Replica, cloud: CloudParts, log: Callable[[str], str]
) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    operator, key = prodkit_key(cloud, "ops", role="admin"), prodkit_key(cloud, tenant)
    place, why = f"tenant:{tenant}/hold", {"why": "runaway"}

    def asked() -> str:
        body = json.dumps({"model": "fast", "input": "hi"}).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return str(
            (json.loads(web.send("POST", "/v1/responses", headers=headers, body=body)[2])["error"] or {})["code"]
        )

    for method in ("PUT", "DELETE"):
        assert put(web, key, place, why, method)[1]["error"]["code"] == "not_allowed"
    assert put(web, operator, place, why, "DELETE")[1]["error"]["code"] == "not_found"
    status, held = put(web, operator, place, why)
    by = f"key {operator.split('_')[1]}"
    assert (status, held["held"], held["by"], held["why"]) == (200, True, by, "runaway")
    assert asked() == "spending_held", "at once where it was set"
    again = put(web, operator, place, {"why": "again"})[1]
    assert (again["since"], again["why"]) == (held["since"], "runaway"), "the first hold stands"
    assert put(web, operator, place, {"why": "over"}, "DELETE") == (
        200,
        {"object": "hold", "scope": f"tenant:{tenant}", "held": False},
    )
    assert asked() != "spending_held"
    assert log(f"tenant:{tenant}") == f"hold tenant:{tenant} {by} runaway\nrelease tenant:{tenant} {by} over"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("acme/month", {"limit_usd": "1", "why": "x"}, 404, "write org, tenant:NAME"),
        ("org/year", {"limit_usd": "1", "why": "x"}, 404, "for a month and for a day"),
        ("org/day", [], 400, "must be JSON such as"),
        ("org/day", {"limit_usd": "1"}, 400, "'why' is missing"),
        ("org/day", {"limit_usd": "1", "why": " "}, 400, "say who or why"),
        ("org/day", {"limit_usd": 1, "why": "x"}, 400, "a text in dollars or null"),
        ("org/day", {"limit_usd": "-1", "why": "x"}, 400, "such as 50 or 0.25"),
        ("org/day", {"limit_usd": "1", "why": "x", "by": "me"}, 400, "Unknown parameter: 'by'"),
        ("org/day", {"limit_usd": "1", "why": "x" * 5_000}, 413, "longer than 4096 bytes"),
        ("acme/hold", {"why": "x"}, 404, "write org, tenant:NAME"),
        ("org/hold", {"why": "\n"}, 400, "say who or why"),
        ("org/hold", {"why": 1}, 400, "'why' is a text"),
        ("org/hold", {"why": "x", "until": "tomorrow"}, 400, "Unknown parameter: 'until'"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_with_the_fix(
    web: Replica, cloud: CloudParts, path: str, body: object, status: int, said: str
) -> None:
    operator = prodkit_key(cloud, "ops", role="admin")
    refused = put(web, operator, path, body)
    assert refused[0] == status
    assert said in refused[1]["error"]["message"]
