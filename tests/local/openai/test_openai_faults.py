"""Scripted faults, as the official client meets them, and what the journal keeps."""

import contextlib
import json
from typing import Any

import httpx2
import openai
import pytest

from local.openai.clock import ManualClock
from local.openai.faults import KINDS
from local.openai.server import Running

pytestmark = pytest.mark.process
MODEL = "gpt-6-luna"
HELLO: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
BILLING = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "project_spend_limit_exceeded",
    "organization_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)


def ask(client: openai.OpenAI) -> openai.types.responses.Response:
    return client.responses.create(model=MODEL, input="Hi")


def kinds(client: openai.OpenAI) -> list[str]:
    """The event types of one stream."""
    with client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
        return [event.type for event in stream]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("server_error", 500, "server_error"),
        ("server_is_overloaded", 503, "service_unavailable_error"),
        ("slow_down", 429, "rate_limit_error"),
        *((code, 429, "insufficient_quota") for code in BILLING),
        ("invalid_api_key", 401, "invalid_request_error"),
    ],
)
def test_a_code_brings_its_status_and_type(
    client: openai.OpenAI, simulator: Running, code: str, status: int, kind: str
) -> None:
    simulator.fault("status", code=code)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, kind)
    assert caught.value.request_id == simulator.requests()[-1]["id"]
    assert ask(client).status == "completed"


def test_a_status_fault_says_when_to_come_back(client: openai.OpenAI, simulator: Running) -> None:
    simulator.fault("status", status=503, retry_after=2.5, headers={"x-should-retry": "false"})
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2.5", "2500")
    assert headers["x-should-retry"] == "false"
    assert "x-ratelimit-remaining-requests" in headers


def test_the_official_client_retries_until_the_fault_is_used_up(client: openai.OpenAI, simulator: Running) -> None:
    simulator.fault("status", code="server_error", times=2, retry_after=0.001)
    assert ask(client.with_options(max_retries=2)).status == "completed"
    assert [entry["status"] for entry in simulator.requests()] == [500, 500, 200]


def test_a_fault_strikes_only_what_it_matches_as_often_as_it_says(
    client: openai.OpenAI, simulator: Running, key: str
) -> None:
    match = {"path": "/v1/responses", "model": MODEL, "key": key}
    simulator.fault("status", match=match, times=2, every=2)
    client.responses.create(model="gpt-6.1-terra", input="Hi")
    client.chat.completions.create(model=MODEL, messages=HELLO)
    ask(client.with_options(api_key=key + "x"))
    outcomes = []
    for _ in range(6):
        try:
            outcomes.append(ask(client).status)
        except openai.InternalServerError:
            outcomes.append("failed")
    assert outcomes == ["completed", "failed", "completed", "failed", "completed", "completed"]


def test_the_admin_path_lists_clears_and_checks_faults_and_shows_no_key(simulator: Running, key: str) -> None:
    simulator.fault("delay", match={"key": key}, times=None)
    listed = simulator.admin("GET", "/faults")
    assert listed["faults"][0]["kind"] == "delay"
    assert key not in json.dumps(listed)
    assert simulator.admin("DELETE", "/faults") == {"faults": []}
    for wrong in ({"kind": "smoke"}, {"kind": "delay", "second": 1}, {"kind": "delay", "match": {"color": "red"}}, 3):
        with pytest.raises(ValueError, match=r"unknown|object"):
            simulator.admin("POST", "/faults", wrong)
    for limit, said in (({"rps": 1}, "unknown field"), ({"rpm": 0}, "rpm=0"), ({"tpm": "9"}, "tpm='9'")):
        with pytest.raises(ValueError, match=said):
            simulator.admin("POST", "/limits", limit)


def test_a_delay_and_a_slow_first_token_take_their_seconds(
    client: openai.OpenAI, simulator: Running, clock: ManualClock
) -> None:
    for kind in ("delay", "slow_first_token"):
        simulator.fault(kind, seconds=30)
        before = clock.now()
        ask(client)
        assert clock.now() - before == 30
    simulator.fault("slow_first_token", seconds=30)
    assert kinds(client)[-1] == "response.completed"
    entry = simulator.requests()[-1]
    assert entry["first_byte_ms"] < 30_000 <= entry["first_token_ms"]


def test_a_drip_sends_comments_that_no_client_sees_as_events(
    client: openai.OpenAI, simulator: Running, clock: ManualClock, key: str
) -> None:
    usual = kinds(client)
    simulator.fault("drip", seconds=30, interval=10, times=2)
    assert kinds(client) == usual
    reply = httpx2.post(
        f"{simulator.base_url}/responses",
        headers={"authorization": f"Bearer {key}"},
        json={"model": MODEL, "input": "Hi", "stream": True},
    )
    assert reply.text.count(": keep-alive") == 3


def test_a_stalled_stream_ends_when_the_caller_leaves_and_the_journal_knows(
    client: openai.OpenAI, simulator: Running
) -> None:
    simulator.fault("stall", after=9)
    with client.responses.create(model=MODEL, input="Write 90 words.", stream=True) as stream:
        seen = [next(stream) for _ in range(9)]
    entry = simulator.requests()[-1]
    assert entry["outcome"] == "disconnected"
    assert entry["events"] == len(seen)
    assert 0 < entry["sent_tokens"] < entry["output_tokens"]


def test_a_caller_who_waits_for_a_whole_answer_and_leaves_is_noticed(client: openai.OpenAI, simulator: Running) -> None:
    simulator.fault("stall")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).responses.create(model=MODEL, input="Hi")
    assert simulator.requests()[-1]["outcome"] == "disconnected"


def test_a_cut_stream_is_a_connection_error_and_a_clean_cut_only_ends_too_early(
    client: openai.OpenAI, simulator: Running
) -> None:
    simulator.fault("cut", after=6)
    with client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
        assert [next(stream).sequence_number for _ in range(6)] == list(range(6))
        with pytest.raises(openai.APIConnectionError):
            next(stream)
    simulator.fault("cut", after=6, clean=True)
    assert len(kinds(client)) == 6
    assert [entry["outcome"] for entry in simulator.requests()] == ["broken", "broken"]


def test_a_cut_after_the_last_event_still_happens(client: openai.OpenAI, simulator: Running) -> None:
    simulator.fault("cut", after=10_000)
    with pytest.raises(openai.APIConnectionError):
        kinds(client)


def test_a_cut_or_dropped_whole_answer_is_a_connection_error(client: openai.OpenAI, simulator: Running) -> None:
    for kind in ("cut", "disconnect"):
        simulator.fault(kind)
        with pytest.raises(openai.APIConnectionError):
            ask(client)
        assert simulator.requests()[-1]["outcome"] == "broken"


def test_malformed_json_and_html_arrive_with_status_200(client: openai.OpenAI, simulator: Running, key: str) -> None:
    simulator.fault("malformed", times=2)
    for call in (ask, kinds):
        with pytest.raises(json.JSONDecodeError):
            call(client)
    simulator.fault("html")
    reply = httpx2.get(f"{simulator.base_url}/models", headers={"authorization": f"Bearer {key}"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html"
    assert "x-request-id" in reply.headers


def test_an_error_inside_a_stream_has_the_shape_of_its_api(client: openai.OpenAI, simulator: Running) -> None:
    simulator.fault("error_event", after=5, code="server_error", times=2)
    with client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "error"
    assert last.code == "server_error"
    with (
        pytest.raises(openai.APIError) as caught,
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as chunks,
    ):
        list(chunks)
    assert caught.value.code == "server_error"


@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_harms_the_next_request(client: openai.OpenAI, simulator: Running, kind: str) -> None:
    simulator.fault(kind, seconds=0)
    with contextlib.suppress(openai.OpenAIError, json.JSONDecodeError):
        ask(client.with_options(timeout=0.05))
    assert ask(client).status == "completed"
    assert simulator.requests()[0]["fault"] == kind


def test_the_journal_keeps_what_was_asked_and_hides_the_key(
    client: openai.OpenAI, simulator: Running, key: str
) -> None:
    client.responses.create(model=MODEL, input="Hi", store=False, extra_headers={"X-Mine": "yes"})
    journal = simulator.requests()
    (entry,) = journal
    assert entry["body"] == {"model": MODEL, "input": "Hi", "store": False}
    assert entry["headers"]["x-mine"] == "yes"
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/v1/responses", 200)
    assert (entry["outcome"], entry["model"], entry["stream"]) == ("answered", MODEL, False)
    assert entry["duration_ms"] >= entry["first_byte_ms"] >= 0
    assert key not in json.dumps(journal)
    assert simulator.admin("GET", "/requests?last=0")["requests"] == []
    client.responses.create(model=MODEL, input="x" * 100_000)
    assert simulator.requests()[-1]["body"] is None
