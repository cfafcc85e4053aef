"""A state table of a test's own: what is held or degraded in it must not reach other tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.conftest import CloudParts


@pytest.fixture
def client(cloud: CloudParts) -> Any:
    return cloud.client("dynamodb")


@pytest.fixture
def table(client: Any) -> Iterator[str]:
    name = f"state-{secrets.token_hex(4)}"
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    yield name
    client.delete_table(TableName=name)
