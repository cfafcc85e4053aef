"""What the organization is billed, as the official client reads it with an admin key."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from app.models import Models, default_document
from app.prices import PICO_PER_USD, Usage
from local.openai.server import Running

pytestmark = pytest.mark.process
MODEL = "gpt-6-luna"


@pytest.fixture
def admin(simulator: Running) -> Iterator[openai.OpenAI]:
    """The official client with an admin key alone."""
    key = f"sk-admin-{secrets.token_urlsafe(24)}"
    with openai.OpenAI(
        admin_api_key=key, base_url=simulator.base_url, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def start() -> int:
    return int(time.time()) - 3_600


def test_usage_is_the_sum_of_what_the_answers_said(client: openai.OpenAI, admin: openai.OpenAI) -> None:
    told = [client.responses.create(model=MODEL, input=f"Tell me of {name}").usage for name in ("one", "two")]
    assert all(told)
    page = admin.admin.organization.usage.completions(start_time=start(), bucket_width="1d", group_by=["model"])
    assert page.object == "page"
    [result] = [result for bucket in page.data for result in bucket.results]
    shown = result.to_dict()
    assert shown["model"] == MODEL
    assert shown["input_tokens"] == sum(usage.input_tokens for usage in told if usage)
    assert shown["output_tokens"] == sum(usage.output_tokens for usage in told if usage)
    assert shown["num_model_requests"] == 2
    assert shown["project_id"] is None


def test_costs_are_the_usage_at_its_price_by_line_item(client: openai.OpenAI, admin: openai.OpenAI) -> None:
    usage = client.responses.create(model=MODEL, input="Tell me of costs").usage
    assert usage is not None
    page = admin.admin.organization.usage.costs(start_time=start(), group_by=["line_item"])
    results: list[Any] = [result.to_dict() for bucket in page.data for result in bucket.results]
    assert {result["line_item"] for result in results} == {f"{MODEL}, input_tokens", f"{MODEL}, output_tokens"}
    price = Models(default_document()).resolve(MODEL, "text").price
    paid = price.cost_pico(Usage(usage.input_tokens, 0, 0, usage.output_tokens))
    assert sum(result["amount"]["value"] for result in results) == pytest.approx(paid / PICO_PER_USD)
    assert {result["amount"]["currency"] for result in results} == {"usd"}


def test_a_request_that_was_refused_is_not_billed(
    client: openai.OpenAI, admin: openai.OpenAI, simulator: Running
) -> None:
    simulator.fault("status", status=500)
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model=MODEL, input="refused")
    page = admin.admin.organization.usage.completions(start_time=start())
    assert [result for bucket in page.data for result in bucket.results] == []


def test_a_stream_that_was_left_is_billed_for_what_was_written(
    client: openai.OpenAI, admin: openai.OpenAI, simulator: Running
) -> None:
    simulator.fault("stall", after=9)
    stream = client.responses.create(model=MODEL, input="Write 500 words", stream=True, reasoning={"effort": "none"})
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    assert simulator.requests()[0]["outcome"] == "disconnected"
    page = admin.admin.organization.usage.completions(start_time=start())
    found: list[Any] = [result.to_dict() for bucket in page.data for result in bucket.results]
    [result] = found
    assert 0 < result["output_tokens"] < 20


def test_only_an_admin_key_reads_the_bill(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        client.get("/organization/costs", cast_to=object, options={"params": {"start_time": 0}})


def test_a_question_that_makes_no_sense_is_refused(admin: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="bucket_width"):
        admin.admin.organization.usage.completions(start_time=0, bucket_width="2d")  # type: ignore[arg-type]
