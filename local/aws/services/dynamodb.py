"""DynamoDB. moto keeps tables and items; it forgets throughput limits of on-demand tables.

CreateTable, UpdateTable, DescribeTable    answer OnDemandThroughput and WarmThroughput as sent
DeleteTable                                forgets them
"""

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


def _described(call: Call, answer: Record, member: str) -> Record:
    answer[member].update(call.table("throughput").get(answer[member]["TableName"], {}))
    return answer
