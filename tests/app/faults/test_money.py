"""Every attempt at OpenAI is one entry, and no budget is passed: through the whole pipeline, against the simulator."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import secrets
from typing import Any

import orjson
import pytest

from app.errors import ApiError
from app.ledger import MONTHLY, Entry
from app.ledger.entries import MAX_ENTRIES, Outcome
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES as RESPONSES_ENDPOINT
from app.pipeline.estimate import text_tokens
from app.pipeline.messages import Call
from app.pipeline.pay import SLICE_TOKENS, Payment, feature_of, shows_every_token
from app.pipeline.record import Record
from app.prices import Usage
from app.upstream.http_client import Connection
from app.upstream.pool import Upstream
from app.upstream.sse import Splitter, read
from tests.app.conftest import wait_until
from tests.app.faults.conftest import CHAT, RESPONSES, Gateway
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
PLAIN: dict[str, Any] = {"reasoning": {"effort": "none"}}
LONG = "Write 1500 words"


async def entries(gateway: Gateway) -> list[Entry]:
    """The gateway's entries, oldest first."""
    await gateway.pipeline.close()
    book = gateway.services.ledger.book
    written = list(book._page.entries if book._page else ())
    return [*written, *(entry for entry, _ in book._entries), *copy.deepcopy(book)._counted(MAX_ENTRIES)]


async def limit(gateway: Gateway, pico: int) -> None:
    ledger = gateway.services.ledger
    await ledger.set_limit(f"tenant:{gateway.identity.tenant}", MONTHLY, pico, by="ada", why="a test")


def billed_pico(gateway: Gateway, calls: list[dict[str, Any]]) -> int:
    """What the simulator bills for calls of one model."""
    return sum(
        gateway.cost_pico("fast", call["input_tokens"], min(call["output_tokens"], call["sent_tokens"]))
        for call in calls
    )


async def test_a_stream_that_meets_the_line_ends_in_order_and_openai_is_closed(gateway: Gateway) -> None:
    budget = 400_000_000
    await limit(gateway, budget)
    gateway.upstream.fault("stall", after=220)  # a model writes no faster than it is read
    outcome = await gateway.ask(input=LONG, stream=True, max_output_tokens=4_000, **PLAIN)
    last = outcome.events[-1]
    assert outcome.status == 200
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "budget"}
    assert last["response"]["id"] == outcome.events[0]["response"]["id"]
    assert last["response"]["usage"]["estimated"]
    numbers = [event["sequence_number"] for event in outcome.events]
    assert numbers == list(range(len(numbers)))
    [call] = await gateway.calls()
    assert call["outcome"] == "disconnected"
    billed, charged = billed_pico(gateway, [call]), await gateway.spent_pico()
    assert max(billed, charged) <= budget
    assert 0.5 * billed < charged <= 1.05 * billed  # what was seen: on a busy machine OpenAI is ahead of it
    [entry] = [each for each in await entries(gateway) if each.outcome == Outcome.CUT]
    assert "estimated" in entry.flags


async def test_a_chat_stream_that_meets_the_line_says_so_and_no_client_raises(gateway: Gateway) -> None:
    await limit(gateway, 400_000_000)
    gateway.upstream.fault("stall", after=220)
    messages = [{"role": "user", "content": LONG}]
    outcome = await gateway.ask(CHAT, messages=messages, stream=True, max_tokens=4_000, reasoning_effort="none")
    assert outcome.body.endswith(b"data: [DONE]\n\n")
    assert outcome.events[-1]["choices"][0]["finish_reason"] == "length"
    assert outcome.events[-1]["incomplete_details"] == {"reason": "budget"}
    assert not any("error" in event for event in outcome.events)


async def test_a_stream_with_money_enough_is_extended_to_its_end(gateway: Gateway) -> None:
    outcome = await gateway.ask(input=LONG, stream=True, max_output_tokens=4_000, **PLAIN)
    assert outcome.events[-1]["type"] == "response.completed"
    usage = outcome.events[-1]["response"]["usage"]
    assert usage["output_tokens"] > 4 * SLICE_TOKENS
    assert await gateway.spent_pico() == gateway.cost_pico("fast", usage["input_tokens"], usage["output_tokens"])


@pytest.mark.parametrize(
    ("fields", "hidden"), [(PLAIN, False), ({}, True)], ids=["all of it is seen", "some of it is hidden"]
)
async def test_a_stream_that_its_caller_leaves_is_charged_what_arrived_or_the_most_and_says_that_it_is_an_estimate(
    gateway: Gateway, fields: dict[str, Any], hidden: bool
) -> None:
    gateway.upstream.fault("stall", after=120)  # then nothing more is on its way
    body: Any = (await gateway.reply(input=LONG, stream=True, max_output_tokens=500, **fields)).body
    text, splitter = "", Splitter()
    async for piece in body:
        events = [orjson.loads(read(raw).data) for raw in splitter.feed(piece) if read(raw).data]
        text += "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        if len(text) > 200:
            break
    await body.aclose()
    [entry] = await entries(gateway)
    assert (entry.outcome, entry.flags, entry.input > 0) == (Outcome.CANCELLED, "estimated", True)
    if hidden:
        assert entry.output == 500
    else:
        assert text_tokens(len(text)) <= entry.output < 500, "no less than the caller got"
    assert entry.pico == gateway.cost_pico("fast", entry.input, entry.output) == await gateway.spent_pico()


async def test_an_answer_that_a_stop_sequence_cuts_is_an_estimate_and_one_that_ends_by_itself_is_not(
    gateway: Gateway,
) -> None:
    for stop in ("what", "never said"):
        await gateway.ask(input=LONG, stop=stop, max_output_tokens=3_000, **PLAIN)
    cut, whole = await entries(gateway)
    assert (cut.outcome, cut.flags) == (Outcome.CUT, "estimated")
    assert 0 < cut.output < whole.output // 2
    assert (whole.outcome, whole.flags) == (Outcome.OK, "")
    assert whole.output > 1_000


async def test_a_call_whose_worst_case_has_no_room_is_refused_before_anything_is_sent(gateway: Gateway) -> None:
    await limit(gateway, 100_000_000)
    outcome = await gateway.ask(max_output_tokens=8_000)
    assert (outcome.status, outcome.code) == (429, "insufficient_quota")
    assert await gateway.calls() == []
    [entry] = await entries(gateway)
    assert (entry.outcome, entry.pico) == (Outcome.REFUSED, 0)
    assert (await gateway.ask(max_output_tokens=20)).status == 200


async def test_every_attempt_is_one_entry(gateway: Gateway) -> None:
    gateway.upstream.fault("status", status=500)
    outcome = await gateway.ask()
    assert outcome.status == 200
    failed, served = await entries(gateway)
    assert (failed.outcome, failed.pico, served.outcome) == (Outcome.FAILED, 0, Outcome.OK)
    assert failed.id != served.id
    assert (served.asked, served.model, served.tier) == ("fast", "gpt-6-luna", "default")
    assert served.upstream == (await gateway.calls())[1]["id"]
    assert served.reasoning > 0
    assert served.version


async def test_answers_of_the_cache_are_counted_and_cost_nothing(gateway: Gateway) -> None:
    question = secrets.token_hex(8)
    for _ in range(4):
        await gateway.ask(input=question)
        await gateway.pipeline.close()
    first, kept = await entries(gateway)
    assert (first.outcome, first.times) == (Outcome.OK, 1)
    assert (kept.outcome, kept.times, kept.pico, kept.model) == (Outcome.CACHED, 3, 0, first.model)
    assert (kept.tenant, kept.key, kept.feature, kept.asked) == first[2:6]


async def test_a_caller_that_leaves_a_whole_answer_pays_the_most_it_may_have_written(gateway: Gateway) -> None:
    gateway.upstream.fault("delay", seconds=30)
    task = asyncio.create_task(gateway.ask(input="x" * 400, max_output_tokens=100))
    await asyncio.to_thread(wait_until, lambda: bool(gateway.upstream.requests(0)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [entry] = await entries(gateway)
    assert (entry.outcome, entry.output, entry.flags) == (Outcome.CANCELLED, 100, "estimated")


async def test_a_caller_that_leaves_before_anything_was_sent_pays_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = asyncio.Event()

    async def no_answer(_pool: Upstream) -> Connection:
        connecting.set()
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    monkeypatch.setattr(Upstream, "_open", no_answer)
    task = asyncio.create_task(gateway.ask(input="x" * 400, max_output_tokens=100))
    await asyncio.wait_for(connecting.wait(), PATIENCE_SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [entry] = await entries(gateway)
    assert (entry.outcome, entry.output, entry.pico, entry.flags) == (Outcome.CANCELLED, 0, 0, "")


async def test_nothing_stays_reserved_whatever_happens(gateway: Gateway) -> None:
    for fault in ("html", "cut", "malformed", "disconnect"):
        for stream in (False, True):
            gateway.upstream.fault(fault)
            await gateway.ask(stream=stream)
    await gateway.pipeline.close()
    ledger = gateway.services.ledger
    assert ledger.book.holds == {}
    assert all(lease.committed == lease.total for lease in ledger.book.leases)


async def test_when_the_ledger_is_away_a_new_tenant_is_refused_and_not_served_for_free(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise TimeoutError

    gateway.identity = dataclasses.replace(gateway.identity, tenant="somebody-new")
    with monkeypatch.context() as patch:
        patch.setattr(gateway.services.ledger.table, "_call", away)
        outcome = await gateway.ask()
    assert (outcome.status, outcome.code) == (503, "ledger_unavailable")
    assert await gateway.calls() == []


async def paid(gateway: Gateway, usage: Usage | None, **said: Any) -> Entry:
    """The entry of an attempt for which OpenAI gave this usage."""
    document = {"model": "fast", "input": "x" * 400, "max_output_tokens": 100}
    call = Call(RESPONSES, orjson.dumps(document), gateway.identity, f"req_{secrets.token_hex(4)}")
    payment = Payment(gateway.services.ledger, call, Record(call.request_id, RESPONSES))
    await payment.reserve(make_plan(RESPONSES_ENDPOINT, document, gateway.services.models.current))
    payment.settle(usage, Outcome.OK, **said)
    [entry] = [each for each in await entries(gateway) if each.id.startswith(call.request_id)]
    return entry


@pytest.mark.parametrize(
    ("usage", "flag", "least", "most"),
    [
        (None, "estimated", 60_000_000, 60_000_000),
        (Usage(-5, 0, 0, 10), "negative", 5_000_000, 5_000_000),
        (Usage(10, 50, 0, 10), "negative", 11_000_000, 12_000_000),
        (Usage(10**15, 0, 0, 1), "absurd", 1, 200_000_000),
        (Usage(1_000, 0, 0, 5_000), "overrun", 2_600_000_000, 2_600_000_000),
        (Usage(100, 0, 0, 10), "", 15_000_000, 15_000_000),
    ],
    ids=["missing", "negative", "contradictory", "absurd", "above the reservation", "as it should be"],
)
async def test_a_usage_that_makes_no_sense_is_recorded_priced_and_flagged(
    gateway: Gateway, usage: Usage | None, flag: str, least: int, most: int
) -> None:
    entry = await paid(gateway, usage)
    assert entry.flags == flag
    assert least <= entry.pico <= most
    if usage is not None:
        assert (entry.input, entry.output) == (usage.input_tokens, usage.output_tokens)


async def test_what_was_served_in_another_tier_is_paid_as_it_was_served(gateway: Gateway) -> None:
    usage = Usage(100, 0, 0, 10)
    assert (await paid(gateway, usage, tier="priority")).pico == 30_000_000
    dearest = await paid(gateway, usage, tier="ultrafast", served="gpt-6-luna-2026")
    assert (dearest.pico, dearest.flags, dearest.model) == (30_000_000, "unpriced", "gpt-6-luna-2026")


async def test_a_price_list_that_has_ended_refuses_with_the_fix(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tariff = gateway.services.models.current.resolve("fast", "text").tariff
    monkeypatch.setattr(tariff, "_until", 0.0)
    monkeypatch.setattr(tariff, "_known", {})
    with pytest.raises(ApiError, match=r"app/prices\.yaml") as caught:
        await gateway.reply()
    assert caught.value.code == "price_missing"
    assert await gateway.calls() == []


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"stream": True, **PLAIN}, True),
        ({"stream": True}, False),
        ({**PLAIN}, False),
        ({"stream": True, **PLAIN, "tools": [{"type": "function", "name": "f", "parameters": {}}]}, False),
    ],
    ids=["plain stream", "reasoning", "whole", "tools"],
)
def test_only_a_stream_without_hidden_tokens_is_reserved_by_slices(
    gateway: Gateway, fields: dict[str, Any], shown: bool
) -> None:
    plan = make_plan(RESPONSES_ENDPOINT, {"model": "fast", "input": "x", **fields}, gateway.services.models.current)
    assert shows_every_token(plan) is shown


@pytest.mark.parametrize(("said", "feature"), [("search-2", "search-2"), ("", RESPONSES), ("a b", RESPONSES)])
async def test_a_feature_is_what_the_caller_says_within_bounds(gateway: Gateway, said: str, feature: str) -> None:
    call = Call(RESPONSES, b"", gateway.identity, "req_1", {"x-prodkit-feature": said})
    assert feature_of(call) == feature
    assert feature_of(dataclasses.replace(call, headers={"x-prodkit-feature": "x" * 41})) == RESPONSES
