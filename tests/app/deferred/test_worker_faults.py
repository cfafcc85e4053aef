"""Whatever becomes of a worker, of OpenAI or of the queue, a request that may wait is answered and paid for once."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import replace
from typing import Any

import pytest

from app.deferred import runner as runner_module
from app.deferred.batch_api import BatchApi, BatchAwayError
from app.deferred.jobs import Jobs
from app.deferred.queue import read_message
from app.deferred.requests import DeferredRequests
from app.deferred.runner import Runner
from app.deferred.store import Store
from app.ledger import Ledger
from app.pipeline.meter import read_usage
from app.prices import BATCH
from local.openai.server import Running
from tests.app.deferred.asking import HELLO, finished, nothing_left
from tests.app.deferred.conftest import Yard

pytestmark = pytest.mark.process


class Crash(BaseException):
    """The worker dies: nothing that would catch an error catches it."""


STEPS = [
    (Store, "send", 0),
    (DeferredRequests, "claim", 0),
    (DeferredRequests, "claim", 1),
    (BatchApi, "upload", 0),
    (BatchApi, "upload", 1),
    (BatchApi, "create", 0),
    (BatchApi, "create", 1),
    (BatchApi, "retrieve", 0),
    (DeferredRequests, "finish", 0),
    (DeferredRequests, "finish", 1),
    (Ledger, "use", 0),
    (Ledger, "use", 1),
    (BatchApi, "forget", 0),
    (Jobs, "close", 0),
    (Jobs, "close", 1),
]


@pytest.mark.parametrize(("owner", "method", "after"), STEPS, ids=[f"{o.__name__}.{m}-{a}" for o, m, a in STEPS])
async def test_a_worker_that_dies_anywhere_loses_nothing_and_pays_nothing_twice(
    yard: Yard,
    simulator: Running,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    after: int,
) -> None:
    """It dies before (0) or after (1) one of its steps is done, and its message is delivered again."""
    accepted = [await yard.send({**HELLO, "input": f"part {at}"}) for at in range(3)]
    monkeypatch.setattr(runner_module, "SETTLE_SECONDS", 0)
    real = getattr(owner, method)
    deaths = 0

    async def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal deaths
        deaths += 1
        if after and deaths == 1:
            await real(self, *args, **kwargs)
        raise Crash

    monkeypatch.setattr(owner, method, dying)
    let_go = Jobs.release

    async def release(self: Jobs, job: Any, name: str) -> None:
        if not deaths:  # the dead do not let go
            await let_go(self, job, name)

    monkeypatch.setattr(Jobs, "release", release)
    message: tuple[str, str] | None = None
    dead = Runner(yard.services)
    for _ in range(20):
        for message in await yard.messages(most=1):
            order = read_message(message[0])
            assert order is not None
            try:
                await dead.run(order)
            except Crash:
                break
            await yard.delete(message[1])
        if deaths:
            break
        await asyncio.sleep(0.05)
    assert deaths
    await dead.close()
    monkeypatch.undo()
    monkeypatch.setattr(runner_module, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(runner_module, "BUSY_SECONDS", 0)
    await _forget_leases(yard)
    assert message is not None
    sqs, url = yard.cloud.client("sqs"), yard.services.settings.queue_url
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message[1], VisibilityTimeout=0)
    await yard.work(yard.over(*(one["id"] for one in accepted)))
    await yard.work(lambda: nothing_left(yard))

    answers = [(await yard.look(one["id"]))["response"]["body"] for one in accepted]
    assert len(simulator.batches()) == 1
    price = yard.services.models.current.resolve("fast", "text").tariff.price(BATCH)
    usages = [read_usage(answer["usage"]) for answer in answers]
    assert await yard.spent_pico() == sum(price.cost_pico(usage) for usage in usages if usage is not None)


async def _forget_leases(yard: Yard) -> None:
    """Let the time pass in which the dead worker's leases and locks hold."""
    dynamodb = yard.cloud.client("dynamodb")
    for item in dynamodb.scan(TableName=yard.services.settings.state_table)["Items"]:
        for name in ("lease_until", "until"):
            if name in item:
                dynamodb.update_item(
                    TableName=yard.services.settings.state_table,
                    Key={"pk": item["pk"], "sk": item["sk"]},
                    UpdateExpression="SET #name = :zero",
                    ExpressionAttributeNames={"#name": name},
                    ExpressionAttributeValues={":zero": {"N": "0"}},
                )


async def test_an_answer_of_openai_that_is_lost_makes_no_second_batch(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "AWAY_SECONDS", 0.0)
    simulator.fault("cut", match={"method": "POST", "path": "/v1/batches"})
    assert (await finished(yard))["status"] == "completed"
    assert len(simulator.batches()) == 1


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"status": 429, "code": "rate_limit_exceeded"}])
async def test_a_bad_moment_of_openai_is_waited_out(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr(runner_module, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(runner_module, "SETTLE_SECONDS", 0)
    for path in ("/v1/files", "/v1/batches"):
        simulator.fault("status", match={"path": path}, **fault)
    assert (await finished(yard))["status"] == "completed"
    assert len(simulator.batches()) == 1


async def test_of_two_batches_for_one_job_the_later_is_cancelled(yard: Yard, simulator: Running) -> None:
    api = BatchApi(yard.services)
    simulator.fault("expire", match={"path": "/v1/batches"}, after=0, times=2)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "gpt-6-luna", "input": "x"}}
    file_id = await api.upload("job_1", json.dumps(line).encode())
    made = [await api.create("job_1", file_id, "/v1/responses")]
    await asyncio.sleep(1.1)  # batches are told apart by the second
    made.append(await api.create("job_1", file_id, "/v1/responses"))
    found = await api.find("job_1", time.time())
    await api.close()
    assert found is not None
    assert found.id == made[0].id
    states = {one["id"]: one["status"] for one in simulator.batches()}
    assert states[made[1].id] == "cancelled"


async def test_without_a_key_of_openai_requests_wait(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    api = BatchApi(replace(yard.services, openai_key=_NoKey()))  # type: ignore[arg-type]
    with pytest.raises(BatchAwayError) as away:
        await api.upload("job", b"{}")
    assert away.value.perhaps_done is False


class _NoKey:
    async def get(self) -> str | None:
        return None


async def test_many_orders_for_a_group_make_few_jobs(yard: Yard, simulator: Running) -> None:
    accepted = [await yard.send({**HELLO, "input": secrets.token_hex(4)}) for _ in range(20)]
    runner = Runner(yard.services)
    orders = [read_message(body) for body, _ in await yard.messages()]
    await asyncio.gather(*(runner.run(order) for order in orders if order is not None))
    await yard.work(yard.over(*(one["id"] for one in accepted)), runner)
    assert len(simulator.batches()) <= 2
    totals = [batch["request_counts"]["total"] for batch in simulator.batches()]
    assert sum(totals) == 20


async def test_a_young_request_waits_for_others(yard: Yard) -> None:
    first = await yard.send(HELLO)
    [(body, receipt)] = await yard.messages()
    runner = Runner(yard.services)
    order = read_message(body)
    assert order is not None
    await runner.run(order)
    await yard.delete(receipt)
    second = await yard.send({**HELLO, "input": "later"})
    await runner.run(order)  # of the first request, which is in a job: the second has an order of its own
    await runner.close()
    assert (await yard.look(second["id"]))["status"] == "queued"
    await yard.work(yard.over(first["id"], second["id"]))
