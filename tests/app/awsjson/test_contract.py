"""Each operation that the app uses, asked of the same emulated AWS by our own client and by botocore's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import botocore.config
import botocore.session
import pytest
from botocore.exceptions import ClientError

from app.aws import Aws
from app.awsjson import client as client_module
from app.awsjson.wire import DYNAMODB, SERVICES
from local.children import ROOT
from tests.app.conftest import REGION, CloudParts

pytestmark = pytest.mark.process
OURS, THEIRS = "contract-ours", "contract-boto"

Steps = list[tuple[str, dict[str, Any]]]
KEY = {"pk": {"S": "B"}, "sk": {"S": "BS"}}
EVERYTHING = {
    **KEY,
    "n": {"N": "-12.5"},
    "b": {"B": b"\x00\xff"},
    "B": {"B": b"named as its type"},
    "BS": {"BS": [b"one", b"two"]},
    "m": {"M": {"B": {"S": "no bytes"}, "BS": {"L": [{"B": b"deep"}, {"BOOL": True}, {"NULL": True}]}}},
    "ss": {"SS": ["a", "é"]},
}


def steps(table: str) -> Steps:
    """Every operation of the app, with answers and with refusals of every kind."""
    named: dict[str, Any] = {"TableName": table}
    other = {"pk": {"S": "other"}, "sk": {"S": "1"}}
    refused = {**named, "Key": KEY, "ConditionExpression": "n = :n", "ExpressionAttributeValues": {":n": {"N": "1"}}}
    shown = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    change = {"UpdateExpression": "SET x = :n"}
    changed = {**named, "Key": KEY, **change, "ExpressionAttributeValues": {":n": {"N": "7"}}}
    broken = {**refused, **change, **shown}
    some = [{**other, "sk": {"S": f"1{letter}"}} for letter in "abc"]
    more = {**other, "sk": {"S": "2"}}
    absent = {"ConditionExpression": "attribute_not_exists(pk)"}
    first_of = {
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :sk)",
        "ExpressionAttributeValues": {":pk": {"S": "other"}, ":sk": {"S": "1"}},
        "ConsistentRead": True,
    }
    return [
        ("put_item", {**named, "Item": EVERYTHING}),
        ("put_item", {**named, "Item": EVERYTHING, **absent}),
        ("get_item", {**named, "Key": KEY, "ConsistentRead": True}),
        ("get_item", {**named, "Key": other}),
        ("get_item", {"TableName": "absent", "Key": KEY}),
        ("get_item", {**named, "Key": {"pk": {"S": "half a key"}}}),
        ("update_item", changed),
        ("update_item", broken),
        ("update_item", {**named, "Key": KEY, "UpdateExpression": "SET nonsense"}),
        ("update_item", {**named, "Key": KEY, "UpdateExpression": "REMOVE x", "ReturnValues": "ALL_NEW"}),
        *(("put_item", {**named, "Item": one}) for one in some),
        ("batch_get_item", {"RequestItems": {table: {"Keys": [KEY, some[0]], "ConsistentRead": True}}}),
        ("query", {**named, **first_of, "Limit": 2}),
        ("query", {**named, **first_of}),
        ("transact_write_items", {"TransactItems": [{"Put": {**named, "Item": other}}, {"Update": changed}]}),
        ("transact_write_items", {"TransactItems": [{"Put": {**named, "Item": more}}, {"Update": broken}]}),
        ("delete_item", {**refused, **shown}),
        ("delete_item", {**named, "Key": KEY, "ReturnValues": "ALL_OLD"}),
    ]


@pytest.fixture(scope="module")
def boto(cloud: CloudParts) -> Callable[[str], Any]:
    """botocore's own clients, which try once."""
    session = botocore.session.Session()
    config = botocore.config.Config(retries={"mode": "standard", "total_max_attempts": 1})
    return lambda name: session.create_client(name, region_name=REGION, endpoint_url=cloud.url, config=config)


@pytest.fixture
def tables(boto: Callable[[str], Any]) -> Iterator[None]:
    dynamodb = boto("dynamodb")
    for name in (OURS, THEIRS):
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )
    yield
    for name in (OURS, THEIRS):
        dynamodb.delete_table(TableName=name)


def outcome(found: Any) -> tuple[Any, ...]:
    """All that a caller can see, but for the words in which AWS's HTTP said it."""
    if isinstance(found, ClientError):
        return ("refused", found.operation_name, *outcome(found.response))
    status = found["ResponseMetadata"]["HTTPStatusCode"]
    left_out = ("ResponseMetadata", "CreatedDate", "message", "Message")  # an error's message is in its Error as well
    named = {name: value for name, value in found.items() if name not in left_out}
    return status, anonymous(named)


def anonymous(value: Any) -> Any:
    """The same, of whichever table it is."""
    if isinstance(value, dict):
        return {anonymous(name): anonymous(one) for name, one in value.items()}
    if isinstance(value, list):
        return [anonymous(one) for one in value]
    return value.replace(OURS, "T").replace(THEIRS, "T") if isinstance(value, str) else value


async def theirs(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
    try:
        return await asyncio.to_thread(getattr(client, operation), **parameters)
    except ClientError as error:
        return error


async def ours(aws: Aws, service: str, operation: str, parameters: dict[str, Any]) -> Any:
    try:
        return await aws.call(service, operation, **parameters)
    except ClientError as error:
        return error


@pytest.mark.usefixtures("tables")
async def test_dynamodb_answers_and_refuses_as_botocore_tells_it(aws: Aws, boto: Callable[[str], Any]) -> None:
    client = boto("dynamodb")
    seen = set()
    for (operation, own), (_, other) in zip(steps(OURS), steps(THEIRS), strict=True):
        found = outcome(await ours(aws, "dynamodb", operation, own))
        assert found == outcome(await theirs(client, operation, other)), operation
        seen.add((operation, found[0] == "refused"))
    assert not aws._clients, "a client of botocore's would have been asked in a thread"
    assert {operation for operation, _ in seen} == set(DYNAMODB.operations)
    assert len([1 for _, refused in seen if refused]) >= 5


async def test_a_secret_is_told_as_botocore_tells_it(aws: Aws, boto: Callable[[str], Any]) -> None:
    client = boto("secretsmanager")
    made = client.create_secret(Name="contract", SecretString="é")
    empty = client.create_secret(Name="contract-empty")
    for name in (made["ARN"], empty["ARN"], "absent"):
        given = {"SecretId": name}
        found = outcome(await ours(aws, "secretsmanager", "get_secret_value", given))
        assert found == outcome(await theirs(client, "get_secret_value", given))
    assert not aws._clients


def test_what_the_app_asks_of_these_services_is_asked_by_this_client() -> None:
    words: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        if path.parent.name != "awsjson":
            words |= set(re.findall(r'"([a-z]+(?:_[a-z]+)+|query)"', path.read_text()))
    session = botocore.session.Session()
    for service in SERVICES.values():
        model = session.get_service_model(service.name)
        names = {botocore.xform_name(name): name for name in model.operation_names}
        assert {name: names[name] for name in words & names.keys()} == dict(service.operations)
        assert f"{model.metadata['targetPrefix']}.1" == f"{service.target}.1"
        assert service.content_type.endswith(model.metadata["jsonVersion"])
        tokens = {
            botocore.xform_name(name)
            for name in service.operations.values()
            if (shape := model.operation_model(name).input_shape)
            and any(member.metadata.get("idempotencyToken") for member in shape.members.values())
        }
        assert tokens == service.once


def test_a_service_is_reached_where_botocore_reaches_it() -> None:
    session = botocore.session.Session()
    session.set_credentials("a", "b")
    regions = {
        region for part in ("aws", "aws-cn", "aws-us-gov") for region in session.get_available_regions("dynamodb", part)
    }
    assert {"us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"} <= regions
    for name in SERVICES:
        for region in regions:
            made = session.create_client(name, region_name=region)
            assert client_module._address(name, region, session) == made.meta.endpoint_url
