"""`python -m benchmarks.calls`: CPU time of one DynamoDB call of a replica, as it is made and by boto3 in a thread."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from app.aws import Aws
from app.serving.server import GC_THRESHOLDS, SWITCH_SECONDS
from benchmarks.world import REGION
from local.children import Children, base_environment, python

CALLS = 300
ROUNDS = 7
TABLE = "state"
KEY = {"pk": {"S": "CONTROL"}, "sk": {"S": "BUDGETS"}}
ASKED: dict[str, Any] = {"TableName": TABLE, "Key": KEY, "ConsistentRead": True}


async def measure() -> tuple[float, float]:
    """Microseconds of CPU time of this process for a GetItem: over our connections, and by boto3 in a thread."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    async with Children() as children:
        emulated = await children.announced("aws", python("local.aws", "--port", "0"), base_environment())
        aws = Aws(REGION, emulated.announced["url"])
        try:
            client = await aws.run(lambda: _table(aws))
            return await _least(lambda: aws.call("dynamodb", "get_item", **ASKED)), await _least(
                lambda: aws.run(lambda: client.get_item(**ASKED))
            )
        finally:
            aws.close()


def _table(aws: Aws) -> Any:
    """A client of boto3's, and the table."""
    client = aws.client("dynamodb")
    client.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    client.put_item(TableName=TABLE, Item=KEY)
    return client


async def _least(call: Callable[[], Awaitable[Any]]) -> float:
    """Of a few rounds, as what the machine's neighbours add is never negative; the collector as a replica sets it."""
    await call()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            await call()
        found.append((time.process_time() - began) / CALLS * 1e6)
    return min(found)


def main() -> None:
    """Print both."""
    sys.setswitchinterval(SWITCH_SECONDS)
    own, boto = uvloop.run(measure())
    sys.stdout.write(f"a GetItem: {own:.0f} us of CPU time; by boto3 in a thread: {boto:.0f} us\n")


if __name__ == "__main__":
    main()
