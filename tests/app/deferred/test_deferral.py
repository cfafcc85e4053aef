"""A request that may wait is answered as a direct one would be, once, at half the price, whatever happens meanwhile."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.deferred.runner import Runner
from app.deferred.store import store_of
from app.errors import ApiError
from app.ledger import MONTHLY
from app.pipeline.meter import read_usage
from app.prices import BATCH, DEFAULT, PICO_PER_USD
from local.openai.server import Running
from tests.app.deferred.asking import HELLO, finished, nothing_left, text_of
from tests.app.deferred.conftest import Yard

pytestmark = pytest.mark.process

# A busy machine lets a batch expire before it can be cancelled, where a day is half a second.
LONG_DAY = pytest.mark.parametrize("simulator", [600.0], ids=["a long day"], indirect=True)


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/responses", HELLO, "output"),
        ("/v1/chat/completions", {"model": "fast", "messages": [{"role": "user", "content": "hello"}]}, "choices"),
        ("/v1/embeddings", {"model": "embed", "input": ["a", "b"], "dimensions": 8}, "data"),
    ],
)
async def test_a_deferred_request_gets_the_answer_of_a_direct_one_at_half_the_price(
    yard: Yard, simulator: Running, path: str, body: dict[str, Any], part: str
) -> None:
    accepted = await yard.send(body, path)
    assert (accepted["object"], accepted["status"], accepted["response"]) == ("deferred", "queued", None)
    assert accepted["due_at"] - accepted["created_at"] == 24 * 3600
    await yard.work(yard.over(accepted["id"]))
    done = await yard.look(accepted["id"])
    assert (done["status"], done["error"], done["response"]["status_code"]) == ("completed", None, 200)
    answer = done["response"]["body"]
    usage = read_usage(answer["usage"])
    assert usage is not None
    tariff = yard.services.models.current.resolve(answer["model"], "embedding" if part == "data" else "text").tariff
    spent = await yard.spent_pico()
    assert spent == tariff.price(BATCH).cost_pico(usage) > 0
    assert done["cost_usd"] == spent / PICO_PER_USD
    assert 2 * spent == tariff.price(DEFAULT).cost_pico(usage)
    [billed] = simulator.batches()
    assert (billed["billed"]["total_tokens"], billed["percent"]) == (answer["usage"]["total_tokens"], 50)

    direct = await yard.send(body, path, deadline=None)
    assert [sorted(answer), answer["model"]] == [sorted(direct), direct["model"]]
    if part == "output":
        assert text_of(answer) == text_of(direct)


async def test_requests_that_wait_share_a_batch_and_each_finds_its_own_answer(yard: Yard, simulator: Running) -> None:
    accepted = [await yard.send({**HELLO, "input": f"Tell me about number {at} please"}) for at in range(12)]
    names = [one["id"] for one in accepted]
    await yard.work(yard.over(*names))
    for at, name in enumerate(names):
        done = await yard.look(name)
        assert str(at) in text_of(done["response"]["body"])
    assert len(simulator.batches()) == 1
    # What is filed is not left at OpenAI.
    assert not [one for one in simulator.requests() if one["method"] == "DELETE" and one["status"] != 200]
    assert sum(one["method"] == "DELETE" for one in simulator.requests()) == 2


async def test_models_and_deadlines_have_batches_of_their_own(yard: Yard, simulator: Running) -> None:
    bodies = [(HELLO, "24h"), ({**HELLO, "model": "best"}, "24h"), (HELLO, "1h")]
    accepted = [await yard.send(body, deadline=deadline) for body, deadline in bodies]
    await yard.work(yard.over(*(one["id"] for one in accepted)))
    assert len(simulator.batches()) == 3


async def test_a_refusal_of_openai_is_the_answer_and_costs_nothing(yard: Yard, simulator: Running) -> None:
    simulator.fault("status", match={"method": "BATCH"}, status=400, code="invalid_prompt", message="no")
    bad, good = await yard.send(HELLO), await yard.send({**HELLO, "input": "hi"})
    await yard.work(yard.over(bad["id"], good["id"]))
    failed, done = await yard.look(bad["id"]), await yard.look(good["id"])
    assert (failed["status"], failed["response"]["status_code"]) == ("failed", 400)
    assert failed["response"]["body"]["error"]["code"] == "invalid_prompt"
    assert done["status"] == "completed"
    usage = read_usage(done["response"]["body"]["usage"])
    assert usage is not None
    price = yard.services.models.current.resolve("fast", "text").tariff.price(BATCH)
    assert await yard.spent_pico() == price.cost_pico(usage)


@pytest.mark.parametrize(
    ("changes", "deadline", "param"),
    [
        ({"stream": True}, "24h", "stream"),
        ({"stop": "END"}, "24h", "stop"),
        ({}, "25h", "x-prodkit-deadline"),
        ({}, "59s", "x-prodkit-deadline"),
        ({}, "tomorrow", "x-prodkit-deadline"),
        ({}, "", "x-prodkit-deadline"),
        ({"max_output_tokens": 10**6}, "24h", "max_output_tokens"),
    ],
)
async def test_what_cannot_wait_is_refused_and_the_message_names_the_field(
    yard: Yard, changes: dict[str, Any], deadline: str, param: str
) -> None:
    with pytest.raises(ApiError) as refused:
        await yard.send({**HELLO, **changes}, deadline=deadline)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in refused.value.message
    assert await yard.messages() == []


async def test_an_endpoint_without_a_price_for_waiting_is_refused(yard: Yard) -> None:
    with pytest.raises(ApiError, match="is not for /v1/moderations"):
        await yard.send({"input": "hi"}, "/v1/moderations")


async def test_a_budget_without_room_refuses_what_may_wait_too(yard: Yard) -> None:
    await yard.services.ledger.set_limit(f"tenant:{yard.identity.tenant}", MONTHLY, 1, by="test", why="no room")
    with pytest.raises(ApiError) as refused:
        await yard.send(HELLO)
    assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")
    assert await yard.messages() == []


async def test_another_tenant_finds_nothing(yard: Yard) -> None:
    accepted = await yard.send(HELLO)
    for ask in (yard.pipeline.desk.look, yard.pipeline.desk.cancel):
        with pytest.raises(ApiError) as refused:
            await ask("someone-else", accepted["id"])
        assert refused.value.status == 404
    assert (await yard.look(accepted["id"]))["status"] == "queued"
    for name in ("def_", "../x", "def_" + "0" * 32):
        with pytest.raises(ApiError):
            await yard.look(name)


async def test_the_same_key_of_a_caller_makes_one_request(yard: Yard, simulator: Running) -> None:
    first = await yard.send(HELLO, idempotency_key="order 7")
    again = await yard.send(HELLO, idempotency_key="order 7")
    assert again["id"] == first["id"]
    with pytest.raises(ApiError) as refused:
        await yard.send({**HELLO, "input": "other"}, idempotency_key="order 7")
    assert (refused.value.status, refused.value.code) == (400, "idempotency_key_reused")
    await yard.work(yard.over(first["id"]))
    [batch] = simulator.batches()
    assert batch["request_counts"]["total"] == 1


async def test_a_request_cancelled_in_time_is_never_asked_and_a_second_delete_forgets_it(
    yard: Yard, simulator: Running
) -> None:
    gone, kept = await yard.send(HELLO), await yard.send({**HELLO, "input": "keep"})
    tenant = yard.identity.tenant
    assert json.loads(await yard.pipeline.desk.cancel(tenant, gone["id"]))["status"] == "cancelled"
    await yard.work(yard.over(kept["id"]))
    [batch] = simulator.batches()
    assert batch["request_counts"]["total"] == 1
    assert (await yard.look(gone["id"]))["status"] == "cancelled"
    assert json.loads(await yard.pipeline.desk.cancel(tenant, gone["id"]))["deleted"] is True
    with pytest.raises(ApiError):
        await yard.look(gone["id"])


async def test_a_request_cancelled_while_openai_works_is_paid_for_and_not_kept(yard: Yard, simulator: Running) -> None:
    accepted, other = await yard.send(HELLO), await yard.send({**HELLO, "input": "other"})
    running = Runner(yard.services)
    await yard.work(lambda: _has_batch(simulator), running)
    await yard.pipeline.desk.cancel(yard.identity.tenant, accepted["id"])
    await yard.work(yard.over(other["id"]))
    found = await yard.look(accepted["id"])
    assert (found["status"], found["response"]) == ("cancelled", None)
    billed = simulator.batches()[0]["billed"]
    price = yard.services.models.current.resolve("fast", "text").tariff.price(BATCH)
    total = price.input * billed["input_tokens"] + price.output * billed["output_tokens"]
    assert await yard.spent_pico() == total
    store = store_of(yard.services)
    assert await store.read(f"deferred/{yard.identity.tenant}/{accepted['id']}/answer.json") is None


@LONG_DAY
async def test_a_batch_that_nobody_waits_for_is_cancelled(yard: Yard, simulator: Running) -> None:
    simulator.fault("expire", match={"path": "/v1/batches"}, after=0)
    accepted = await yard.send(HELLO)
    await yard.work(lambda: _has_batch(simulator))
    await yard.pipeline.desk.cancel(yard.identity.tenant, accepted["id"])

    async def cancelled() -> bool:
        return bool(simulator.batches()[0]["status"] == "cancelled")

    await yard.work(cancelled)
    assert await yard.spent_pico() == 0


async def _has_batch(simulator: Running) -> bool:
    return bool(simulator.batches())


async def test_a_batch_that_expires_is_tried_again_and_what_was_done_is_not(yard: Yard, simulator: Running) -> None:
    simulator.fault("expire", match={"path": "/v1/batches"}, after=1)
    accepted = [await yard.send({**HELLO, "input": f"part {at}"}) for at in range(3)]
    await yard.work(yard.over(*(one["id"] for one in accepted)))
    assert {(await yard.look(one["id"]))["status"] for one in accepted} == {"completed"}
    first, second = simulator.batches()
    assert (first["status"], first["request_counts"]) == ("expired", {"total": 3, "completed": 1, "failed": 2})
    assert second["request_counts"]["total"] == 2


async def test_a_request_that_no_batch_comes_to_expires_and_says_so(yard: Yard, simulator: Running) -> None:
    simulator.fault("expire", match={"path": "/v1/batches"}, after=0, times=None)
    done = await finished(yard)
    assert (done["status"], done["error"]["code"], done["response"]) == ("expired", "batch_expired", None)
    assert len(simulator.batches()) == 3
    assert await yard.spent_pico() == 0


async def test_a_full_queue_of_openai_is_waited_for(
    yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.deferred.results.QUEUE_FULL_SECONDS", 0.0)
    simulator.fault("fail", match={"path": "/v1/batches"}, code="token_limit_exceeded", message="queue full")
    assert (await finished(yard))["status"] == "completed"


async def test_a_batch_that_fails_fails_its_requests_with_openais_reason(yard: Yard, simulator: Running) -> None:
    simulator.fault("fail", match={"path": "/v1/batches"}, code="invalid_something", message="It is not possible.")
    done = await finished(yard)
    assert (done["status"], done["error"]) == (
        "failed",
        {"code": "invalid_something", "message": "It is not possible."},
    )


async def test_a_line_at_fault_fails_alone(yard: Yard, simulator: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = await yard.send(HELLO), await yard.send({**HELLO, "input": "good"})
    whole = Runner._line

    async def spoiled(self: Runner, job: Any, tenant: str, name: str) -> bytes:
        line = await whole(self, job, tenant, name)
        return line.replace(b'"POST"', b'"PUT"') if name == bad["id"] else line

    monkeypatch.setattr(Runner, "_line", spoiled)
    await yard.work(yard.over(bad["id"], good["id"]))
    assert (await yard.look(bad["id"]))["error"]["code"] == "invalid_method"
    assert (await yard.look(good["id"]))["status"] == "completed"


@LONG_DAY
async def test_at_its_deadline_a_request_ends_and_so_does_its_batch(yard: Yard, simulator: Running) -> None:
    simulator.fault("expire", match={"path": "/v1/batches"}, after=0)
    accepted = await yard.send(HELLO)
    await yard.work(lambda: _has_batch(simulator))
    await _move_due(yard, accepted["id"], time.time() - 1)
    await yard.work(yard.over(accepted["id"]))
    assert (await yard.look(accepted["id"]))["status"] == "expired"
    assert simulator.batches()[0]["status"] == "cancelled"


async def test_whoever_looks_after_the_deadline_is_told_even_when_no_worker_is_left(yard: Yard) -> None:
    accepted = await yard.send(HELLO)
    await _move_due(yard, accepted["id"], time.time() - 901)
    assert (await yard.look(accepted["id"]))["status"] == "expired"
    await yard.work(lambda: nothing_left(yard))
    assert (await yard.look(accepted["id"]))["status"] == "expired"


async def _move_due(yard: Yard, name: str, due_at: float) -> None:
    """Let time pass for a request and its job."""
    store = store_of(yard.services)
    pk = f"TENANT#{yard.identity.tenant}"
    await store.update(pk, f"DEFER#{name}", "attribute_exists(pk)", {}, {"due_at": int(due_at)})
    item = await store.get(pk, f"DEFER#{name}")
    assert item is not None
    if item["job"]:
        await store.update(f"DEFERJOB#{item['job']}", "JOB", "attribute_exists(pk)", {}, {"due_at": int(due_at)})
