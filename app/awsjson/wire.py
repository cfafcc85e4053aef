"""What stands in a request and in an answer of AWS's JSON protocol. Nothing here waits."""

from __future__ import annotations

import base64
import http.client
import uuid
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.exceptions import ClientError

Answer = dict[str, Any]
OK, SERVER_ERROR = 200, 500
MAX_TEXT = 200
"""Bytes of an answer that is none of AWS's."""
MOST_KEYS = 100
"""In one BatchGetItem, by its own bound."""
_TOKEN = "ClientRequestToken"  # noqa: S105 - it makes a repeated transaction one


@dataclass(frozen=True, slots=True)
class Service:
    """A service whose operations are asked here."""

    name: str
    """As in its address and in a signature."""
    target: str
    """What stands before an operation's name in `X-Amz-Target`."""
    content_type: str
    operations: Mapping[str, str]
    """Those that the app uses: Python's name -> AWS's."""
    once: frozenset[str] = frozenset()
    """Operations that take a token, by which AWS knows the second of two equal requests."""


DYNAMODB = Service(
    "dynamodb",
    "DynamoDB_20120810",
    "application/x-amz-json-1.0",
    {
        "batch_get_item": "BatchGetItem",
        "delete_item": "DeleteItem",
        "get_item": "GetItem",
        "put_item": "PutItem",
        "query": "Query",
        "transact_write_items": "TransactWriteItems",
        "update_item": "UpdateItem",
    },
    frozenset({"transact_write_items"}),
)
SECRETS_MANAGER = Service(
    "secretsmanager", "secretsmanager", "application/x-amz-json-1.1", {"get_secret_value": "GetSecretValue"}
)
SERVICES = {service.name: service for service in (DYNAMODB, SECRETS_MANAGER)}


def request_body(service: Service, operation: str, parameters: Answer) -> bytes:
    """The parameters of an operation as AWS reads them; raises TypeError for what has no form there."""
    if operation in service.once:
        parameters = {_TOKEN: str(uuid.uuid4()), **parameters}
    return orjson.dumps(parameters, default=_packed)


def answer(operation: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What a whole HTTP answer says. Raises botocore's ClientError, ChecksumError and HTTPClientError."""
    _check(headers, body)
    if status != OK:
        raise failure(operation, status, headers, body)
    try:
        document = orjson.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        from botocore.exceptions import HTTPClientError

        raise HTTPClientError(error=f"what {operation} was answered is no JSON object")
    if b'"B"' in body or b'"BS"' in body:
        unpack(document)
    document["ResponseMetadata"] = _metadata(status, headers)
    return document


def unpack(value: Any) -> None:
    """Turn the text of binary attributes (`{"B": "..."}`, `{"BS": ["..."]}`) into bytes, at any depth, in place.

    No name of an attribute is taken for one: under such a name there is no text and no list of it but a dictionary.
    """
    if isinstance(value, list):
        for one in value:
            unpack(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "B" and isinstance(one, str):
                value[name] = base64.b64decode(one)
            elif name == "BS" and isinstance(one, list):
                value[name] = [base64.b64decode(text) for text in one]
            elif isinstance(one, dict | list):
                unpack(one)


def failure(operation: str, status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
    """The error of an answer, as botocore makes it: code, message and what else DynamoDB tells, as `Item` and
    `CancellationReasons`."""
    from botocore.exceptions import ClientError

    try:
        said = orjson.loads(body)
    except ValueError:
        said = None
    response: dict[str, Any] = {}
    if isinstance(said, dict):
        unpack(said)
        code = str(said.pop("__type", status)).partition(":")[0].rpartition("#")[2]
        message = said.pop("message", None) or said.pop("Message", "")
        response |= said
    else:  # a page of something between here and AWS, or nothing
        code, message = str(status), _phrase(status, body)
    response["Error"] = {"Message": message, "Code": code}
    response["ResponseMetadata"] = _metadata(status, headers)
    made: Any = ClientError
    error: ClientError = made(response, operation)
    return error


def _phrase(status: int, body: bytes) -> str:
    """In the place of AWS's message; of a server's own page nothing is told."""
    return http.client.responses.get(status, "") if status >= SERVER_ERROR else body[:MAX_TEXT].decode(errors="replace")


def _check(headers: Mapping[str, str], body: bytes) -> None:
    """DynamoDB says the sum of what it sent."""
    said = headers.get("x-amz-crc32")
    if said is None:
        return
    found = str(zlib.crc32(body))
    if said != found:
        from botocore.exceptions import ChecksumError

        raise ChecksumError(checksum_type="crc32", expected_checksum=said, actual_checksum=found)


def _metadata(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    return {"RequestId": headers.get("x-amzn-requestid", ""), "HTTPStatusCode": status, "HTTPHeaders": dict(headers)}


def _packed(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError  # orjson says of what
