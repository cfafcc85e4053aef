"""What a call comes to when AWS, or what lies between, is in trouble: what botocore would make of it."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import botocore.config
import botocore.session
import orjson
import pytest
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    ReadTimeoutError,
)

from app import aws as aws_module
from app.aws import Aws, error_code
from app.awsjson import client, retry
from tests.app.conftest import REGION
from tests.app.upstream.scripted import Server, whole
from tests.patience import PATIENCE_SECONDS

Fault = bytes | list[bytes]
ASKED: dict[str, Any] = {"TableName": "t", "Key": {"pk": {"S": "a"}}}
LAST = b"Connection: close"
GOOD = whole(b'{"Item": {"pk": {"S": "a"}}}')
PAGE = b"<html><body>gone</body></html>"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


def refusal(code: str, status: bytes = b"400 Bad Request") -> bytes:
    said = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}
    return whole(orjson.dumps(said), b"x-amzn-requestid: r-1", LAST, status=status)


AGAIN: dict[str, tuple[Fault, type[Exception], str]] = {
    "cut before the answer": ([], ConnectionClosedError, "ConnectionClosedError"),
    "internal error": (refusal("InternalServerError", b"500 Oh"), ClientError, "InternalServerError"),
    "a page": (whole(PAGE, LAST, status=b"503 Oh"), ClientError, "503"),
    "nothing": (whole(b"", LAST, status=b"502 Oh"), ClientError, "502"),
    "throttled": (refusal("ThrottlingException"), ClientError, "ThrottlingException"),
    "too many": (whole(b"no", LAST, status=b"429 Oh"), ClientError, "429"),
}
"""Faults after which a call is made once more -> what it comes to when that fails as well."""
OURS_ALONE: dict[str, tuple[Fault, type[Exception], str]] = {
    "cut inside the answer": (CUT, ConnectionClosedError, "ConnectionClosedError"),
    "another sum": (whole(b'{"Item": {}}', b"x-amz-crc32: 1", LAST), ChecksumError, "ChecksumError"),
    "a page that says 200": (whole(PAGE, LAST), HTTPClientError, "HTTPClientError"),
    "no HTTP": (b"nonsense\r\n\r\n", HTTPClientError, "HTTPClientError"),
}
"""botocore gives a caller the first three as answers, empty ones if need be."""


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the environment, and short pauses."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id" * 8)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret" * 5)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token" * 5)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    pause = retry.Retries.pause

    def hurried(self: retry.Retries, error: Exception, attempt: int) -> float | None:
        found = pause(self, error, attempt)
        assert found is None or 0 <= found <= 1, "botocore's own pause"
        return None if found is None else found / 50

    monkeypatch.setattr(retry.Retries, "pause", hurried)


async def ended(work: Any) -> Any:
    try:
        return await work
    except (BotoCoreError, ClientError) as error:
        return error


@pytest.mark.parametrize("name", [*AGAIN, *OURS_ALONE])
async def test_a_fault_is_met_by_one_more_attempt_and_then_told(name: str) -> None:
    fault, kind, code = (AGAIN | OURS_ALONE)[name]
    server = Server(fault, whole(b'{"Item": {"pk": {"S": "a"}}}', LAST), fault, fault, GOOD, close=True)
    async with server.listening() as url:
        aws = Aws(REGION, url)
        write: dict[str, Any] = {"TransactItems": [{"Put": {"TableName": "t", "Item": {}}}]}
        assert (await aws.call("dynamodb", "transact_write_items", **write))["Item"] == {"pk": {"S": "a"}}
        first, second = map(orjson.loads, server.bodies)
        assert first == second, "the same token, by which AWS knows that it is the same transaction"
        assert len(first["ClientRequestToken"]) == 36
        error = await ended(aws.call("dynamodb", "get_item", **ASKED))
        assert (type(error), error_code(error), len(server.heads)) == (kind, code, 4)
        for hidden in ("secret" * 5, "token" * 5):
            assert hidden not in repr(error) + repr(vars(error)) + repr(vars(aws))
        aws.close()


@pytest.mark.parametrize("name", [*AGAIN])
async def test_what_it_is_told_as_is_what_botocore_says(name: str) -> None:
    fault, *_ = AGAIN[name]
    config = botocore.config.Config(retries={"mode": "standard", "total_max_attempts": 1})
    server = Server(fault, fault, fault, close=True)
    async with server.listening() as url:
        made: Any = botocore.session.Session().create_client(
            "dynamodb", region_name=REGION, endpoint_url=url, config=config
        )
        theirs = await ended(asyncio.to_thread(made.get_item, **ASKED))
        aws = Aws(REGION, url)
        found = await ended(aws.call("dynamodb", "get_item", **ASKED))
        aws.close()
    assert error_code(found) == error_code(theirs)
    assert isinstance(theirs, type(found))
    if isinstance(found, ClientError):
        assert str(found) == str(theirs).replace(" (reached max retries: 0)", "")


@pytest.mark.parametrize(
    "code",
    ["ConditionalCheckFailedException", "ValidationException", "TransactionCanceledException", "ExpiredTokenException"],
)
async def test_what_dynamodb_refuses_for_good_is_not_asked_again(code: str) -> None:
    server = Server(refusal(code), GOOD)
    async with server.listening() as url:
        aws = Aws(REGION, url)
        error = await ended(aws.call("dynamodb", "get_item", **ASKED))
        assert error_code(error) == code
        assert len(server.heads) == 1
        assert error.response["ResponseMetadata"]["RequestId"] == "r-1"
        aws.close()


async def test_a_silence_is_a_time_out_and_the_next_attempt_has_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(aws_module.READ_SECONDS, "dynamodb", 0.1)
    server = Server([b""], [CUT], GOOD)  # silent from the start, silent inside its answer
    silent = Server()
    async with server.listening() as url, silent.listening() as nowhere:
        aws = Aws(REGION, nowhere)
        assert type(await ended(aws.call("dynamodb", "get_item", **ASKED))) is ReadTimeoutError
        assert silent.connections == len(silent.heads) == 2
        aws.close()
        aws = Aws(REGION, url)
        assert type(await ended(aws.call("dynamodb", "get_item", **ASKED))) is ReadTimeoutError
        assert (await aws.call("dynamodb", "get_item", **ASKED))["Item"] == ASKED["Key"]
        assert server.connections == 3
        aws.close()


async def test_an_answer_longer_than_any_of_dynamodbs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1_000)
    piece = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"
    long: Fault = [piece, *[b" " * 600] * 4]
    async with Server(long, long).listening() as url:
        aws = Aws(REGION, url)
        assert type(await ended(aws.call("dynamodb", "get_item", **ASKED))) is ConnectionClosedError
        aws.close()


async def test_a_service_that_is_down_is_not_asked_twice_by_everybody() -> None:
    calls = 60
    server = Server(*[refusal("InternalServerError", b"500 Oh")] * calls * 2)
    async with server.listening() as url:
        aws = Aws(REGION, url)
        for _ in range(calls):
            assert error_code(await ended(aws.call("dynamodb", "get_item", **ASKED))) == "InternalServerError"
        assert len(server.heads) == calls + 500 // retry.COST
        aws.close()


async def test_a_caller_who_leaves_stops_nothing() -> None:
    body = b'{"Item": {}}'
    server = Server(whole(body), whole(body, b"x-amz-crc32: %d" % zlib.crc32(body)))
    async with server.listening() as url:
        aws = Aws(REGION, url)
        leaver = asyncio.create_task(aws.call("dynamodb", "put_item", TableName="t", Item={}))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait([leaver])
        assert leaver.cancelled()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not server.bodies:  # noqa: ASYNC110 - it is another task's list
                await asyncio.sleep(0.01)
        assert orjson.loads(server.bodies[0]) == {"TableName": "t", "Item": {}}
        assert (await aws.call("dynamodb", "get_item", **ASKED))["Item"] == {}
        assert server.connections == 1, "the answer nobody waited for was read"
        aws.close()


async def test_connections_are_few_and_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECTIONS", 2)
    server = Server(*[GOOD] * 12)
    async with server.listening() as url:
        aws = Aws(REGION, url)
        await asyncio.gather(*(aws.call("dynamodb", "get_item", **ASKED) for _ in range(12)))
        assert server.connections == 2
        aws.close()
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
        with pytest.raises(RuntimeError):
            await aws.call("dynamodb", "get_item", **ASKED)


async def test_what_has_no_form_in_a_request_is_an_error_of_the_caller() -> None:
    async with Server(GOOD, close=True).listening() as url:
        aws = Aws(REGION, url)
        with pytest.raises(TypeError, match="object"):
            await aws.call("dynamodb", "put_item", TableName="t", Item={"a": {"S": object()}})
        aws.close()
