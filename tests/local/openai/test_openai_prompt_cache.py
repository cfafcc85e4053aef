"""The prompt cache, and the time a model takes."""

from typing import Any, Literal

import openai
import pytest

from local.openai.clock import ManualClock
from local.openai.prompt_cache import MIN_TOKENS, STEP_TOKENS
from local.openai.server import running

pytestmark = pytest.mark.process
LUNA = "gpt-6-luna"
LONG = "A rule that never changes is repeated in every prompt of this app. " * 100


def tokens(client: openai.OpenAI, **changes: Any) -> tuple[int, int, int]:
    """(input, read from the cache, written to it) of one request."""
    asked: Any = {"model": LUNA, "instructions": LONG, "input": "Hi", **changes}
    usage = client.responses.create(**asked).usage
    assert usage is not None
    details = usage.input_tokens_details
    return usage.input_tokens, details.cached_tokens, details.cache_write_tokens


def test_a_long_prefix_is_written_once_and_then_read(client: openai.OpenAI) -> None:
    whole, read, written = tokens(client)
    assert read == 0
    assert MIN_TOKENS <= written <= whole
    assert written % STEP_TOKENS == 0
    _, read_again, written_again = tokens(client, input="Another question?")
    assert read_again >= written - STEP_TOKENS
    assert read_again + written_again == written


def test_a_short_prompt_is_not_cached(client: openai.OpenAI) -> None:
    for _ in range(2):
        assert tokens(client, instructions="Be brief.")[1:] == (0, 0)


def test_another_model_key_or_cache_key_reads_nothing(client: openai.OpenAI, key: str) -> None:
    tokens(client, prompt_cache_key="a")
    assert tokens(client, prompt_cache_key="a")[1] > 0
    assert tokens(client, prompt_cache_key="b")[1] == 0
    assert tokens(client, model="gpt-6.1-terra", prompt_cache_key="a")[1] == 0
    assert tokens(client.with_options(api_key=key + "x"), prompt_cache_key="a")[1] == 0


def test_a_prefix_is_forgotten_after_its_time(client: openai.OpenAI, clock: ManualClock) -> None:
    tokens(client)
    clock.advance(30 * 60 - 1)
    assert tokens(client)[1] > 0
    clock.advance(30 * 60 + 1)
    assert tokens(client)[1] == 0


def test_models_before_gpt_5_6_read_but_do_not_bill_writes(client: openai.OpenAI) -> None:
    assert tokens(client, model="gpt-5.4")[1:] == (0, 0)
    _, read, written = tokens(client, model="gpt-5.4")
    assert read >= MIN_TOKENS
    assert written == 0


def test_chat_reports_the_cache_in_its_own_words(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": LONG}, {"role": "user", "content": "Hi"}]
    first, second = (client.chat.completions.create(model=LUNA, messages=messages).usage for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.prompt_tokens_details is not None
    assert second.prompt_tokens_details is not None
    assert first.prompt_tokens_details.cache_write_tokens == second.prompt_tokens_details.cached_tokens
    assert second.prompt_tokens_details.cache_write_tokens == 0


def times(
    key: str, seed: int, model: str = LUNA, speed: float = 1.0, effort: Literal["low", "high"] = "low"
) -> tuple[float, float]:
    """(first token, whole stream) in milliseconds on the simulator's own clock."""
    with (
        running(speed=speed, seed=seed, clock=ManualClock()) as simulator,
        openai.OpenAI(api_key=key, base_url=simulator.base_url) as client,
    ):
        with client.responses.create(
            model=model, input="Write 100 words.", reasoning={"effort": effort}, stream=True
        ) as stream:
            assert list(stream)[-1].type == "response.completed"
        (entry,) = simulator.requests()
        return entry["first_token_ms"], entry["duration_ms"]


def test_time_follows_the_model_the_seed_and_the_speed(key: str) -> None:
    luna = times(key, seed=1)
    assert luna == times(key, seed=1)
    assert luna != times(key, seed=2)
    assert times(key, seed=1, speed=2.0) == pytest.approx([2 * part for part in luna])
    assert times(key, seed=1, speed=0.0) == (0, 0)
    assert times(key, seed=1, effort="high")[0] > luna[0] + 1_000
    first, whole = times(key, seed=1, model="gpt-6-astra")
    assert first > luna[0]
    assert whole - first > luna[1] - luna[0]
