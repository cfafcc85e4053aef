"""Whatever goes wrong, the caller gets OpenAI's shape, the account is right and no key is shown: real process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from local.openai.server import Running, running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, wait_until
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica

pytestmark = pytest.mark.process

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _healthy(upstream: Running) -> Iterator[None]:
    yield
    upstream.reset()


@pytest.fixture(scope="module")
def upstream_key() -> str:
    return made_up_openai_key()


def environment(cloud: CloudParts, valkey_port: int, upstream: Running, openai_key: str | None) -> dict[str, str]:
    return BASE_ENVIRONMENT | {
        "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, openai_key),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "PRODKIT_HEARTBEAT_SECONDS": "1",
        "PRODKIT_REQUEST_TIMEOUT_SECONDS": "2",
        "AWS_ENDPOINT_URL": cloud.url,
    }


@pytest.fixture(scope="module")
def gateway(cloud: CloudParts, valkey_port: int, upstream: Running, upstream_key: str) -> Iterator[Replica]:
    with replica(environment(cloud, valkey_port, upstream, upstream_key)) as process:
        yield process


@pytest.fixture(scope="module")
def key(cloud: CloudParts) -> str:
    return prodkit_key(cloud, "errors")


@pytest.fixture
def client(gateway: Replica, key: str) -> Iterator[OpenAI]:
    headers = {"Cache-Control": "no-store"}
    with OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0, default_headers=headers) as made:
        yield made


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer nonsense", "Basic abc", "Bearer prodkit_0123456789ab_" + "x" * 43, "prodkit_x"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/responses"), ("GET", "/v1/models"), ("POST", "/ask")])
def test_nobody_gets_in_without_a_key(gateway: Replica, authorization: str | None, method: str, path: str) -> None:
    headers = JSON | ({} if authorization is None else {"authorization": authorization})
    status, answered, body = gateway.send(method, path, b"{}", headers)
    assert (status, error_of(body)["code"]) == (401, "invalid_api_key")
    assert "prodkit_0123456789ab" not in body.decode()
    line = gateway.line_of(answered["x-request-id"])
    assert (line["status"], line["error_code"], line["domain"]) == (401, "invalid_api_key", "caller")


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/files", "/v1/completions", "/v1/responses/resp_1", "/v1/responses/", "/v1/vector_stores"],
)
def test_what_is_not_served_says_so(gateway: Replica, path: str) -> None:
    status, _, body = gateway.send("POST", path, b"{}", JSON)
    assert (status, error_of(body)["code"]) == (404, "unsupported_endpoint")


def test_outside_v1_an_unknown_path_has_the_same_shape(gateway: Replica) -> None:
    status, _, body = gateway.send("GET", "/nowhere")
    assert (status, error_of(body)["code"]) == (404, "not_found")
    status, headers, body = gateway.send("DELETE", "/ask")
    assert (status, error_of(body)["code"], headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/responses", "POST"), ("DELETE", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")],
)
def test_a_wrong_method_names_the_right_one(gateway: Replica, method: str, path: str, allowed: str) -> None:
    status, headers, body = gateway.send(method, path)
    assert (status, error_of(body)["code"], headers["allow"]) == (405, "method_not_allowed", allowed)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "invalid_json"),
        (b"model=fast", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b'{"input": "hi", "temperature": "hot"}', JSON, 400, "invalid_type"),
        (b'{"input": "hi", "previous_response_id": "resp_1"}', JSON, 403, "not_allowed"),
        (b'{"input": "' + b"x" * 10_485_760 + b'"}', JSON, 413, "request_too_large"),
    ],
)
def test_a_bad_request_never_reaches_openai(
    gateway: Replica, upstream: Running, key: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    before = len(upstream.requests())
    got, _, answer = gateway.send("POST", "/v1/responses", body, headers | {"authorization": f"Bearer {key}"})
    assert (got, error_of(answer)["code"]) == (status, code)
    assert len(upstream.requests()) == before


def test_an_error_of_openai_passes_as_it_is(client: OpenAI, gateway: Replica, upstream: Running) -> None:
    upstream.fault("status", status=429, code="rate_limit_exceeded", message="Slow down.", retry_after=7)
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="balanced", input="hi")  # which nobody here asks again while it has to rest
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "7")
    assert "Slow down." in str(caught.value)
    line = gateway.line_of(caught.value.request_id or "")
    assert (line["status"], line["error_code"], line["domain"]) == (429, "rate_limit_exceeded", "upstream")
    assert "cost_usd" not in line


def test_a_passing_fault_of_openai_is_not_seen(client: OpenAI, upstream: Running) -> None:
    upstream.fault("status", status=500)
    assert client.responses.create(model="fast", input="hi").status == "completed"
    upstream.fault("disconnect")
    assert client.responses.create(model="fast", input="hi").status == "completed"
    assert [request["status"] for request in upstream.requests()].count(200) == 2


def test_an_empty_purse_is_told_at_once_and_nobody_asks_again(
    cloud: CloudParts, valkey_port: int, upstream: Running, key: str
) -> None:
    upstream.fault("status", status=429, code="insufficient_quota", times=None)
    with (
        replica(environment(cloud, valkey_port, upstream, made_up_openai_key())) as process,
        OpenAI(base_url=process.base_url, api_key=key) as retrying,
    ):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                retrying.responses.create(model="fast", input="hi")
            assert (caught.value.status_code, caught.value.code) == (503, "upstream_quota_exhausted")
    assert len(upstream.requests()) == 1


def test_a_page_instead_of_an_answer_is_502(client: OpenAI, upstream: Running) -> None:
    upstream.fault("html", times=None)
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="fast", input="hi")
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_invalid_response")


def test_a_late_answer_is_504_and_charged_by_estimate(client: OpenAI, gateway: Replica, upstream: Running) -> None:
    upstream.fault("delay", seconds=30)
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="fast", input="hi")
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    line = gateway.line_of(caught.value.request_id or "")
    assert line["usage_estimated"] is True
    assert line["domain"] == "upstream"


@pytest.mark.parametrize("clean", [True, False])
def test_a_response_cut_short_ends_with_an_error_event(
    client: OpenAI, gateway: Replica, upstream: Running, clean: bool
) -> None:
    upstream.fault("cut", after=4, clean=clean)
    with client.responses.create(model="fast", input="hi", stream=True) as stream:
        events = list(stream)
        request_id = stream.response.headers["x-request-id"]
    assert events[-1].type == "error"
    assert events[-1].code == "upstream_incomplete"
    assert events[-1].sequence_number == events[-2].sequence_number + 1
    line = gateway.line_of(request_id)
    assert (line["error_code"], line["domain"], line["status"]) == ("upstream_incomplete", "upstream", 200)
    assert line["usage_estimated"] is True


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_a_chat_that_breaks_raises_in_the_client(client: OpenAI, upstream: Running, kind: str) -> None:
    upstream.fault(kind, after=2)
    with (
        pytest.raises(openai.APIError) as caught,
        client.chat.completions.create(
            model="fast", messages=[{"role": "user", "content": "hi"}], stream=True
        ) as stream,
    ):
        list(stream)
    assert caught.value.code in ("upstream_incomplete", "upstream_invalid_response")


def test_leaving_a_stream_ends_it_at_openai_and_charges_what_arrived(
    client: OpenAI, gateway: Replica, upstream: Running
) -> None:
    upstream.fault("stall", after=9)
    with client.responses.create(model="fast", input="Tell me a long story.", stream=True) as stream:
        request_id = stream.response.headers["x-request-id"]
        while next(stream).type != "response.output_text.delta":
            pass
    line = gateway.line_of(request_id)
    assert line["error_code"] == "client_disconnected"
    assert "domain" not in line
    assert line["usage_estimated"] is True
    assert line["input_tokens"] > 0
    assert upstream.requests()[-1]["outcome"] == "disconnected"


def test_leaving_a_whole_answer_ends_it_at_openai(client: OpenAI, gateway: Replica, upstream: Running) -> None:
    upstream.fault("delay", seconds=30, match={"path": "/v1/responses"})
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).responses.create(model="fast", input="hi")
    assert upstream.requests()[-1]["outcome"] == "disconnected"
    wait_until(lambda: gateway.request_lines()[-1].get("status") == 499)


def test_a_silent_stream_is_kept_alive_by_comments(gateway: Replica, upstream: Running, key: str) -> None:
    upstream.fault("slow_first_token", seconds=2.5)
    body = json.dumps({"model": "fast", "input": "hi", "stream": True}).encode()
    status, headers, answer = gateway.send("POST", "/v1/responses", body, JSON | {"authorization": f"Bearer {key}"})
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert answer.count(b": keep-alive\n\n") >= 1
    assert b"response.completed" in answer


def test_a_key_over_its_limit_waits_and_is_told_how_long(gateway: Replica, cloud: CloudParts) -> None:
    slow = prodkit_key(cloud, "slow", requests_per_minute=1)
    with OpenAI(base_url=gateway.base_url, api_key=slow, max_retries=0) as client:
        client.embeddings.create(model="embed", input="one")
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model="embed", input="two")
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert "x-ratelimit-limit-requests" in caught.value.response.headers
    assert gateway.line_of(caught.value.request_id or "")["domain"] == "policy"


def test_before_the_openai_key_is_set_it_is_ready_and_says_what_to_do(
    cloud: CloudParts, valkey_port: int, upstream: Running, key: str
) -> None:
    with replica(environment(cloud, valkey_port, upstream, None)) as process:
        assert process.status("/health/ready") == 200
        with OpenAI(base_url=process.base_url, api_key=key, max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.responses.create(model="fast", input="hi")
            assert (caught.value.status_code, caught.value.code) == (503, "api_key_missing")
            assert "make key STACK=test" in str(caught.value)
        with contextlib.closing(OpenAI(base_url=process.base_url, api_key=key)) as client:
            assert client.models.list().data


def test_a_refused_key_of_ours_is_never_shown(cloud: CloudParts, valkey_port: int, upstream: Running, key: str) -> None:
    wrong = made_up_openai_key()
    upstream.accept_keys(made_up_openai_key())
    with replica(environment(cloud, valkey_port, upstream, wrong)) as process:
        headers = JSON | {"authorization": f"Bearer {key}"}
        for stream in (False, True):
            # A question that nobody has asked: a kept answer needs no key.
            body = json.dumps({"model": "fast", "input": "Who holds a wrong key?", "stream": stream}).encode()
            status, answered, answer = process.send("POST", "/v1/responses", body, headers)
            assert status == 401
            assert process.line_of(answered["x-request-id"])["domain"] == "upstream"
            assert wrong[:12] not in f"{answered}{answer!r}"
            assert "sk-" not in answer.decode()
        assert wrong not in "".join(process.lines)
        assert key not in "".join(process.lines)


def test_no_key_was_ever_written(gateway: Replica, upstream_key: str, key: str) -> None:
    written = "".join(gateway.lines)
    assert written
    assert upstream_key not in written
    assert key not in written
