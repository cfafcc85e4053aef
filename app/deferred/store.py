"""Items of the state table, objects of the documents bucket and messages of the queue, as deferral uses them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from app.aws import Aws, error_code
from app.errors import ApiError
from app.ledger.table import Write

if TYPE_CHECKING:
    from app.services import Services

Value = str | int
Item = dict[str, Value]
"""The attributes of an item, `pk` and `sk` among them."""

MOST_DELAY_SECONDS = 900  # SQS's own bound
_GONE = frozenset({"NoSuchKey", "404"})
_REFUSED = frozenset({"ConditionalCheckFailedException"})


class Store:
    """Every method raises ApiError 503 `service_unavailable` when AWS does not answer."""

    def __init__(self, aws: Aws, *, table: str, bucket: str, queue_url: str) -> None:
        self._aws = aws
        self._table = table
        self._bucket = bucket
        self._queue_url = queue_url

    async def get(self, pk: str, sk: str) -> Item | None:
        """One item as it is now."""
        found = await self._table_call("get_item", Key=_encoded({"pk": pk, "sk": sk}), ConsistentRead=True)
        return _decoded(found["Item"]) if "Item" in found else None

    async def put(self, item: Item, *, new: bool = False) -> bool:
        """Write an item; False when it has to be `new` and is not."""
        put_it = self.putting(item, new=new)["Put"]
        return await self._call("dynamodb", "put_item", expected=_REFUSED, **put_it) is not None

    async def update(
        self,
        pk: str,
        sk: str,
        when: str,
        given: Mapping[str, Value],
        change: Mapping[str, Value | None],
        add: Mapping[str, int] | None = None,
    ) -> bool:
        """Change an item while `when` holds, and say whether it did.

        `when` is a condition with `#name` for attributes and `:name` for `given` values. None removes an attribute.
        """
        change_it = self.changing(pk, sk, when, given, change, add)["Update"]
        return await self._call("dynamodb", "update_item", expected=_REFUSED, **change_it) is not None

    def putting(self, item: Item, *, new: bool = False) -> Write:
        """`put` as part of a transaction, which fails where `put` says False."""
        condition = {"ConditionExpression": "attribute_not_exists(pk)"} if new else {}
        return {"Put": {"TableName": self._table, "Item": _encoded(item), **condition}}

    def changing(
        self,
        pk: str,
        sk: str,
        when: str,
        given: Mapping[str, Value],
        change: Mapping[str, Value | None],
        add: Mapping[str, int] | None = None,
    ) -> Write:
        """`update` as part of a transaction."""
        sets = [f"#{name} = :new_{name}" for name, value in change.items() if value is not None]
        removes = [f"#{name}" for name, value in change.items() if value is None]
        adds = [f"#{name} :add_{name}" for name in add or {}]
        clauses = (("SET", sets), ("REMOVE", removes), ("ADD", adds))
        expression = " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses if parts)
        values = {f":{name}": value for name, value in given.items()}
        values |= {f":new_{name}": value for name, value in change.items() if value is not None}
        values |= {f":add_{name}": value for name, value in (add or {}).items()}
        return {
            "Update": {
                "TableName": self._table,
                "Key": _encoded({"pk": pk, "sk": sk}),
                "UpdateExpression": expression,
                "ConditionExpression": when,
                "ExpressionAttributeNames": {
                    f"#{name}": name for name in re.findall(r"#(\w+)", f"{when} {expression}")
                },
                "ExpressionAttributeValues": _encoded(values),
            }
        }

    async def delete(self, pk: str, sk: str) -> None:
        """Remove an item; doing it again is no error."""
        await self._table_call("delete_item", Key=_encoded({"pk": pk, "sk": sk}))

    async def between(self, pk: str, first: str, last: str, limit: int) -> list[Item]:
        """Up to `limit` items of a partition, by their sort key from `first` to `last`."""
        query: dict[str, Any] = {
            "ConsistentRead": True,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": _encoded({":pk": pk, ":first": first, ":last": last}),
        }
        items: list[Item] = []
        while True:
            found = await self._table_call("query", Limit=limit - len(items), **query)
            items += map(_decoded, found["Items"])
            if "LastEvaluatedKey" not in found or len(items) >= limit:
                return items
            query["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    async def write(self, key: str, body: bytes) -> None:
        """Keep an object."""
        await self._call("s3", "put_object", Bucket=self._bucket, Key=key, Body=body, ContentType="application/json")

    async def read(self, key: str) -> bytes | None:
        """An object, None when there is none."""
        answer = await self._call("s3", "get_object", expected=_GONE, Bucket=self._bucket, Key=key)
        return None if answer is None else bytes(await self._aws.run(answer["Body"].read))

    async def erase(self, *keys: str) -> None:
        """Remove objects; doing it again is no error."""
        for key in keys:
            await self._call("s3", "delete_object", Bucket=self._bucket, Key=key)

    async def send(self, message: Mapping[str, Value], delay_seconds: float) -> None:
        """Put a message into the queue, to be delivered after so many seconds."""
        body = orjson.dumps(message).decode()
        delay = min(max(0, round(delay_seconds)), MOST_DELAY_SECONDS)
        await self._call("sqs", "send_message", QueueUrl=self._queue_url, MessageBody=body, DelaySeconds=delay)

    async def _table_call(self, operation: str, **parameters: Any) -> Any:
        return await self._call("dynamodb", operation, expected=_REFUSED, TableName=self._table, **parameters)

    async def _call(self, service: str, operation: str, *, expected: Collection[str] = (), **parameters: Any) -> Any:
        """One AWS operation; None when it fails with an expected code."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await self._aws.call(service, operation, **parameters)
        except (BotoCoreError, ClientError) as error:
            if error_code(error) in expected:
                return None
            message = f"Deferred requests cannot be reached just now ({error_code(error)}); try again."
            raise ApiError("service_unavailable", message, headers={"retry-after": "1"}) from error


def store_of(services: Services) -> Store:
    """The stores that the settings name."""
    settings = services.settings
    return Store(
        services.aws, table=settings.state_table, bucket=settings.documents_bucket, queue_url=settings.queue_url
    )


def _encoded(item: Mapping[str, Value]) -> dict[str, dict[str, str]]:
    return {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in item.items()}


def _decoded(item: Mapping[str, Mapping[str, str]]) -> Item:
    return {name: value["S"] if "S" in value else int(value["N"]) for name, value in item.items()}
