"""The official client works by changing base_url and key only: real process, real sockets, simulated OpenAI."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from local.openai.server import Running, running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def upstream_key() -> str:
    return made_up_openai_key()


@pytest.fixture(scope="module")
def gateway(cloud: CloudParts, valkey_port: int, upstream: Running, upstream_key: str) -> Iterator[Replica]:
    environment = BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, upstream_key),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "AWS_ENDPOINT_URL": cloud.url,
    }
    with replica(environment) as process:
        yield process


@pytest.fixture(scope="module")
def key(cloud: CloudParts) -> str:
    return prodkit_key(cloud, "acme")


@pytest.fixture
def client(gateway: Replica, key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as made:
        yield made


def test_a_response_comes_whole_with_ids_limits_and_its_model(client: OpenAI, gateway: Replica) -> None:
    raw = client.responses.with_raw_response.create(model="fast", input="Say hello to the harbour.")
    answer = raw.parse()
    assert answer.status == "completed"
    assert answer.output_text
    assert raw.headers["x-prodkit-model"] == "gpt-6-luna"
    assert raw.headers["x-prodkit-cache"] == "miss"
    assert raw.headers["x-upstream-request-id"].startswith("req_")
    assert "x-ratelimit-remaining-requests" in raw.headers
    line = gateway.line_of(raw.headers["x-request-id"])
    assert answer.usage is not None
    assert line["input_tokens"] == answer.usage.input_tokens
    assert line["output_tokens"] == answer.usage.output_tokens
    assert (line["tenant"], line["model"], line["requested_model"]) == ("acme", "gpt-6-luna", "fast")
    assert line["status"] == 200
    assert line["cost_usd"] > 0
    assert line["openai_processing_ms"] == float(raw.headers["openai-processing-ms"])


def test_a_response_streams_to_its_terminal_event(client: OpenAI, gateway: Replica) -> None:
    with client.responses.create(model="fast", input="Count the boats.", stream=True) as stream:
        events = list(stream)
        request_id = stream.response.headers["x-request-id"]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].response.usage is not None
    line = gateway.line_of(request_id)
    assert line["output_tokens"] == events[-1].response.usage.output_tokens
    assert line["stream"] is True
    assert line["first_token_ms"] > 0


def test_chat_streams_without_the_usage_chunk_that_only_we_asked_for(client: OpenAI, gateway: Replica) -> None:
    with client.chat.completions.create(
        model="fast", messages=[{"role": "user", "content": "Name three winds."}], stream=True
    ) as stream:
        chunks = list(stream)
        request_id = stream.response.headers["x-request-id"]
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    line = gateway.line_of(request_id)
    assert line["output_tokens"] > 0
    assert "usage_estimated" not in line


def test_chat_streams_with_the_usage_chunk_for_those_who_ask(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="fast",
        messages=[{"role": "user", "content": "Name four winds."}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_chat_completes_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="fast", messages=[{"role": "user", "content": "Hello?"}])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


def test_embeddings_come_as_vectors(client: OpenAI) -> None:
    answer = client.embeddings.create(model="embed", input=["one", "two"])
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 1536


def test_a_moderation_needs_no_model_and_is_never_kept(client: OpenAI) -> None:
    for _ in range(2):
        raw = client.moderations.with_raw_response.create(input="I will hug you.")
        assert raw.headers["x-prodkit-cache"] == "bypass"
        assert raw.parse().results[0].flagged is False


def test_models_are_the_documents_aliases_and_names(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"fast", "balanced", "best", "embed", "gpt-6-luna", "omni-moderation-latest"} <= set(names)
    assert client.models.retrieve("fast").id == "fast"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_an_unknown_model_is_refused_with_the_list_of_known_ones(client: OpenAI, gateway: Replica) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="gpt-4", input="hi")
    assert caught.value.code == "model_not_found"
    assert "balanced" in str(caught.value)
    line = gateway.line_of(caught.value.request_id or "")
    assert (line["status"], line["error_code"], line["domain"]) == (404, "model_not_found", "caller")


async def test_the_async_client_works_whole_and_streaming(gateway: Replica, key: str) -> None:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:
        answer = await client.responses.create(model="best", input="How deep is the sea?")
        assert answer.status == "completed"
        async with await client.responses.create(model="fast", input="And the sky?", stream=True) as stream:
            kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.completed"
        async with client.responses.with_streaming_response.create(model="fast", input="Wide?") as streaming:
            assert (await streaming.parse()).status == "completed"


def test_the_same_question_is_answered_from_the_cache_for_its_tenant_alone(
    client: OpenAI, gateway: Replica, cloud: CloudParts, upstream: Running
) -> None:
    def ask(who: OpenAI, **headers: str) -> tuple[str, str]:
        raw = who.responses.with_raw_response.create(model="fast", input="Once only, please.", extra_headers=headers)
        return raw.headers["x-prodkit-cache"], raw.parse().output_text

    first = ask(client)
    assert first[0] == "miss"
    assert ask(client) == ("hit", first[1])
    assert ask(client, **{"Cache-Control": "no-store"})[0] == "bypass"
    assert ask(client, **{"Cache-Control": "no-cache"})[0] == "miss"
    with OpenAI(base_url=gateway.base_url, api_key=prodkit_key(cloud, "other"), max_retries=0) as stranger:
        assert ask(stranger)[0] == "miss"


def test_what_reaches_openai_is_capped_unstored_and_without_the_callers_headers(
    client: OpenAI, upstream: Running, key: str
) -> None:
    client.responses.create(
        model="fast",
        input="Look at what I send.",
        store=True,
        service_tier="auto",
        extra_headers={"OpenAI-Organization": "org-mine", "OpenAI-Project": "proj-mine"},
    )
    sent = upstream.requests()[-1]
    assert sent["body"]["store"] is False
    assert sent["body"]["service_tier"] == "default"
    assert sent["body"]["max_output_tokens"] == 1024
    assert sent["body"]["model"] == "gpt-6-luna"
    assert not {name for name in sent["headers"] if name.lower().startswith(("openai-", "x-stainless"))}
    assert key not in repr(sent)
