from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from app import aws as module
from app.aws import Aws, error_code
from tests.app.conftest import CloudParts, free_port


@pytest.mark.process
async def test_a_client_is_made_once_whoever_asks_first(aws: Aws) -> None:
    made: list[Any] = []
    threads = [threading.Thread(target=lambda: made.append(aws.client("dynamodb"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len({id(client) for client in made}) == 1


@pytest.mark.process
async def test_an_operation_gives_its_answer_or_its_error(aws: Aws, cloud: CloudParts) -> None:
    await aws.call("s3", "put_object", Bucket="documents", Key="a", Body=b"text")
    read = await aws.run(lambda: aws.client("s3").get_object(Bucket="documents", Key="a")["Body"].read())
    assert read == b"text"
    with pytest.raises(ClientError) as caught:
        await aws.call("s3", "get_object", Bucket="documents", Key="absent")
    assert error_code(caught.value) == "NoSuchKey"


@pytest.mark.process
async def test_waits_are_short_and_attempts_few(aws: Aws) -> None:
    for service, seconds in module.READ_SECONDS.items():
        config = aws.client(service).meta.config
        assert (config.connect_timeout, config.read_timeout) == (1.0, seconds)
        assert config.retries["total_max_attempts"] == 2
    assert module.READ_SECONDS["sqs"] > 20
    assert aws.client("kms").meta.config.read_timeout == module.DEFAULT_READ_SECONDS


async def test_an_aws_that_is_away_is_an_error_with_a_name() -> None:
    clients = Aws("us-east-1", f"http://127.0.0.1:{free_port()}")
    some = mock.patch.dict("os.environ", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    with some, pytest.raises(EndpointConnectionError) as caught:
        await clients.call("dynamodb", "list_tables")
    assert error_code(caught.value) == "EndpointConnectionError"
    clients.close()


def test_no_credentials_is_said_plainly() -> None:
    clients = Aws("us-east-1")
    none = mock.patch("botocore.session.Session.get_credentials", return_value=None)
    with none, pytest.raises(RuntimeError, match="no AWS credentials"):
        clients.credentials()
    clients.close()


def test_heavy_libraries_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys, app.services; heavy = ('boto3', 'botocore', 'redis', 'yaml', 'numpy', 'openai', 'jsonschema');"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
