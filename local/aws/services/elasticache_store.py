"""Rows of ElastiCache's tables. Everything is available at once and gone at once: a provider that finds "creating" or
"deleting" sleeps for half a minute."""

from typing import Final

from local.aws.call import AwsError, Call, Record
from local.aws.tags import mapping

SERVICE: Final = "elasticache"
VERSIONS: Final = {"valkey": "8.0.1", "redis": "7.1.0"}
"""Engine -> version that AWS takes when none was asked for."""
_EXISTS = {
    "subnet groups": "CacheSubnetGroupAlreadyExists",
    "replication groups": "ReplicationGroupAlreadyExistsFault",
    "serverless caches": "ServerlessCacheAlreadyExistsFault",
    "users": "UserAlreadyExists",
    "user groups": "UserGroupAlreadyExists",
}


def create(call: Call, table: str, key: str, record: Record, path: str) -> Record:
    """Keep a new record under its key, with its ARN and tags; refused when there is one."""
    if key in call.table(table):
        raise AwsError(_EXISTS[table], f"{key} already exists")
    record["ARN"] = call.arn(f"{path}:{key}")
    call.table(table)[key] = record
    call.tags(record["ARN"]).update(mapping(call.get("Tags")))
    return record


def delete(call: Call, table: str, key: str, code: str) -> Record:
    """Forget a record and its tags, and return it; refused with the code when there is none."""
    record = call.find(table, key, code)
    del call.table(table)[key]
    call.table("tags").pop(record["ARN"], None)
    return record


def described(call: Call, table: str, parameter: str, code: str) -> list[Record]:
    """The record that the parameter names, or all of the table when it was not sent."""
    key = call.get(parameter)
    return [call.find(table, key, code)] if key else list(call.table(table).values())
