"""Files and batches through the official client."""

import json
from typing import Any

import openai
import pytest
from openai.types import Batch

from local.openai.clock import ManualClock
from local.openai.server import Running

pytestmark = pytest.mark.process
DAY = 86_400.0


def line(custom_id: str, text: str = "hello", url: str = "/v1/responses", **fields: Any) -> dict[str, Any]:
    body = {"model": "gpt-6-luna", "input": text, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload(client: openai.OpenAI, *lines: Any, purpose: Any = "batch") -> str:
    content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    return client.files.create(file=("in.jsonl", content.encode()), purpose=purpose).id


def started(client: openai.OpenAI, *lines: Any, endpoint: Any = "/v1/responses", **options: Any) -> Batch:
    file = upload(client, *lines)
    return client.batches.create(input_file_id=file, endpoint=endpoint, completion_window="24h", **options)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    return {row["custom_id"]: row for row in map(json.loads, client.files.content(file_id).text.splitlines())}


def test_a_file_is_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    content = b'{"a": "\xc3\xa9\r\n"}\n\n--x\n'
    made = client.files.create(
        file=("notes.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (made.filename, made.bytes, made.purpose) == ("notes.jsonl", len(content), "batch")
    assert made.expires_at == pytest.approx(made.created_at + 7200, abs=2)
    assert client.files.content(made.id).read() == content
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.retrieve(made.id) == made
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)


@pytest.mark.parametrize(
    "options",
    [
        {"purpose": "cake"},
        {"purpose": "batch", "expires_after": {"anchor": "created_at", "seconds": 60}},
        {"purpose": "batch", "file": ("empty.jsonl", b"")},
    ],
)
def test_a_bad_upload_is_refused(client: openai.OpenAI, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.files.create(**({"file": ("a.jsonl", b"{}")} | options))


def test_a_batch_goes_through_its_states_and_answers_as_a_direct_call(
    client: openai.OpenAI, clock: ManualClock, simulator: Running
) -> None:
    batch = started(client, line("a", "Say 5 words", max_output_tokens=50), line("b"), metadata={"job": "1"})
    assert (batch.status, batch.metadata) == ("validating", {"job": "1"})
    seen = [batch.status]
    for _ in range(200):
        clock.advance(1)
        batch = client.batches.retrieve(batch.id)
        seen += [batch.status] if batch.status != seen[-1] else []
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed, batch.request_counts.total) == (2, 0, 2)
    assert batch.error_file_id is None
    rows = results(client, batch.output_file_id)
    direct = client.responses.create(model="gpt-6-luna", input="Say 5 words", max_output_tokens=50)
    body = rows["a"]["response"]["body"]
    assert body["output"][-1]["content"][0]["text"] == direct.output_text
    assert rows["a"]["response"]["status_code"] == 200
    assert rows["a"]["error"] is None
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows.values())
    [billed] = simulator.batches()
    assert billed["percent"] == 50
    assert billed["billed"]["total_tokens"] == batch.usage.total_tokens


def test_a_batch_takes_nothing_from_the_limits_of_direct_calls(
    client: openai.OpenAI, clock: ManualClock, simulator: Running
) -> None:
    simulator.limit(rpm=3, tpm=40)
    batch = started(client, *(line(str(at)) for at in range(10)))
    clock.advance(300)
    found = client.batches.retrieve(batch.id)
    assert found.request_counts is not None
    assert found.request_counts.completed == 10


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]}),
        ("/v1/moderations", {"input": "hi"}),
    ],
)
def test_other_endpoints_have_batches_too(
    client: openai.OpenAI, clock: ManualClock, endpoint: str, body: dict[str, Any]
) -> None:
    row = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}
    batch = started(client, row, endpoint=endpoint)
    clock.advance(300)
    batch = client.batches.retrieve(batch.id)
    assert results(client, batch.output_file_id)["one"]["response"]["status_code"] == 200


def test_a_refused_line_is_in_the_error_file_and_the_others_are_answered(
    client: openai.OpenAI, clock: ManualClock
) -> None:
    batch = started(client, line("good"), line("bad", max_output_tokens=1))
    clock.advance(300)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert set(results(client, batch.output_file_id)) == {"good"}
    refused = results(client, batch.error_file_id)["bad"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["param"]) == (400, "max_output_tokens")


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["no json"], "invalid_json_line"),
        ([line("a"), line("a")], "duplicate_custom_id"),
        ([line("a"), line("b", model="gpt-6-sol")], "mismatched_model"),
        ([line("a", url="/v1/embeddings")], "invalid_url"),
        ([line("a", stream=True)], "invalid_request"),
        ([line("a", model="gpt-4")], "model_not_found"),
    ],
)
def test_a_bad_file_fails_the_whole_batch_and_says_where(
    client: openai.OpenAI, clock: ManualClock, lines: list[Any], code: str
) -> None:
    batch = started(client, *lines)
    clock.advance(300)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, len(lines))
    assert batch.output_file_id is None


def test_a_batch_that_expires_bills_and_gives_what_was_done(
    client: openai.OpenAI, clock: ManualClock, simulator: Running
) -> None:
    simulator.fault("expire", match={"method": "POST", "path": "/v1/batches"}, after=1)
    batch = started(client, line("done"), line("late"))
    clock.advance(DAY - 1)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    clock.advance(2)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "expired"
    done = results(client, batch.output_file_id)["done"]["response"]["body"]["usage"]["total_tokens"]
    assert results(client, batch.error_file_id)["late"]["error"]["code"] == "batch_expired"
    assert batch.usage is not None
    assert batch.usage.total_tokens == done


def test_a_batch_can_be_made_to_fail_and_a_line_to_be_refused(
    client: openai.OpenAI, clock: ManualClock, simulator: Running
) -> None:
    simulator.fault("fail", match={"path": "/v1/batches"}, code="token_limit_exceeded", message="queue full")
    first = started(client, line("a"))
    simulator.fault("status", match={"method": "BATCH"}, status=500)
    second = started(client, line("a"), line("b"))
    clock.advance(300)
    failed = client.batches.retrieve(first.id)
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert failed.errors.data[0].code == "token_limit_exceeded"
    second = client.batches.retrieve(second.id)
    assert results(client, second.error_file_id)["a"]["response"]["status_code"] == 500
    assert set(results(client, second.output_file_id)) == {"b"}


def test_a_cancelled_batch_gives_what_was_done(client: openai.OpenAI, clock: ManualClock) -> None:
    batch = started(client, *(line(str(at)) for at in range(10)))
    clock.advance(10 + 60)
    half = client.batches.retrieve(batch.id)
    assert half.request_counts is not None
    assert half.request_counts.completed == 5
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "cancelled"
    assert len(results(client, batch.output_file_id)) == 5
    errors = results(client, batch.error_file_id)
    assert {row["error"]["code"] for row in errors.values()} == {"batch_cancelled"}
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_batches_are_listed_newest_first_a_page_at_a_time(client: openai.OpenAI) -> None:
    made = [started(client, line("a")).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert [batch.id for batch in page] == made[::-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "/v1/cakes"},
        {"completion_window": "48h"},
        {"input_file_id": "file-none"},
        {"metadata": {"k": "v" * 513}},
    ],
)
def test_a_bad_order_is_refused(client: openai.OpenAI, changes: dict[str, Any]) -> None:
    order = {"input_file_id": upload(client, line("a")), "endpoint": "/v1/responses", "completion_window": "24h"}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
        client.batches.create(**(order | changes))


def test_only_a_file_for_batches_makes_a_batch(client: openai.OpenAI) -> None:
    file = upload(client, line("a"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=file, endpoint="/v1/responses", completion_window="24h")
