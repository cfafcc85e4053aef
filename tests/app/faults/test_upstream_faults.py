"""What a caller gets, what OpenAI is asked and what it costs, fault by fault."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from app.observability.metrics import (
    BREAKER_OPEN,
    FALLBACKS,
    FIRST_TOKEN_TIMEOUTS,
    INVALID_ANSWERS,
    KEY_BREAKER_OPEN,
    RETRIES,
    UPSTREAM_ERRORS,
)
from app.pipeline import Pipeline
from app.pipeline.call_upstream import BACKOFF_SECONDS
from app.resilience.breaker import FEWEST_OUTCOMES
from app.resilience.budget import RESERVE, SHARE
from app.secret import OpenAIKey
from app.serving import health
from app.upstream.pool import Upstream
from tests.app.conftest import CloudParts, free_port, wait_until
from tests.app.faults.conftest import CHAT, FAST, OTHER, RESPONSES, Gateway
from tests.app.replica import made_up_openai_key

pytestmark = pytest.mark.process

REFUSED_SECONDS = 0.05
"""By an open breaker, at most."""

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
anywhere = pytest.mark.parametrize("path", [RESPONSES, CHAT])


def shown(path: str) -> dict[str, Any]:
    """Fields of a question whose answer hides no reasoning."""
    return {"reasoning": {"effort": "none"}} if path == RESPONSES else {"reasoning_effort": "none"}


@both
@anywhere
async def test_a_short_wait_that_openai_asks_for_is_kept(gateway: Gateway, path: str, stream: bool) -> None:
    gateway.upstream.fault("status", code="rate_limit_exceeded", retry_after=2)
    assert (await gateway.ask(path, stream=stream)).status == 200
    assert gateway.time.slept == [2 + BACKOFF_SECONDS / 2]
    assert [call["status"] for call in await gateway.calls()] == [429, 200]
    assert gateway.counted[RETRIES] == 1
    assert await gateway.spent_pico() == await gateway.answered_pico() > 0, "one answer is paid for"


@pytest.mark.parametrize(
    ("headers", "waits"),
    [({"retry-after-ms": "1500"}, [1.5]), ({"retry-after-ms": "90000"}, []), ({"retry-after-ms": "soon"}, [])],
)
async def test_a_wait_in_milliseconds_is_kept_like_one_in_seconds(
    gateway: Gateway, headers: dict[str, str], waits: list[float]
) -> None:
    gateway.upstream.fault("status", code="rate_limit_exceeded", headers={"retry-after": "1"} | headers)
    assert (await gateway.ask()).status == (200 if waits else 429)
    assert gateway.time.slept == [wait + BACKOFF_SECONDS / 2 for wait in waits]


@both
async def test_attempts_are_bounded(gateway: Gateway, stream: bool) -> None:
    gateway.upstream.fault("status", code="rate_limit_exceeded", retry_after=2, times=None)
    outcome = await gateway.ask(stream=stream)
    assert (outcome.status, outcome.code) == (429, "rate_limit_exceeded")
    assert outcome.headers["retry-after"] == "2"
    assert len(await gateway.calls()) == 2
    assert await gateway.spent_pico() == 0


@both
async def test_a_wait_beyond_the_deadline_is_passed_on_at_once(gateway: Gateway, stream: bool) -> None:
    gateway.upstream.fault("status", code="rate_limit_exceeded", retry_after=120, times=None)
    outcome = await gateway.ask(stream=stream)
    assert (outcome.status, outcome.headers["retry-after"]) == (429, "120")
    assert gateway.time.slept == []
    assert len(await gateway.calls()) == 1
    assert await gateway.spent_pico() == 0


@both
@pytest.mark.parametrize("code", ["insufficient_quota", "credit_balance_exhausted", "project_spend_limit_exceeded"])
async def test_a_used_up_quota_stops_every_model_until_one_probe_is_paid(
    gateway: Gateway, code: str, stream: bool
) -> None:
    gateway.upstream.fault("status", code=code, times=None)
    for model in ("fast", "balanced", "best"):
        outcome = await gateway.ask(model=model, stream=stream)
        assert (outcome.status, outcome.code) == (503, "upstream_quota_exhausted")
        assert outcome.headers["x-should-retry"] == "false"
    assert len(await gateway.calls()) == 1
    assert gateway.counted[KEY_BREAKER_OPEN] == 1
    gateway.time.now += 60
    await gateway.ask(stream=stream)
    assert (len(await gateway.calls()), gateway.counted[KEY_BREAKER_OPEN]) == (2, 2)
    gateway.upstream.admin("DELETE", "/faults")
    gateway.time.now += 120
    assert await gateway.spent_pico() == 0
    assert [(await gateway.ask(stream=stream)).status for _ in range(2)] == [200, 200]
    assert await gateway.spent_pico() == await gateway.answered_pico()


@both
async def test_when_half_of_the_calls_fail_the_extra_load_stays_in_the_budget(gateway: Gateway, stream: bool) -> None:
    gateway.upstream.fault("status", code="server_error", times=None, every=2)
    requests = 60
    statuses = [(await gateway.ask(stream=stream)).status for _ in range(requests)]
    assert set(statuses) <= {200, 500}
    retries = len(await gateway.calls()) - requests
    assert 0 < retries == gateway.counted[RETRIES] <= RESERVE + SHARE * requests
    assert all(0 <= pause <= BACKOFF_SECONDS for pause in gateway.time.slept)
    assert await gateway.spent_pico() == await gateway.answered_pico()


async def test_fallbacks_are_of_the_same_budget_unless_nothing_was_asked_before(gateway: Gateway) -> None:
    gateway.change_model(fallback=(OTHER,))
    gateway.upstream.fault("status", code="server_error", times=None, every=2, match={"model": FAST})
    requests = 60
    statuses = [(await gateway.ask()).status for _ in range(requests)]
    assert set(statuses) <= {200, 500}
    extra = len(await gateway.calls()) - requests
    assert 0 < extra <= RESERVE + SHARE * requests
    gateway.upstream.admin("DELETE", "/faults")
    gateway.upstream.fault("status", code="server_error", times=None, match={"model": FAST})
    while not gateway.counted[BREAKER_OPEN]:
        await gateway.ask()
    assert gateway.pipeline._openai.resilience.budget.saved < 1, "spent"
    made = len(await gateway.calls())
    answered = [await gateway.ask() for _ in range(20)]
    assert {outcome.headers["x-prodkit-model"] for outcome in answered} == {OTHER}
    assert len(await gateway.calls()) == made + 20


@both
async def test_an_outage_is_met_by_a_breaker_a_probe_and_a_quiet_return(gateway: Gateway, stream: bool) -> None:
    gateway.upstream.fault("status", code="server_is_overloaded", times=None)
    while not gateway.counted[BREAKER_OPEN]:
        assert (await gateway.ask(stream=stream)).status == 503
    made = len(await gateway.calls())
    assert made <= FEWEST_OUTCOMES
    began = time.perf_counter()
    for _ in range(20):
        outcome = await gateway.ask(stream=stream)
        assert (outcome.status, outcome.code) == (503, "upstream_unavailable")
        assert int(outcome.headers["retry-after"]) >= 1
    assert time.perf_counter() - began < 20 * REFUSED_SECONDS
    assert len(await gateway.calls()) == made
    assert await gateway.spent_pico() == 0
    assert (await gateway.ask(model="balanced", stream=stream)).code == "server_is_overloaded", "its own breaker"
    gateway.upstream.admin("DELETE", "/faults")
    gateway.time.now += 10
    gateway.upstream.fault("delay", seconds=0.2)
    outcomes = await asyncio.gather(*(gateway.ask(stream=stream) for _ in range(10)))
    assert sorted(outcome.status for outcome in outcomes) == [200] + [503] * 9, "one probe, no herd"
    assert (await gateway.ask(stream=stream)).status == 200
    assert gateway.counted[BREAKER_OPEN] == 1


@both
@anywhere
async def test_another_model_answers_and_is_paid_for_and_named(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], path: str, stream: bool
) -> None:
    gateway.change_model(fallback=(OTHER,))
    gateway.upstream.fault("status", code="server_is_overloaded", times=None, match={"model": FAST})
    outcome = await gateway.ask(path, stream=stream)
    assert (outcome.status, outcome.headers["x-prodkit-model"]) == (200, OTHER)
    calls = await gateway.calls()
    assert [call["model"] for call in calls] == [FAST, FAST, OTHER]
    price = gateway.services.models.current.resolve(OTHER, "text").price
    assert await gateway.spent_pico() >= calls[-1]["output_tokens"] * price.output
    assert gateway.counted[FALLBACKS] == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event":"request"' in line]
    [line] = lines
    assert (line["model"], line["fallback_from"], line["requested_model"]) == (OTHER, FAST, "fast")


async def test_when_no_model_answers_the_first_ones_failure_is_told(gateway: Gateway) -> None:
    gateway.change_model(fallback=(OTHER, "gpt-6-sol"))
    gateway.upstream.fault("status", code="server_error", times=None)
    gateway.upstream.fault("status", code="server_is_overloaded", times=None, match={"model": OTHER})
    outcome = await gateway.ask()
    assert (outcome.status, outcome.code) == (500, "server_error")
    assert [call["model"] for call in await gateway.calls()] == [FAST, FAST, OTHER, "gpt-6-sol"]
    assert gateway.counted[FALLBACKS] == 0


async def test_a_fallback_is_sooner_than_a_wait_and_its_answer_is_not_kept_for_the_model_it_stood_in_for(
    gateway: Gateway,
) -> None:
    gateway.change_model(fallback=(OTHER,))
    gateway.upstream.fault("status", code="rate_limit_exceeded", retry_after=5, match={"model": FAST})
    assert (await gateway.ask(input="the same")).headers["x-prodkit-model"] == OTHER
    assert gateway.time.slept == []
    await gateway.pipeline.close()
    again = await gateway.ask(input="the same")
    assert (again.headers["x-prodkit-cache"], again.headers["x-prodkit-model"]) == ("miss", FAST)


@pytest.mark.parametrize("code", ["invalid_api_key", "slow_down", "insufficient_quota"])
async def test_what_another_model_cannot_help_is_not_tried_there(gateway: Gateway, code: str) -> None:
    gateway.change_model(fallback=(OTHER,))
    gateway.upstream.fault("status", code=code, times=None, headers={"x-should-retry": "false"})
    await gateway.ask()
    assert [call["model"] for call in await gateway.calls()] == [FAST]


@anywhere
async def test_a_first_token_that_does_not_come_is_504_and_its_input_is_paid(gateway: Gateway, path: str) -> None:
    gateway.change_model(first_token_timeout_seconds=0.2)
    gateway.upstream.fault("slow_first_token", seconds=30)
    outcome = await gateway.ask(path, stream=True)
    assert (outcome.status, outcome.code) == (504, "upstream_timeout")
    assert [call["outcome"] for call in await gateway.calls()] == ["disconnected"]
    assert gateway.counted[FIRST_TOKEN_TIMEOUTS] == 1
    assert await gateway.spent_pico() > 0


@anywhere
@pytest.mark.parametrize("kind", ["slow_first_token", "drip"])
async def test_another_model_answers_when_the_first_token_does_not_come(gateway: Gateway, path: str, kind: str) -> None:
    gateway.change_model(first_token_timeout_seconds=0.2, fallback=(OTHER,))
    gateway.upstream.fault(kind, seconds=30, interval=0.05, match={"model": FAST})
    outcome = await gateway.ask(path, stream=True)
    assert (outcome.status, outcome.headers["x-prodkit-model"]) == (200, OTHER)
    assert outcome.events
    assert b": keep-alive" not in outcome.body


async def test_a_silence_longer_than_a_heartbeat_is_handed_over_and_still_bounded(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.services, "settings", replace(gateway.services.settings, heartbeat_seconds=1))
    monkeypatch.setattr(gateway.pipeline._openai, "hold_seconds", 1)
    gateway.change_model(first_token_timeout_seconds=2.5, fallback=(OTHER,))
    gateway.upstream.fault("slow_first_token", seconds=30)
    outcome = await gateway.ask(stream=True)
    assert outcome.status == 200
    assert b": keep-alive" in outcome.body
    assert outcome.events[-1]["code"] == "upstream_timeout"
    assert gateway.counted[FIRST_TOKEN_TIMEOUTS] == 1


async def test_an_error_before_the_first_token_is_tried_once_more(gateway: Gateway) -> None:
    gateway.change_model(first_token_timeout_seconds=5)
    gateway.upstream.fault("error_event", code="server_error", after=1)
    outcome = await gateway.ask(stream=True)
    assert outcome.events[-1]["type"] == "response.completed"
    assert len(await gateway.calls()) == 2


async def test_a_whole_answer_that_does_not_come_is_504_at_the_deadline(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.services, "settings", replace(gateway.services.settings, request_timeout_seconds=1))
    gateway.upstream.fault("delay", seconds=30)
    outcome = await gateway.ask()
    assert (outcome.status, outcome.code) == (504, "upstream_timeout")
    assert len(await gateway.calls()) == 1
    assert await gateway.spent_pico() > 0


@anywhere
async def test_comments_do_not_hold_off_the_deadline(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(gateway.services, "settings", replace(gateway.services.settings, max_stream_seconds=1))
    gateway.upstream.fault("drip", seconds=30, interval=0.05)
    outcome = await gateway.ask(path, stream=True)
    last = outcome.events[-1]
    assert (last.get("error") or last)["code"] == "upstream_timeout"
    assert [call["outcome"] for call in await gateway.calls()] == ["disconnected"]


@anywhere
@pytest.mark.parametrize("clean", [False, True], ids=["cut", "ended"])
async def test_a_stream_that_is_cut_is_told_paid_for_and_never_repeated(
    gateway: Gateway, path: str, clean: bool
) -> None:
    gateway.change_model(fallback=(OTHER,))
    gateway.upstream.fault("cut", after=14, clean=clean)
    outcome = await gateway.ask(path, stream=True, **shown(path))
    last = outcome.events[-1]
    assert (last.get("error") or last)["code"] == "upstream_incomplete"
    [call] = await gateway.calls()
    arrived = gateway.cost_pico("fast", call["input_tokens"], call["sent_tokens"])
    assert 0.5 * arrived < await gateway.spent_pico() < 2 * arrived, "by its bytes; the most would be many times that"
    assert gateway.counted[UPSTREAM_ERRORS] == 1


async def test_a_whole_answer_that_is_cut_is_paid_for_and_never_repeated(gateway: Gateway) -> None:
    gateway.upstream.fault("cut")
    assert (await gateway.ask()).code == "upstream_incomplete"
    assert len(await gateway.calls()) == 1
    assert await gateway.spent_pico() > 0


@both
@pytest.mark.parametrize("kind", ["html", "malformed"])
async def test_a_success_that_is_no_answer_is_refused_counted_and_not_kept(
    gateway: Gateway, kind: str, stream: bool
) -> None:
    gateway.change_model(first_token_timeout_seconds=5, fallback=(OTHER,))
    gateway.upstream.fault(kind)
    outcome = await gateway.ask(input="once", stream=stream)
    assert (outcome.status, outcome.code) == (502, "upstream_invalid_response")
    assert len(await gateway.calls()) == 1
    assert gateway.counted[INVALID_ANSWERS] == 1
    assert await gateway.spent_pico() > 0, "OpenAI may have worked on it, so it is paid for by estimate"
    again = await gateway.ask(input="once", stream=stream)
    assert (again.status, again.headers["x-prodkit-cache"]) == (200, "miss")


@both
async def test_a_caller_who_leaves_ends_the_call_to_openai(gateway: Gateway, stream: bool) -> None:
    gateway.change_model(first_token_timeout_seconds=30)
    gateway.upstream.fault("slow_first_token", seconds=30)
    asking = asyncio.create_task(gateway.ask(stream=stream))
    await asyncio.to_thread(wait_until, lambda: bool(gateway.upstream.requests(0)))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [call["outcome"] for call in await gateway.calls()] == ["disconnected"]
    assert await gateway.spent_pico() > 0
    assert (await gateway.ask(stream=stream)).status == 200, "leaving says nothing about the model"


async def test_a_rotated_key_is_read_once_for_all_who_were_refused(
    gateway: Gateway, cloud: CloudParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await gateway.ask()).status == 200
    new = made_up_openai_key()
    secret = gateway.services.settings.openai_secret_arn
    cloud.client("secretsmanager").put_secret_value(SecretId=secret, SecretString=new)
    gateway.upstream.accept_keys(new)
    monkeypatch.setattr("app.secret.REFRESH_PAUSE_SECONDS", 0.0)
    reads: list[Any] = []
    read = OpenAIKey._read

    async def counting(self: OpenAIKey) -> None:
        reads.append(self)
        await read(self)

    monkeypatch.setattr(OpenAIKey, "_read", counting)
    outcomes = await asyncio.gather(*(gateway.ask(stream=bool(number % 2)) for number in range(12)))
    assert [outcome.status for outcome in outcomes] == [200] * 12
    assert len(reads) == 1
    assert await gateway.spent_pico() == await gateway.answered_pico()


@both
async def test_openai_being_out_of_reach_fails_fast_and_says_nothing_about_this_replica(
    gateway: Gateway, stream: bool
) -> None:
    async with Upstream(f"http://127.0.0.1:{free_port()}/v1", connections=4, tcp_keep_alive_seconds=45) as nowhere:
        pipeline = Pipeline(gateway.services, nowhere, gateway.pipeline._openai.resilience)
        away = replace(gateway, pipeline=pipeline)
        while not gateway.counted[BREAKER_OPEN]:
            assert (await away.ask(stream=stream)).code == "upstream_unreachable"
        assert (await away.ask(stream=stream)).code == "upstream_unavailable"
        assert await away.spent_pico() == 0
    ready, _ = await health.ready(gateway.services)
    assert ready


@both
async def test_a_name_that_does_not_resolve_is_openai_out_of_reach(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Upstream("http://openai.invalid/v1", connections=4, tcp_keep_alive_seconds=45) as nowhere:
        away = replace(gateway, pipeline=Pipeline(gateway.services, nowhere, gateway.pipeline._openai.resilience))
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        outcome = await away.ask(stream=stream)
        monkeypatch.undo()
        assert (outcome.status, outcome.code) == (502, "upstream_unreachable")
        assert gateway.counted[RETRIES] == 1
        assert await away.spent_pico() == 0
