"""The worst case of a request that waits is kept from its acceptance until it is known what it cost."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import pytest

from app.budgets.control import Control, Hold
from app.deferred import runner as runner_module
from app.deferred.batch_api import BatchApi, BatchRefusedError
from app.deferred.requests import DUE_PK, DeferredRequests
from app.deferred.runner import Runner
from app.deferred.store import Store, store_of
from app.errors import ApiError
from app.ledger import MONTHLY, Account, Entry, Ledger
from app.prices import BATCH
from local.openai.server import Running
from tests.app.deferred.asking import HELLO
from tests.app.deferred.conftest import Yard

pytestmark = pytest.mark.process

LONG_DAY = pytest.mark.parametrize("simulator", [600.0], ids=["a long day"], indirect=True)


async def account(yard: Yard) -> Account:
    return await yard.services.ledger.account(f"tenant:{yard.identity.tenant}")


async def worst_of(yard: Yard, name: str) -> int:
    request = await DeferredRequests(store_of(yard.services), yard.services.ledger).get(yard.identity.tenant, name)
    assert request is not None
    assert request.worst_pico > 0
    return request.worst_pico


async def nothing_waits(yard: Yard) -> bool:
    """Whether all that was set aside is used or given back."""
    return (await account(yard)).reserved == 0


async def entries(yard: Yard) -> list[Entry]:
    """Of deferred requests of the tenant."""
    table = yard.services.ledger.table
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return [
        each
        async for page in table.day_pages(day)
        for each in page.entries
        if each.tenant == yard.identity.tenant and each.id.startswith("def_")
    ]


async def test_what_waits_counts_against_the_budget_and_what_was_billed_is_within_it(
    yard: Yard, simulator: Running
) -> None:
    scope = f"tenant:{yard.identity.tenant}"
    first = await yard.send(HELLO)
    worst = await worst_of(yard, first["id"])
    limit = 3 * worst
    await yard.services.ledger.set_limit(scope, MONTHLY, limit, by="test", why="room for three")
    names = [first["id"], *[(await yard.send({**HELLO, "input": f"part{at}"}))["id"] for at in range(2)]]
    assert (await account(yard)).reserved == limit
    for deadline in ("24h", None):  # nothing is left, for requests that wait and for those that do not
        with pytest.raises(ApiError) as refused:
            await yard.send(HELLO, deadline=deadline)
        assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")
        assert f"tenant {yard.identity.tenant}" in refused.value.message
        assert "starts anew at" in refused.value.message
    await yard.work(yard.over(*names))
    found = await account(yard)
    assert (found.reserved, found.left) == (0, limit - found.spent)
    assert found.spent == sum(each.pico for each in await entries(yard))
    billed = [batch["billed"] for batch in simulator.batches()]
    price = yard.services.models.current.resolve("fast", "text").tariff.price(BATCH)
    total = sum(price.input * each["input_tokens"] + price.output * each["output_tokens"] for each in billed)
    assert 0 < total == found.spent <= limit
    await yard.send(HELLO)  # what was not used may be spent again


async def unresolved(yard: Yard) -> dict[str, int]:
    """What the organisation has aside, by the day of its acceptance."""
    item = await yard.services.ledger.table.read("org", f"M{time.strftime('%Y-%m', time.gmtime())}")
    assert item is not None
    return item.asides


class Units:
    """Write units of DynamoDB, for items of up to a kilobyte each: all that is written for requests that wait."""

    def __init__(self, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of = Counter[str]()
        real = yard.services.aws.call

        async def call(service: str, operation: str, /, **parameters: Any) -> Any:
            if operation == "transact_write_items":
                self.of["money and records"] += 2 * len(parameters["TransactItems"])
            elif service == "dynamodb" and operation.partition("_")[0] in ("put", "update", "delete"):
                pk = str((parameters.get("Key") or parameters["Item"])["pk"]["S"]).partition("#")[0]
                self.of[{"DEFERDUE": "pointers", "DEFER": "pointers", "TENANT": "claims"}.get(pk, pk)] += 1
            return await real(service, operation, **parameters)

        monkeypatch.setattr(yard.services.aws, "call", call)

    def taken(self) -> Counter[str]:
        """Since the last time; without those of the watcher and of leases."""
        found = Counter({what: count for what, count in self.of.items() if what[0].islower() or what == "DEFERJOB"})
        self.of.clear()
        return found


async def test_requests_of_one_moment_share_the_writes_of_their_budgets(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = await yard.send(HELLO)
    await yard.work(yard.over(first["id"]))
    before = await unresolved(yard)
    units = Units(yard, monkeypatch)
    accepted = await yard.send(HELLO)
    assert units.taken() == {"money and records": 2 * (1 + 4), "pointers": 2}
    await yard.work(yard.over(accepted["id"]))
    alone = units.taken()
    assert alone["money and records"] == 2 * (1 + 4 + 1), "its record, four budget items and a page"
    assert alone["claims"] == 1
    many = 32
    sent = await asyncio.gather(*(yard.send({**HELLO, "input": f"part {at}"}) for at in range(many)))
    begun = units.taken()
    assert sum((await unresolved(yard)).values()) > sum(before.values())
    await yard.work(yard.over(*(one["id"] for one in sent)))
    ended = units.taken()
    for what in (begun, ended):
        assert 2 * many < what["money and records"] <= 5 * many, what
    whole, single = (begun + ended).total() / many, 12 + alone.total()
    with capsys.disabled():
        sys.stdout.write(
            f"\nWrite units of a request that waits, from its acceptance to its end: {single} alone in its batch, "
            f"{whole:.1f} each of {many} of one moment ({dict(begun + ended)})\n"
        )
    assert whole <= 13
    assert await nothing_waits(yard)
    assert await unresolved(yard) == before, "each day has back what was set aside on it"
    spent = sum(each.pico for each in await entries(yard))
    assert (await account(yard)).spent == spent
    assert len(await entries(yard)) == many + 2


async def test_a_request_that_is_cancelled_before_it_is_asked_gives_its_money_back_at_once(yard: Yard) -> None:
    accepted = await yard.send(HELLO)
    assert (await account(yard)).reserved == await worst_of(yard, accepted["id"])
    await yard.pipeline.desk.cancel(yard.identity.tenant, accepted["id"])
    assert ((await account(yard)).reserved, await entries(yard)) == (0, [])


@LONG_DAY
async def test_a_cancelled_batch_gives_back_what_it_did_not_use_and_not_before_it_is_over(
    yard: Yard, simulator: Running
) -> None:
    simulator.fault("expire", match={"path": "/v1/batches"}, after=0)
    accepted = await yard.send(HELLO)
    worst = await worst_of(yard, accepted["id"])
    await yard.work(lambda: has_batch(simulator))
    await yard.pipeline.desk.cancel(yard.identity.tenant, accepted["id"])
    assert (await account(yard)).reserved == worst, "OpenAI may be at it"
    await yard.work(lambda: nothing_waits(yard))
    assert simulator.batches()[0]["status"] == "cancelled"
    assert ((await account(yard)).spent, await entries(yard)) == (0, [])


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("expire", {"after": 0, "times": None}),
        ("fail", {"code": "invalid_something", "message": "no"}),
    ],
)
async def test_a_batch_that_did_nothing_costs_nothing(
    yard: Yard, simulator: Running, kind: str, fault: dict[str, Any]
) -> None:
    simulator.fault(kind, match={"path": "/v1/batches"}, **fault)
    accepted = await yard.send(HELLO)
    await yard.work(yard.over(accepted["id"]))
    found = await account(yard)
    assert (found.reserved, found.spent) == (0, 0)


async def test_a_batch_that_openai_forgot_counts_as_the_most_it_can_have_cost(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await yard.send(HELLO)
    worst = await worst_of(yard, accepted["id"])

    async def gone(self: BatchApi, batch_id: str) -> None:
        raise BatchRefusedError(404, "not_found", "No such batch.")

    monkeypatch.setattr(BatchApi, "retrieve", gone)
    await yard.work(yard.over(accepted["id"]))
    [one] = await entries(yard)
    assert (one.pico, one.outcome, one.flags) == (worst, "estimated", "estimated")
    found = await account(yard)
    assert (found.reserved, found.spent) == (0, worst)


@LONG_DAY
async def test_what_a_late_batch_costs_is_waited_for_after_its_caller_was_told(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LONGEST_PAUSE_SECONDS", 0.0)
    accepted, other = await yard.send(HELLO), await yard.send({**HELLO, "input": "other"})
    simulator.fault("expire", match={"path": "/v1/batches"}, after=1)
    await yard.work(lambda: has_batch(simulator))
    requests = DeferredRequests(store_of(yard.services), yard.services.ledger)
    jobs = set()
    for name in (accepted["id"], other["id"]):
        request = await requests.get(yard.identity.tenant, name)
        assert request is not None
        assert await requests.expire(request)
        jobs.add(request.job)
    assert not await nothing_waits(yard)
    assert (await yard.look(accepted["id"]))["status"] == "expired"
    [job] = jobs
    late = int(time.time()) - 1_000
    await store_of(yard.services).update(f"DEFERJOB#{job}", "JOB", "attribute_exists(pk)", {}, {"due_at": late})
    await yard.work(lambda: nothing_waits(yard))
    billed = simulator.batches()[0]["billed"]
    found = await account(yard)
    assert [each.output for each in await entries(yard)] == [billed["output_tokens"]]
    assert found.spent == sum(each.pico for each in await entries(yard)) > 0
    assert (await yard.look(accepted["id"]))["response"] is None, "nobody waits for it any more"


async def test_a_request_that_is_deleted_while_openai_works_on_it_is_metered(yard: Yard, simulator: Running) -> None:
    accepted = await yard.send(HELLO)
    await yard.work(lambda: has_batch(simulator))
    for _ in range(2):
        deleted = json.loads(await yard.pipeline.desk.cancel(yard.identity.tenant, accepted["id"]))
    assert deleted["deleted"] is True
    with pytest.raises(ApiError):
        await yard.look(accepted["id"])
    await yard.work(lambda: nothing_waits(yard))
    billed = simulator.batches()[0]["billed"]["output_tokens"]
    assert sum(each.output for each in await entries(yard)) == billed


async def test_what_waits_is_not_asked_while_its_tenant_is_on_hold(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "HELD_SECONDS", 0.0)
    accepted = await yard.send(HELLO)
    control = yard.services.control
    await control.stop()  # the test says what it read
    control.current = Control({f"tenant:{yard.identity.tenant}": Hold("ops", "runaway", "now")})

    async def looked_at_twice() -> bool:
        return len(yard.worked) >= 4

    await yard.work(looked_at_twice)
    assert simulator.batches() == []
    assert (await yard.look(accepted["id"]))["status"] == "queued"
    control.current = Control()
    await yard.work(yard.over(accepted["id"]))
    assert (await yard.look(accepted["id"]))["status"] == "completed"


class Crash(BaseException):
    """The process dies."""


@pytest.mark.parametrize(
    ("where", "what"),
    [(Ledger, "set_aside"), (DeferredRequests, "wait"), (Store, "send")],
    ids=["before its money is aside", "before it is to wait", "before anybody was told"],
)
async def test_a_request_of_a_process_that_died_accepting_it_gives_its_money_back_when_it_is_due(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, where: type, what: str
) -> None:
    async def dies(*args: Any) -> None:
        raise Crash

    monkeypatch.setattr(where, what, dies)
    with pytest.raises(Crash):
        await yard.send(HELLO)
    monkeypatch.undo()
    runner = Runner(yard.services)
    await runner.sweep(time.time())
    assert await nothing_waits(yard) is (where is Ledger), "it is not due"
    await runner.sweep(time.time() + 2 * 86_400)
    await runner.close()
    assert await nothing_waits(yard)
    assert await store_of(yard.services).between(DUE_PK, "0", ":", 10) == []


async def test_the_deadline_of_a_repeated_call_ends_nothing_that_the_first_one_gave_more_time(yard: Yard) -> None:
    first = await yard.send(HELLO, idempotency_key="order 10")
    assert (await yard.send(HELLO, deadline="1h", idempotency_key="order 10"))["due_at"] == first["due_at"]
    runner = Runner(yard.services)
    await runner.sweep(time.time() + 2 * 3_600)
    await runner.close()
    assert (await yard.look(first["id"]))["status"] == "queued"
    assert not await nothing_waits(yard)
    assert len(await store_of(yard.services).between(DUE_PK, "0", ":", 10)) == 1


async def test_a_ledger_that_does_not_answer_accepts_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(type(yard.services.ledger.table), "together", away)
    with pytest.raises(ApiError) as refused:
        await yard.send(HELLO)
    assert (refused.value.status, refused.value.code) == (503, "ledger_unavailable")
    assert await yard.messages() == []


async def has_batch(simulator: Running) -> bool:
    return bool(simulator.batches())


async def payloads(yard: Yard) -> list[str]:
    """What of the tenant's the bucket has of questions."""
    s3, bucket = yard.cloud.client("s3"), yard.services.settings.documents_bucket
    prefix = f"deferred/{yard.identity.tenant}/"
    found = await asyncio.to_thread(s3.list_objects_v2, Bucket=bucket, Prefix=prefix)
    return [one["Key"] for one in found.get("Contents", ()) if not one["Key"].endswith("answer.json")]


@pytest.mark.parametrize("named", [{}, {"idempotency_key": "order 9"}], ids=["without a name", "with one"])
async def test_a_request_that_a_budget_refuses_leaves_no_word_of_what_it_asks(
    yard: Yard, named: dict[str, str]
) -> None:
    await yard.services.ledger.set_limit(f"tenant:{yard.identity.tenant}", MONTHLY, 1, by="test", why="no room")
    with pytest.raises(ApiError) as refused:
        await yard.send(HELLO, **named)
    assert refused.value.code == "insufficient_quota"
    assert await payloads(yard) == []


async def test_of_calls_under_one_name_the_accepted_one_keeps_its_payload_whatever_becomes_of_the_others(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, name = yard.services.ledger, {"idempotency_key": "order 8"}
    await yard.send(HELLO)
    real, both, arrived = ledger.set_aside, asyncio.Event(), []

    async def refusing_the_first(*args: Any) -> bool:
        """Both have written their payloads; then there is no room for one, and there is for the other."""
        arrived.append(args)
        first = len(arrived) == 1
        if first:
            await both.wait()
            raise ApiError("insufficient_quota", "The first finds no room.")
        try:
            return await real(*args)
        finally:
            both.set()

    monkeypatch.setattr(ledger, "set_aside", refusing_the_first)
    found = await asyncio.gather(*(yard.send(HELLO, **name) for _ in range(2)), return_exceptions=True)
    [made] = [each for each in found if isinstance(each, dict)]
    assert [each.code for each in found if isinstance(each, ApiError)] == ["insufficient_quota"]
    monkeypatch.undo()
    again = await yard.send(HELLO, **name)  # a third is told of the one that is there
    assert made == again
    assert len(await payloads(yard)) == 2
    await yard.work(yard.over(again["id"]))
    assert (await yard.look(again["id"]))["status"] == "completed"
