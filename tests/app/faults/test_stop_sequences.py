"""A stop sequence ends an answer of the Responses API: for the caller, at OpenAI and on the bill."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import Response

from app.observability.metrics import STOP_CUTS
from app.pipeline import Pipeline
from app.upstream.pool import Upstream
from tests.app.conftest import wait_until
from tests.app.faults.conftest import CHAT, RESPONSES, Gateway
from tests.app.raw_upstream import OK_STREAM, Connection, raw_upstream
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

LONG = "Write 40 words."
"""The simulator's answer begins "the answer depends on what is asked"."""
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def response_of(outcome: Any, stream: bool) -> dict[str, Any]:
    found: dict[str, Any] = outcome.events[-1]["response"] if stream else outcome.document
    return found


def text_of(response: dict[str, Any]) -> str:
    [message] = [item for item in response["output"] if item["type"] == "message"]
    return str(message["content"][0]["text"])


@both
async def test_the_callers_stop_cuts_the_answer(gateway: Gateway, stream: bool) -> None:
    outcome = await gateway.ask(input=LONG, stream=stream, stop=["on what", "asked"])
    response = response_of(outcome, stream)
    assert response["status"] == "completed"
    assert text_of(response) == "the answer depends "
    if stream:
        assert [event["sequence_number"] for event in outcome.events] == list(range(len(outcome.events)))
        pieces = [event["delta"] for event in outcome.events if event["type"] == "response.output_text.delta"]
        assert "".join(pieces) == "the answer depends "
    Response.model_validate(response)
    assert gateway.counted[STOP_CUTS] == 1
    [call] = await gateway.calls()
    assert call["body"]["stream"] is True
    assert "stop" not in call["body"]
    usage = response["usage"]
    assert await gateway.spent_pico() >= gateway.cost_pico("fast", 0, usage["output_tokens"]) > 0


@both
async def test_the_model_documents_stop_cuts_the_answer(gateway: Gateway, stream: bool) -> None:
    gateway.change_model(stop=("what",))
    response = response_of(await gateway.ask(input=LONG, stream=stream), stream)
    assert text_of(response) == "the answer depends on "


@both
async def test_an_answer_without_a_match_is_openais_own_to_the_last_token(gateway: Gateway, stream: bool) -> None:
    outcome = await gateway.ask(input=LONG, stream=stream, stop="never said")
    response = response_of(outcome, stream)
    assert len(text_of(response).split()) == 40
    assert "estimated" not in response["usage"]
    usage = response["usage"]
    [call] = await gateway.calls()
    assert (usage["input_tokens"], usage["output_tokens"]) == (call["input_tokens"], call["output_tokens"])
    assert gateway.counted[STOP_CUTS] == 0


async def test_a_cut_answer_is_kept_for_the_same_stop_alone(gateway: Gateway) -> None:
    first = await gateway.ask(input=LONG, stop="what")
    await gateway.pipeline.close()
    again = await gateway.ask(input=LONG, stop="what")
    assert again.headers["x-prodkit-cache"] == "hit"
    assert again.document == first.document
    assert (await gateway.ask(input=LONG)).headers["x-prodkit-cache"] == "miss"


BEGUN = (
    b'data: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n'
    b'data: {"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"type":"message"}}\n\n'
)


def delta(number: int, text: str) -> bytes:
    event = {"type": "response.output_text.delta", "sequence_number": number, "delta": text, "output_index": 0}
    return b"data: " + json.dumps(event | {"item_id": "msg_1", "content_index": 0}).encode() + b"\n\n"


@both
async def test_the_cut_closes_openai_and_bills_what_arrived_by_a_marked_estimate(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    async def endless(connection: Connection) -> None:
        await connection.say(OK_STREAM + BEGUN)
        await connection.say(delta(1, "x" * 40) + delta(2, "ST"))
        await connection.say(delta(3, "OP and more"))
        await connection.gone.wait()

    async with (
        raw_upstream(endless) as server,
        Upstream(server.base_url, connections=1, tcp_keep_alive_seconds=45) as pool,
    ):
        raw = replace(gateway, pipeline=Pipeline(gateway.services, pool))
        outcome = await raw.ask(input="y" * 400, stream=stream, stop="STOP", reasoning={"effort": "none"})
        await asyncio.wait_for(server.seen[0].gone.wait(), PATIENCE_SECONDS)
        spent = await raw.spent_pico()
    response = response_of(outcome, stream)
    assert text_of(response) == "x" * 40
    # 53 bytes arrived, the stop sequence and what came with it among them.
    expected = {"input_tokens": 100, "output_tokens": 14, "total_tokens": 114, "estimated": True}
    assert {name: response["usage"][name] for name in expected} == expected
    assert spent == gateway.cost_pico("fast", 100, 14)
    [line] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event":"request"' in line]
    assert (line["status"], line["output_tokens"], line["usage_estimated"]) == (200, 14, True)
    assert "error_code" not in line


async def test_a_whole_answer_that_breaks_on_its_way_to_the_cut_is_an_error_and_paid_for(gateway: Gateway) -> None:
    gateway.upstream.fault("cut", after=9)
    outcome = await gateway.ask(input=LONG, stop="never said")
    assert (outcome.status, outcome.code) == (502, "upstream_incomplete")
    assert len(await gateway.calls()) == 1
    assert await gateway.spent_pico() > 0


async def test_a_whole_answer_to_be_cut_keeps_the_deadline(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.services, "settings", replace(gateway.services.settings, request_timeout_seconds=1))
    gateway.upstream.fault("stall", after=9)
    outcome = await gateway.ask(input=LONG, stop="never said")
    assert (outcome.status, outcome.code) == (504, "upstream_timeout")
    assert [call["outcome"] for call in await gateway.calls()] == ["disconnected"]
    assert await gateway.spent_pico() > 0


async def test_chat_completions_leave_the_cut_to_openai(gateway: Gateway) -> None:
    await gateway.ask(CHAT, stop=["what"])
    assert (await gateway.calls())[-1]["body"]["stop"] == ["what"]


async def test_leaving_an_answer_that_is_to_be_cut_ends_it_at_openai(gateway: Gateway) -> None:
    gateway.upstream.fault("stall", after=9)
    asking = asyncio.create_task(gateway.ask(RESPONSES, stop="never said"))
    await asyncio.to_thread(wait_until, lambda: bool(gateway.upstream.requests(0)))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [call["outcome"] for call in await gateway.calls()] == ["disconnected"]
    assert await gateway.spent_pico() > 0
