from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.authenticate import authenticate
from app.pipeline.bound import MAX_BODY_BYTES
from app.serving.exchange import UntilDisconnect, read_body
from app.serving.v1 import check_route, models_body, new_request_id

MODELS = Models(default_document())
GONE = {"type": "http.disconnect"}


def receiving(messages: Iterable[dict[str, Any]]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_one_body() -> None:
    assert await read_body(receiving([piece(b"ab"), piece(b""), piece(b"c", more=False)]), None) == b"abc"


async def test_a_body_that_is_said_to_be_too_long_is_not_read() -> None:
    with pytest.raises(ApiError) as caught:
        await read_body(receiving([]), str(MAX_BODY_BYTES + 1))
    assert caught.value.status == 413


async def test_a_body_that_grows_too_long_is_not_read_further() -> None:
    half = piece(b"x" * (MAX_BODY_BYTES // 2 + 1))
    with pytest.raises(ApiError) as caught:
        await read_body(receiving([half, half]), None)
    assert caught.value.status == 413


@pytest.mark.parametrize("messages", [[piece(b"ab"), GONE], [piece(b"ab")]])
async def test_a_body_that_does_not_arrive_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, messages: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr("app.serving.exchange.BODY_SECONDS", 0.02)
    with pytest.raises(ApiError) as caught:
        await read_body(receiving(messages), None)
    assert caught.value.status == 408


async def test_work_ends_when_its_client_leaves_and_the_task_goes_on() -> None:
    leave = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leave.wait()
        return GONE

    finished = False
    with UntilDisconnect(receive):
        leave.set()
        await asyncio.Event().wait()
        finished = True
    assert not finished
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_work_that_others_wait_for_goes_on_when_its_client_leaves() -> None:
    asked = asyncio.Event()

    def on_gone() -> bool:
        asked.set()
        return False

    with UntilDisconnect(receiving([GONE]), on_gone):
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(0)
        done = True
    assert done


async def test_work_of_a_client_who_stays_is_left_alone() -> None:
    with UntilDisconnect(receiving([])):
        await asyncio.sleep(0)
        done = True
    assert done


async def test_watching_a_client_leaves_nothing_to_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, garbage: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("app.serving.exchange.WATCH_AFTER_SECONDS", 0.0)
    for _ in range(3):
        with UntilDisconnect(receiving([])):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    assert garbage() == []


async def test_a_cancellation_from_elsewhere_is_no_disconnect() -> None:
    async def work() -> None:
        with UntilDisconnect(receiving([])):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_stays_an_error() -> None:
    with pytest.raises(ZeroDivisionError), UntilDisconnect(receiving([])):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/moderations"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/gpt-6-luna"),
    ],
)
def test_every_served_path_is_found(method: str, path: str) -> None:
    check_route(path, method)


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/modelsx", "/v1/chat", "/v1/responses/", "/v1/Responses", "/v1//responses"]
)
def test_a_path_that_only_looks_like_one_is_not_served(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_route(path, "POST")
    assert caught.value.code == "unsupported_endpoint"


def test_models_are_listed_in_openais_shape() -> None:
    listed = orjson.loads(models_body(MODELS, "/v1/models"))
    assert listed["object"] == "list"
    assert {"id": "fast", "object": "model", "created": 1_795_305_600, "owned_by": "prodkit"} in listed["data"]
    assert len({model["id"] for model in listed["data"]}) == len(listed["data"])
    assert orjson.loads(models_body(MODELS, "/v1/models/gpt-6%2Dluna"))["id"] == "gpt-6-luna"


def test_a_model_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(ApiError) as caught:
        models_body(MODELS, "/v1/models/gpt-4")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert "balanced" in caught.value.message


def test_request_ids_are_like_openais_and_never_the_same() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(made.startswith("req_") for made in ids)


class Keys:
    """Knows no key, and whether it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def lookup(self, presented: str) -> None:
        self.asked.append(presented)


@pytest.mark.parametrize(
    ("authorization", "asked"),
    [
        (None, []),
        ("", []),
        ("Bearer", []),
        ("Bearer  ", []),
        ("Basic prodkit_x", []),
        ("Bearer sk-x", []),
        ("bearer  prodkit_x ", ["prodkit_x"]),
    ],
)
async def test_only_what_may_be_a_key_is_looked_up(authorization: str | None, asked: list[str]) -> None:
    keys = Keys()
    with pytest.raises(ApiError) as caught:
        await authenticate(authorization, keys)  # type: ignore[arg-type]  # a fake key store
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert keys.asked == asked
    assert "prodkit_x" not in caught.value.message
