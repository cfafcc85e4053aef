from __future__ import annotations

import datetime
from dataclasses import replace
from unittest import mock

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from app.aws import Aws
from app.settings import Settings
from app.valkey import cache_token
from app.valkey.cache_token import iam_token, is_serverless

NAMES = st.from_regex(r"\A[a-z][a-z0-9-]{0,39}\Z")
SECRETS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=", min_size=1, max_size=60)


@given(NAMES, NAMES, SECRETS, SECRETS, st.none() | SECRETS, st.booleans(), st.integers(0, 4_000_000_000))
def test_the_token_is_the_one_that_botocore_signs(
    cache: str, user: str, access: str, secret: str, session: str | None, serverless: bool, now: int
) -> None:
    token = iam_token(
        cache_name=cache,
        user=user,
        region="us-west-2",
        serverless=serverless,
        access_key=access,
        secret_key=secret,
        session_token=session,
        now=now,
    )
    query = {"Action": "connect", "User": user} | ({"ResourceType": "ServerlessCache"} if serverless else {})
    request = AWSRequest("GET", f"http://{cache}/", params=query)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    signer = SigV4QueryAuth(Credentials(access, secret, session), "elasticache", "us-west-2", expires=900)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        signer.add_auth(request)
    expected = str(request.url).removeprefix("http://")
    assert token.split("/?")[0] == expected.split("/?")[0] == cache
    assert sorted(token.split("?")[1].split("&")) == sorted(expected.split("?")[1].split("&"))


def test_only_a_serverless_address_is_serverless() -> None:
    assert is_serverless("prodkit-abc123.serverless.use1.cache.amazonaws.com")
    assert not is_serverless("master.prodkit.abc123.use1.cache.amazonaws.com")


@pytest.mark.process
async def test_a_token_is_signed_again_well_before_it_expires(
    settings: Settings, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_token.TOKEN_REFRESH_SECONDS + 60 < cache_token.TOKEN_SECONDS <= 900
    now = 1_000.0
    monkeypatch.setattr("app.valkey.cache_token.time.monotonic", lambda: now)
    monkeypatch.setattr("app.valkey.cache_token.time.time", lambda: 1_800_000_000 + now)
    provider = cache_token.token_provider(replace(settings, cache_user="app", cache_name="main"), aws)
    user, first = await provider.get_credentials_async()
    assert user == "app"
    assert first.startswith("main/?Action=connect&User=app&")
    now += cache_token.TOKEN_REFRESH_SECONDS
    assert await provider.get_credentials_async() == (user, first)
    now += 1
    assert (await provider.get_credentials_async())[1] != first
