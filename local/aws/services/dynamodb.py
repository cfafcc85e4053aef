"""DynamoDB. moto keeps tables and items; it forgets throughput limits of on-demand tables.

CreateTable, UpdateTable, DescribeTable    answer OnDemandThroughput and WarmThroughput as sent
DeleteTable                                forgets them
TransactWriteItems                         takes as long in a table of thousands of items as in an empty one; without
                                           it deferred requests time out there
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table

from local.aws.call import Call, Record
from local.aws.registry import api

SERVICE = "dynamodb"


def _name(table: str) -> str:
    return table.rsplit("/", 1)[-1]


@api(SERVICE, "CreateTable", "UpdateTable")
def put_table(call: Call) -> Record:
    """CreateTable, UpdateTable."""
    answer = call.moto()
    kept = call.table("throughput").setdefault(_name(call["TableName"]), {})
    kept.update(call.pick("OnDemandThroughput"))
    if call.get("WarmThroughput"):
        kept["WarmThroughput"] = {**call["WarmThroughput"], "Status": "ACTIVE"}
    return _described(call, answer, "TableDescription")


@api(SERVICE, "DescribeTable")
def describe_table(call: Call) -> Record:
    """DescribeTable."""
    return _described(call, call.moto(), "Table")


@api(SERVICE, "DeleteTable")
def delete_table(call: Call) -> Record:
    """DeleteTable."""
    answer = call.moto()
    call.table("throughput").pop(_name(call["TableName"]), None)
    return answer


@api(SERVICE, "TransactWriteItems")
def transact(call: Call) -> Record:
    """TransactWriteItems. To take a refused one back moto copies the whole table, once for each of its writes."""
    tables = dynamodb_backends[call.account][call.region].tables
    writes = [write for part in call["TransactItems"] for write in part.values()]
    touched = [
        _place(tables[name], write.get("Key") or write["Item"])
        for write in writes
        if (name := _name(write["TableName"])) in tables
    ]
    before = [(row, key, copy.deepcopy(row.get(key))) for row, key in touched]
    try:
        with _tables_not_copied():
            return call.moto()
    except BaseException:
        for row, key, item in before:
            if item is None:
                row.pop(key, None)
            else:
                row[key] = item
        raise


def _place(table: Any, attributes: Record) -> tuple[dict[Any, Any], Any]:
    """The dictionary of moto's that has an item of that key, and the item's name in it."""
    name = DynamoType(attributes[table.hash_key_attr])
    if not table.has_range_key:
        return table.items, name
    return table.items[name], DynamoType(attributes[table.range_key_attr])


@contextlib.contextmanager
def _tables_not_copied() -> Iterator[None]:
    """Requests run one by one: nobody else misses a copy meanwhile."""
    Table.__deepcopy__ = lambda self, _: self
    try:
        yield
    finally:
        del Table.__deepcopy__


def _described(call: Call, answer: Record, member: str) -> Record:
    answer[member].update(call.table("throughput").get(answer[member]["TableName"], {}))
    return answer
