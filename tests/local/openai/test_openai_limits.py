"""Rate limits: real buckets on a clock that the test moves."""

import math

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.openai.clock import ManualClock
from local.openai.errors import ApiError
from local.openai.limits import Limits, go_duration
from local.openai.models import MODELS
from local.openai.server import Running

MODEL = "gpt-6-luna"


def ask(client: openai.OpenAI, model: str = MODEL, tokens: int = 16) -> dict[str, str]:
    """The headers of one small request."""
    raw = client.responses.with_raw_response.create(model=model, input="Hi", max_output_tokens=tokens)
    return dict(raw.headers)


@pytest.mark.process
def test_headers_count_down_and_say_when_the_buckets_are_full(
    client: openai.OpenAI, simulator: Running, clock: ManualClock
) -> None:
    simulator.limit(rpm=60, tpm=6_000)
    first, second = ask(client, tokens=100), ask(client, tokens=100)
    assert first["x-ratelimit-limit-requests"] == "60"
    assert first["x-ratelimit-limit-tokens"] == "6000"
    assert (first["x-ratelimit-remaining-requests"], second["x-ratelimit-remaining-requests"]) == ("59", "58")
    assert (first["x-ratelimit-remaining-tokens"], second["x-ratelimit-remaining-tokens"]) == ("5900", "5800")
    assert second["x-ratelimit-reset-requests"] == "2s"
    assert second["x-ratelimit-reset-tokens"] == "2s"
    clock.advance(60)
    assert ask(client)["x-ratelimit-remaining-requests"] == "59"


@pytest.mark.process
def test_a_request_over_the_limit_is_told_how_long_to_wait_and_the_wait_is_enough(
    client: openai.OpenAI, simulator: Running, clock: ManualClock
) -> None:
    simulator.limit(rpm=2)
    ask(client)
    ask(client)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    error = caught.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert error.response.headers["retry-after"] == "30"
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    wait = int(error.response.headers["retry-after-ms"]) / 1000
    clock.advance(wait - 1)
    with pytest.raises(openai.RateLimitError):
        ask(client)
    clock.advance(1)
    ask(client)


@pytest.mark.process
def test_tokens_are_charged_as_the_larger_of_the_cap_and_the_estimate(
    client: openai.OpenAI, simulator: Running
) -> None:
    simulator.limit(tpm=10_000)
    assert ask(client, tokens=3_000)["x-ratelimit-remaining-tokens"] == "7000"
    raw = client.responses.with_raw_response.create(model=MODEL, input="x" * 8_000, max_output_tokens=16)
    assert 4_900 < int(raw.headers["x-ratelimit-remaining-tokens"]) < 5_000
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, tokens=6_000)
    assert caught.value.type == "tokens"
    assert "TPM" in caught.value.message


@pytest.mark.process
def test_every_choice_of_a_completion_is_charged_its_cap(client: openai.OpenAI, simulator: Running) -> None:
    simulator.limit(tpm=10_000)
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=3, max_completion_tokens=1_000
    )
    assert raw.headers["x-ratelimit-remaining-tokens"] == "7000"


@pytest.mark.process
def test_a_request_larger_than_the_limit_is_told_so_without_a_time_to_wait(
    client: openai.OpenAI, simulator: Running
) -> None:
    simulator.limit(tpm=1_000)
    with pytest.raises(openai.RateLimitError, match="too large") as caught:
        ask(client, tokens=1_001)
    assert "retry-after" not in caught.value.response.headers


@pytest.mark.process
def test_limits_are_per_model_and_key_and_a_failed_request_counts(
    client: openai.OpenAI, simulator: Running, key: str
) -> None:
    simulator.limit(rpm=1, model=MODEL, key=key)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="Hi", max_output_tokens=1)
    with pytest.raises(openai.RateLimitError):
        ask(client)
    ask(client, model="gpt-6.1-terra")
    ask(client.with_options(api_key=key + "x"))


@pytest.mark.process
def test_a_project_cap_binds_across_models(client: openai.OpenAI, simulator: Running) -> None:
    simulator.limit(project_tpm=1_000)
    headers = ask(client, tokens=600)
    assert headers["x-ratelimit-limit-project-tokens"] == "1000"
    assert headers["x-ratelimit-remaining-project-tokens"] == "400"
    with pytest.raises(openai.RateLimitError):
        ask(client, model="gpt-6.1-terra", tokens=600)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (90.5, "1m30.5s"), (360, "6m0s"), (3600, "1h0m0s")],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@given(
    limit=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), min_size=1, max_size=50),
)
def test_no_more_is_admitted_than_the_burst_and_the_refill(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = ManualClock()
    limits = Limits(clock, rpm=1_000_000, tpm=limit)
    start, admitted = clock.now(), 0
    for seconds, tokens in steps:
        clock.advance(seconds)
        try:
            limits.take_tokens("key", MODELS[MODEL], tokens)
        except ApiError as error:
            if "retry-after-ms" in error.headers:
                clock.advance(int(error.headers["retry-after-ms"]) / 1000)
                limits.take_tokens("key", MODELS[MODEL], tokens)
                admitted += tokens
            else:
                assert tokens > limit
        else:
            admitted += tokens
    assert admitted <= math.ceil(limit + (clock.now() - start) * limit / 60 + 0.001)
