"""Requests are signed as botocore signs them, with credentials that are renewed beside the calls."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from app.aws import Aws
from app.awsjson import sign
from app.awsjson.sign import Signer
from app.awsjson.wire import DYNAMODB
from tests.app.conftest import REGION
from tests.app.upstream.scripted import Server, whole
from tests.patience import PATIENCE_SECONDS

T = TypeVar("T")
ASKED = {"TableName": "t", "Key": {"pk": {"S": "a"}}}
HOURS = 6 * 3_600
TEXTS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=", min_size=1, max_size=60)


async def thread(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


@given(TEXTS, TEXTS, st.none() | TEXTS, st.binary(max_size=200))
def test_a_head_carries_the_signature_that_botocore_makes(
    access: str, secret: str, token: str | None, body: bytes
) -> None:
    url = "https://dynamodb.us-east-1.amazonaws.com"
    found = Credentials(access, secret, token)
    signer = Signer(DYNAMODB, REGION, url, lambda: found, thread)
    lines = asyncio.run(signer.head("GetItem", body)).decode().split("\r\n")
    said = dict(line.split(": ", 1) for line in lines[1:-2])
    assert (lines[0], said["Content-Length"], lines[-2:]) == ("POST / HTTP/1.1", str(len(body)), ["", ""])
    names = ("Content-Type", "X-Amz-Target")
    request = AWSRequest("POST", url, headers={name: said[name] for name in names}, data=body)
    moment = time.strptime(said["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    with mock.patch(
        "botocore.auth.get_current_datetime", return_value=mock.Mock(strftime=lambda form: time.strftime(form, moment))
    ):
        SigV4Auth(found, "dynamodb", REGION).add_auth(request)
    assert said["Authorization"] == request.headers["Authorization"]
    assert said.get("X-Amz-Security-Token") == token
    for hidden in (secret, token):
        assert hidden is None or len(hidden) < 12 or hidden not in repr(signer) + repr(sign._Request(url, {}, body))


class Role:
    """The endpoint that gives a task its credentials, in the very loop that waits for them."""

    def __init__(self, *seconds: float) -> None:
        """How long the first credentials, the second ones and so on hold; after those it fails."""
        self._seconds = list(seconds)
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            if self.asked <= len(self._seconds):
                end = time.gmtime(time.time() + self._seconds[self.asked - 1])
                given = {
                    "AccessKeyId": f"KEY{self.asked}",
                    "SecretAccessKey": "secret" * 5,
                    "Token": "token" * 5,
                    "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", end),
                }
                writer.write(whole(json.dumps(given).encode(), b"Connection: close"))
            else:
                writer.write(whole(b"no", b"Connection: close", status=b"400 Bad Request"))
        writer.close()


@contextlib.asynccontextmanager
async def with_role(role: Role, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:
    """The app's own client of `server`, in a task that has this role."""
    without_credentials(monkeypatch)
    giving = await asyncio.start_server(role, "127.0.0.1", 0)
    monkeypatch.setenv(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{giving.sockets[0].getsockname()[1]}/role"
    )
    async with server.listening() as url:
        aws = Aws(REGION, url)
        try:
            yield aws
        finally:
            aws.close()
            await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
            giving.close()


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")


def signed_by(server: Server) -> list[str]:
    """The access key of each request."""
    return [head.decode().partition("Credential=")[2].partition("/")[0] for head in server.heads]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until it is true."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - in botocore's thread
            await asyncio.sleep(0.01)


def renewing(aws: Aws) -> bool:
    way = aws._spoken["dynamodb"]._way.result()
    return way.signer._renewing is not None


async def leave(aws: Aws, seconds: int) -> None:
    """Let the credentials hold for so long from now, and nobody have asked for others lately."""
    way = await aws._spoken["dynamodb"]._way
    way.signer._credentials._expiry_time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    way.signer._renewed_at = float("-inf")


async def test_a_roles_credentials_are_renewed_before_they_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    role, server = Role(HOURS, HOURS, HOURS), Server(*[whole(b"{}")] * 9)
    async with with_role(role, server, monkeypatch) as aws:
        for _ in range(2):
            await aws.call("dynamodb", "get_item", **ASKED)
        assert role.asked == 1
        await leave(aws, sign.WAIT_SECONDS + 60)
        await aws.call("dynamodb", "get_item", **ASKED)
        assert signed_by(server) == ["KEY1"] * 3, "nobody waits for new ones while these are good"
        await until(lambda: role.asked == 2 and not renewing(aws))
        await leave(aws, sign.WAIT_SECONDS - 60)
        await asyncio.gather(*(aws.call("dynamodb", "get_item", **ASKED) for _ in range(2)))
        assert signed_by(server)[3:] == ["KEY3"] * 2, "so few minutes are left to none"
        await aws.call("dynamodb", "get_item", **ASKED)
        assert role.asked == 3
    assert "secret" * 5 not in caplog.text
    assert "token" * 5 not in caplog.text


async def test_credentials_that_still_hold_are_used_while_new_ones_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.01)
    role, server = Role(HOURS), Server(*[whole(b"{}")] * 9)
    async with with_role(role, server, monkeypatch) as aws:
        await aws.call("dynamodb", "get_item", **ASKED)
        await leave(aws, sign.WAIT_SECONDS + 60)
        await aws.call("dynamodb", "get_item", **ASKED)
        await until(lambda: role.asked >= 2 and not renewing(aws))
        asked = role.asked
        for _ in range(4):
            await aws.call("dynamodb", "get_item", **ASKED)
        assert signed_by(server) == ["KEY1"] * 6
        assert role.asked == asked, "not at every call"
        await leave(aws, sign.WAIT_SECONDS - 60)
        with pytest.raises(CredentialRetrievalError):
            await aws.call("dynamodb", "get_item", **ASKED)


async def test_without_credentials_a_call_says_so_and_with_a_profile_it_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_credentials(monkeypatch)
    async with Server(whole(b"{}"), close=True).listening() as url:
        aws = Aws(REGION, url)
        with pytest.raises(NoCredentialsError):
            await aws.call("dynamodb", "get_item", **ASKED)
        aws.close()
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = PROFILE\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    server = Server(whole(b"{}"), close=True)
    async with server.listening() as url:
        aws = Aws(REGION, url)
        await aws.call("dynamodb", "get_item", **ASKED)
        aws.close()
    assert signed_by(server) == ["PROFILE"]
