"""What is asked of OpenAI again, and what never is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import orjson
import pytest

from app.errors import ApiError
from app.models import Models, default_document
from app.observability.metrics import Metrics
from app.pipeline import call_upstream as step
from app.pipeline.answer import Answer
from app.pipeline.attempt import OpenStream
from app.pipeline.call_upstream import OpenAI
from app.pipeline.choose import Plan, make_plan
from app.pipeline.endpoints import RESPONSES
from app.pipeline.phases import Phases
from app.resilience import Resilience
from app.upstream import http_client
from app.upstream.pool import Upstream
from app.upstream.response import UnreachableError
from tests.app.conftest import free_port
from tests.app.raw_upstream import OK_STREAM, Connection, RawUpstream, raw_upstream, whole
from tests.app.replica import made_up_openai_key

pytestmark = pytest.mark.process

MODELS = Models(default_document())
GOOD = whole(200, b'{"output": [], "status": "completed"}', "X-Request-Id: req_1", "X-RateLimit-Remaining-Requests: 9")
FIRST_TOKEN = b'data: {"type":"response.output_text.delta","sequence_number":0,"delta":"hello"}\n\n'
SECONDS = 30.0
IDLE_OPTION: int = getattr(socket, "TCP_KEEPIDLE", 0) or getattr(socket, "TCP_KEEPALIVE", 0)  # Linux, macOS


@dataclass
class Keys:
    """A key in force and what is found after it is refused."""

    current: str | None = field(default_factory=made_up_openai_key)
    rotated: str | None = None
    refreshed: list[str] = field(default_factory=list)

    def at_hand(self) -> str | None:
        return None

    async def get(self) -> str | None:
        return self.current

    async def refresh(self, stale: str) -> str | None:
        self.refreshed.append(stale)
        self.current = self.rotated or self.current
        return self.current


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "BACKOFF_SECONDS", 0.0)


def plan(stream: bool = False) -> Plan:
    return make_plan(RESPONSES, {"model": "fast", "input": "hi", "stream": stream}, MODELS)


@contextlib.asynccontextmanager
async def opened(answers: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[tuple[Upstream, RawUpstream]]:
    async with (
        raw_upstream(answers) as server,
        Upstream(server.base_url, connections=4, tcp_keep_alive_seconds=45) as upstream,
    ):
        yield upstream, server


async def ask(upstream: Upstream, keys: Keys, *, stream: bool = False, seconds: float = SECONDS) -> Answer | OpenStream:
    return await ask_for(plan(stream), upstream, keys, seconds=seconds)


async def ask_for(asked: Plan, upstream: Upstream, keys: Keys, *, seconds: float = SECONDS) -> Answer | OpenStream:
    loop = asyncio.get_running_loop()
    resilience = Resilience(Metrics("test", "web", write=lambda _line: None))
    openai = OpenAI(upstream, keys, SECONDS, "dev", resilience)  # type: ignore[arg-type]  # a fake key store
    served, answer = await openai.ask(asked, Phases(), loop, loop.time() + seconds)
    assert served is asked
    return answer


def saying(*answers: bytes) -> Callable[[Connection], Awaitable[None]]:
    """Each connection gets the next answer; an empty one is a cut."""
    left = list(answers)

    async def answer(connection: Connection) -> None:
        await connection.say(left.pop(0))

    return answer


def error(status: int, code: str, *headers: str) -> bytes:
    return whole(status, orjson.dumps({"error": {"message": "no", "type": "t", "param": None, "code": code}}), *headers)


async def test_an_answer_comes_with_the_headers_a_client_knows() -> None:
    async with opened(saying(GOOD.replace(b"X-Request-Id", b"OpenAI-Organization: ours\r\nX-Request-Id"))) as (up, _):
        got = await ask(up, Keys())
    assert isinstance(got, Answer)
    assert dict(got.headers) == {"content-type": "application/json", "x-ratelimit-remaining-requests": "9"}
    assert got.upstream_request_id == "req_1"


@pytest.mark.parametrize(
    "first", [error(500, "server_error"), error(503, "server_is_overloaded"), error(429, "rate_limit_exceeded"), b""]
)
async def test_a_passing_fault_is_tried_once_more(first: bytes) -> None:
    async with opened(saying(first, GOOD)) as (up, server):
        got = await ask(up, Keys())
    assert isinstance(got, Answer)
    assert got.status == 200
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    "first",
    [
        error(400, "invalid_value"),
        error(404, "model_not_found"),
        error(429, "rate_limit_exceeded", f"Retry-After: {SECONDS + 1:.0f}"),
        error(502, "bad_gateway"),
        error(503, "server_is_overloaded", "Retry-After: 60"),
        error(503, "server_is_overloaded", "Retry-After: nan"),
        error(503, "server_is_overloaded", "Retry-After: Sun, 22 Nov 2026 10:00:00 GMT"),
        error(500, "server_error", "X-Should-Retry: false"),
    ],
)
async def test_an_error_that_stays_is_passed_on_at_once(first: bytes) -> None:
    async with opened(saying(first, GOOD)) as (up, server):
        got = await ask(up, Keys())
    assert isinstance(got, Answer)
    assert got.status >= 400
    assert got.body == first.partition(b"\r\n\r\n")[2]
    assert len(server.seen) == 1


@pytest.mark.parametrize("first", [error(429, "insufficient_quota"), error(503, "project_spend_limit_exceeded")])
async def test_an_account_that_cannot_pay_is_a_clear_503_that_clients_do_not_repeat(first: bytes) -> None:
    async with opened(saying(first, GOOD)) as (up, server):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys())
    assert (caught.value.status, caught.value.code) == (503, "upstream_quota_exhausted")
    assert caught.value.headers["x-should-retry"] == "false"
    assert len(server.seen) == 1


async def test_there_is_no_third_attempt() -> None:
    async with opened(saying(*[error(500, "server_error")] * 3)) as (up, server):
        got = await ask(up, Keys())
    assert isinstance(got, Answer)
    assert (got.status, got.error_code) == (500, "server_error")
    assert len(server.seen) == 2


async def test_an_unreachable_openai_is_502() -> None:
    async with Upstream(f"http://127.0.0.1:{free_port()}/v1", connections=1, tcp_keep_alive_seconds=45) as upstream:
        with pytest.raises(ApiError) as caught:
            await ask(upstream, Keys())
    assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")


async def test_a_replica_without_descriptors_blames_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none_left(*_: object) -> None:
        raise UnreachableError("no connection", errno.EMFILE)

    async with opened(saying(GOOD)) as (up, _):
        monkeypatch.setattr(up, "post", none_left)
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys())
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


async def test_the_deadline_holds_over_a_silent_openai() -> None:
    async def silent(connection: Connection) -> None:
        await connection.gone.wait()

    async with opened(silent) as (up, server):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys(), seconds=0.1)
        await server.seen[0].gone.wait()
    assert (caught.value.status, caught.value.code) == (504, "upstream_timeout")


async def test_the_deadline_holds_over_a_body_that_drips() -> None:
    async def drip(connection: Connection) -> None:
        await connection.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n")
        while not connection.gone.is_set():
            await connection.say(b" ")
            await asyncio.sleep(0.01)

    async with opened(drip) as (up, _):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys(), seconds=0.2)
    assert caught.value.code == "upstream_timeout"


async def test_a_body_that_is_cut_is_not_asked_for_again() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
    async with opened(saying(cut, GOOD)) as (up, server):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys())
    assert (caught.value.status, caught.value.code) == (502, "upstream_incomplete")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        whole(200, b"<html>hello</html>", media_type="text/html"),
        whole(200, b"not json"),
        whole(200, b"[]"),
        whole(200, b'{"choices": []}'),
        whole(302, b"", "Location: http://127.0.0.1:1/"),
        whole(204, b""),
        b"this is not HTTP at all\r\n\r\n",
    ],
)
async def test_a_success_that_is_no_answer_is_502(answer: bytes) -> None:
    async with opened(saying(answer)) as (up, server):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys())
    assert (caught.value.status, caught.value.code) == (502, "upstream_invalid_response")
    assert len(server.seen) == 1


async def test_a_stream_that_is_no_event_stream_is_502() -> None:
    async with opened(saying(GOOD)) as (up, _):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys(), stream=True)
    assert caught.value.code == "upstream_invalid_response"


async def test_a_stream_that_ends_before_its_first_token_is_handed_over_as_it_is() -> None:
    async with opened(saying(OK_STREAM)) as (up, _):
        got = await ask(up, Keys(), stream=True)
        assert isinstance(got, OpenStream)
        assert got.request_id == "req_up"
        got.response.close()


async def test_an_error_in_another_shape_gets_openais() -> None:
    async with opened(saying(whole(418, b"<html>teapot</html>", media_type="text/html"))) as (up, _):
        got = await ask(up, Keys())
    assert isinstance(got, Answer)
    assert got.status == 418
    assert dict(got.headers)["content-type"] == "application/json"
    assert orjson.loads(got.body)["error"]["type"] == "upstream_error"


async def test_a_rotated_key_is_read_once_and_used() -> None:
    keys = Keys(rotated=made_up_openai_key())
    old, new = keys.current, keys.rotated
    assert old is not None
    assert new is not None
    async with opened(saying(error(401, "invalid_api_key"), GOOD)) as (up, server):
        got = await ask(up, keys)
    assert isinstance(got, Answer)
    assert got.status == 200
    assert keys.refreshed == [old]
    assert [f"Bearer {key}".encode() in seen.head for key, seen in zip((old, new), server.seen, strict=True)] == [
        True,
        True,
    ]


async def test_a_key_that_is_refused_and_not_rotated_ends_in_401_without_showing_it() -> None:
    keys = Keys()
    assert keys.current is not None
    shown = whole(
        401,
        orjson.dumps(
            {
                "error": {
                    "message": f"Incorrect API key provided: {keys.current} (or sk-proj-ab****wxyz).",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "invalid_api_key",
                }
            }
        ),
    )
    async with opened(saying(shown, shown)) as (up, server):
        got = await ask(up, keys)
    assert isinstance(got, Answer)
    assert (got.status, got.error_code) == (401, "invalid_api_key")
    assert keys.current.encode() not in got.body
    assert b"sk-" not in got.body
    assert len(server.seen) == 1


async def test_without_a_key_the_answer_names_the_command_that_sets_it() -> None:
    async with opened(saying()) as (up, server):
        with pytest.raises(ApiError) as caught:
            await ask(up, Keys(current=None))
    assert (caught.value.status, caught.value.code) == (503, "api_key_missing")
    assert "make key STACK=dev" in caught.value.message
    assert server.seen == []


async def test_cancelling_closes_the_connection_to_openai() -> None:
    async def silent(connection: Connection) -> None:
        await connection.gone.wait()

    async with opened(silent) as (up, server):
        task = asyncio.create_task(ask(up, Keys()))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.seen[0].gone.wait(), SECONDS)


async def test_a_long_body_arrives_whole() -> None:
    async def answer(connection: Connection) -> None:
        await connection.say(GOOD)

    async with opened(answer) as (up, server):
        long = make_plan(RESPONSES, {"model": "fast", "input": "x" * 3_000_000}, MODELS)
        await ask_for(long, up, Keys())
    assert server.seen[0].body == long.payload


async def test_a_silent_connection_is_probed_before_nat_forgets_it() -> None:
    async def answer(connection: Connection) -> None:
        await connection.say(OK_STREAM + FIRST_TOKEN)
        await connection.gone.wait()

    async with opened(answer) as (up, _):
        got = await ask(up, Keys(), stream=True)
        assert isinstance(got, OpenStream)
        connection = got.response._connection
        assert isinstance(connection, http_client.Connection)
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        assert sock.getsockopt(socket.IPPROTO_TCP, IDLE_OPTION) == 45
        got.response.close()


async def test_a_pool_is_opened_before_it_is_used() -> None:
    with pytest.raises(RuntimeError):
        await Upstream("http://127.0.0.1:9/v1", connections=1, tcp_keep_alive_seconds=45).post("/responses", b"", "k")
