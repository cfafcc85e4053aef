"""Where the time of a request went: the parts are the whole, and each names the one who took it."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pipeline.phases import Phases
from app.pipeline.record import processing_ms
from local.openai.server import Running
from tests.app.replica import Replica
from tests.patience import PATIENCE_SECONDS

PARTS = ("receive_ms", "overhead_ms", "failed_attempts_ms", "prompt_ms", "generation_ms", "whole_answer_ms")
MILLISECONDS = st.integers(0, 5_000).map(lambda milliseconds: milliseconds / 1000)


@given(
    st.tuples(*[MILLISECONDS] * 6), st.booleans(), st.booleans(), st.sampled_from(["never", "once", "twice"]), st.data()
)
def test_the_phases_of_any_request_are_its_whole_latency(
    steps: tuple[float, ...], stream: bool, succeeded: bool, asked: str, data: st.DataObject
) -> None:
    receive, ours, first_attempt, prompt, generation, tail = steps
    phases = Phases(started=100.0, receive_seconds=receive)
    now = 100.0 + receive + ours
    if asked != "never":
        phases.asked_at = phases.began_at = now
        if asked == "twice":
            now += first_attempt
            phases.began_at = now
        now += prompt
        if data.draw(st.booleans(), "a first token came"):
            phases.first_token_at = now
        now += generation
        phases.succeeded = succeeded
        if not stream:
            phases.answered_at = now
    ended = now + tail
    split = phases.split(ended, stream=stream)
    parts = [split.overhead, split.failed, split.prompt, split.generation, split.whole]
    assert sum(part for part in parts if part is not None) + receive == pytest.approx(ended - 100.0)
    assert all(part is None or part >= -1e-9 for part in parts)


def test_an_attempt_that_failed_is_nobodys_overhead_and_no_answer() -> None:
    phases = Phases(started=0.0, asked_at=1.0, began_at=3.0, answered_at=6.0)
    split = phases.split(7.0, stream=False)
    assert (split.overhead, split.failed, split.whole) == (2.0, 5.0, None)
    phases.succeeded = True
    split = phases.split(7.0, stream=False)
    assert (split.overhead, split.failed, split.whole) == (2.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [("417", 417.0), ("", None), ("-3", None), ("1e9", None), ("nan", None), ("9" * 10, None)],
)
def test_openais_own_time_is_taken_when_it_is_a_number(value: str, milliseconds: float | None) -> None:
    assert processing_ms([("x-request-id", "7"), ("openai-processing-ms", value)]) == milliseconds
    assert processing_ms([]) is None


def timed(
    gateway: Replica, key: str, path: str = "/v1/responses", *, pause: float = 0.0, **fields: Any
) -> dict[str, Any]:
    """The log line of a request whose caller pauses inside its body."""
    content = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"input": "Hi"}
    body = json.dumps({"model": "fast", **content, **fields}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_SECONDS)
    connection.putrequest("POST", path)
    for name, value in (("authorization", f"Bearer {key}"), ("content-type", "application/json")):
        connection.putheader(name, value)
    connection.putheader("content-length", str(len(body)))
    connection.putheader("cache-control", "no-store")
    connection.endheaders(body[:10])
    time.sleep(pause)
    connection.send(body[10:])
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return gateway.line_of(answer.headers["x-request-id"])


def parts(line: dict[str, Any]) -> set[str]:
    """The phases of a line, which are its latency but for what rounding to a tenth of a millisecond loses."""
    present = {name for name in PARTS if name in line}
    assert sum(line[name] for name in present) == pytest.approx(line["latency_ms"], abs=0.05 * len(PARTS) + 0.05)
    return present


@pytest.mark.process
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_a_stream_tells_caller_service_prompt_and_generation_apart(
    gateway: Replica, upstream: Running, key: str, path: str
) -> None:
    upstream.fault("slow_first_token", seconds=0.4)
    line = timed(gateway, key, path, pause=0.3, stream=True)
    assert parts(line) == {"receive_ms", "overhead_ms", "prompt_ms", "generation_ms"}
    assert line["receive_ms"] >= 100, "the part of the pause after the headers were read"
    assert line["prompt_ms"] >= 390
    assert line["first_token_ms"] >= line["receive_ms"] + line["prompt_ms"]


@pytest.mark.process
def test_an_unstreamed_answer_is_one_phase_beside_openais_own_clock(
    gateway: Replica, upstream: Running, key: str
) -> None:
    upstream.fault("delay", seconds=0.3)
    line = timed(gateway, key)
    assert parts(line) == {"receive_ms", "overhead_ms", "whole_answer_ms"}
    assert line["whole_answer_ms"] >= 290
    assert line["openai_processing_ms"] >= 0
    assert "first_token_ms" not in line


@pytest.mark.process
def test_an_answer_cut_at_a_stop_sequence_has_both_phases_though_it_is_not_streamed(gateway: Replica, key: str) -> None:
    assert parts(timed(gateway, key, stop="xyzzy")) == {"receive_ms", "overhead_ms", "prompt_ms", "generation_ms"}


@pytest.mark.process
def test_an_attempt_that_failed_has_its_own_time(gateway: Replica, upstream: Running, key: str) -> None:
    upstream.fault("status", code="rate_limit_exceeded", retry_after=1)
    line = timed(gateway, key)
    assert parts(line) == {"receive_ms", "overhead_ms", "failed_attempts_ms", "whole_answer_ms"}
    assert line["failed_attempts_ms"] >= 990
    upstream.fault("status", code="server_error", times=2)
    failed = timed(gateway, key)
    assert parts(failed) == {"receive_ms", "overhead_ms", "failed_attempts_ms"}


@pytest.mark.process
def test_what_is_no_call_to_a_model_has_no_phases(gateway: Replica, key: str) -> None:
    status, headers, _ = gateway.send("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
    assert status == 200
    assert set(gateway.line_of(headers["x-request-id"])) & {"overhead_ms", "prompt_ms", "whole_answer_ms"} == set()
