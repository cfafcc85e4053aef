from __future__ import annotations

import asyncio
import logging
import secrets

import pytest

from app import secret
from app.aws import Aws
from app.secret import OpenAIKey, parse_key
from tests.app.conftest import CloudParts, free_port
from tests.app.counting import Clock, CountingAws

FIRST, SECOND = "sk-" + "a" * 40, "sk-" + "b" * 40


@pytest.fixture
def arn(cloud: CloudParts) -> str:
    """A secret that has no value yet."""
    client = cloud.client("secretsmanager")
    return str(client.create_secret(Name=f"key-{secrets.token_hex(8)}")["ARN"])


@pytest.fixture
def aws(cloud: CloudParts) -> CountingAws:
    return CountingAws("us-east-1", cloud.url)


def put(cloud: CloudParts, arn: str, value: str) -> None:
    cloud.client("secretsmanager").put_secret_value(SecretId=arn, SecretString=value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (FIRST, FIRST),
        (f"  {FIRST}\n", FIRST),
        (f'{{"api_key": "{FIRST}", "key_id": "key_1"}}', FIRST),
        ('{"api_key": 3}', None),
        ('{"key": "x"}', None),
        ("{broken", None),
        ("", None),
        (None, None),
        ("two words", None),
        ("sk-a\r\nx-injected: 1", None),
        ("k" * 1025, None),
    ],
)
def test_a_secret_is_the_key_or_json_with_the_key(text: str | None, key: str | None) -> None:
    assert parse_key(text) == key


@pytest.mark.process
async def test_before_a_key_is_set_there_is_none_and_it_is_seen_soon_after(
    aws: CountingAws, cloud: CloudParts, arn: str
) -> None:
    clock = Clock()
    key = OpenAIKey(aws, arn, clock=clock)
    assert await key.get() is None
    assert not key.is_set
    put(cloud, arn, FIRST)
    assert await key.get() is None
    assert aws.calls == 1
    clock.now += secret.MISSING_SECONDS + 0.1
    assert await key.get() == FIRST
    assert key.is_set


@pytest.mark.process
async def test_a_secret_that_does_not_exist_is_a_missing_key(aws: CountingAws) -> None:
    assert await OpenAIKey(aws, "arn:aws:secretsmanager:us-east-1:123456789012:secret:absent-a1b2c3").get() is None


@pytest.mark.process
async def test_a_rotated_key_is_read_by_age_without_a_wait(aws: CountingAws, cloud: CloudParts, arn: str) -> None:
    clock = Clock()
    put(cloud, arn, FIRST)
    key = OpenAIKey(aws, arn, clock=clock)
    assert await key.get() == FIRST
    put(cloud, arn, f'{{"api_key": "{SECOND}"}}')
    clock.now += secret.REFRESH_SECONDS
    assert await key.get() == FIRST
    assert aws.calls == 1
    clock.now += 0.1
    assert await key.get() == FIRST
    assert key._reading is not None
    await key._reading
    assert await key.get() == SECOND


@pytest.mark.process
async def test_after_a_long_silence_the_key_is_read_before_use(aws: CountingAws, cloud: CloudParts, arn: str) -> None:
    clock = Clock()
    put(cloud, arn, FIRST)
    key = OpenAIKey(aws, arn, clock=clock)
    assert await key.get() == FIRST
    put(cloud, arn, SECOND)
    clock.now += secret.STALE_SECONDS + 0.1
    assert await key.get() == SECOND


@pytest.mark.process
async def test_a_hundred_refusals_of_one_key_read_once(aws: CountingAws, cloud: CloudParts, arn: str) -> None:
    clock = Clock()
    put(cloud, arn, FIRST)
    key = OpenAIKey(aws, arn, clock=clock)
    assert await key.get() == FIRST
    put(cloud, arn, SECOND)
    clock.now += secret.REFRESH_PAUSE_SECONDS + 0.1
    assert set(await asyncio.gather(*(key.refresh(FIRST) for _ in range(100)))) == {SECOND}
    assert aws.calls == 2
    assert await key.refresh(FIRST) == SECOND
    assert aws.calls == 2


@pytest.mark.process
async def test_a_dead_key_is_no_storm_of_reads(aws: CountingAws, cloud: CloudParts, arn: str) -> None:
    clock = Clock()
    put(cloud, arn, FIRST)
    key = OpenAIKey(aws, arn, clock=clock)
    await key.get()
    for _ in range(10):
        clock.now += 1
        assert await key.refresh(FIRST) == FIRST
    assert aws.calls == 2


@pytest.mark.process
async def test_secrets_manager_away_keeps_the_last_key_and_shows_none(
    aws: CountingAws, cloud: CloudParts, arn: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    put(cloud, arn, FIRST)
    key = OpenAIKey(aws, arn, clock=clock)
    await key.get()
    key._aws = Aws("us-east-1", f"http://127.0.0.1:{free_port()}")
    clock.now += secret.STALE_SECONDS + 0.1
    with caplog.at_level(logging.DEBUG, logger="app"):
        assert await key.get() == FIRST
    assert "EndpointConnectionError" in repr([record.__dict__ for record in caplog.records])
    assert FIRST not in repr([record.__dict__ for record in caplog.records]) + repr(key) + repr(vars(Aws))
