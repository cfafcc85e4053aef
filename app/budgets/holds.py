"""Hold a scope and release it: the kill switch as it is written, with who and why on record."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.aws import error_code
from app.budgets.control import CONTROL_KEY, Control, Hold, read_control

MAX_HOLDS = 500  # the item is read each second by every replica: it stays a few KB
MAX_BY, MAX_WHY = 100, 300  # characters
AUDIT_PK = {"S": "AUDIT#BUDGETS"}


@dataclass(frozen=True, slots=True)
class Audit:
    """One change, as it was recorded."""

    at: str
    action: str
    scope: str
    by: str
    why: str
    detail: Mapping[str, Any]


def hold(client: Any, table: str, scope: str, by: str, why: str, *, now: float) -> Hold:
    """Stop a scope's spending on every replica; returns the hold, the earlier one when it was held already.

    `client` is a boto3 DynamoDB client. Raises ValueError for a bad `by` or `why` and when MAX_HOLDS are held, and
    botocore's errors.
    """
    check_words(by, why)
    made = Hold(by, why, moment(now))
    _ensure(client, table)
    entry = {"M": {"by": {"S": made.by}, "why": {"S": made.why}, "at": {"S": made.at}}}
    update = {
        "UpdateExpression": "SET holds.#s = :h",
        "ConditionExpression": "attribute_not_exists(holds.#s) AND size(holds) < :most",
        "ExpressionAttributeNames": {"#s": scope},
        "ExpressionAttributeValues": {":h": entry, ":most": {"N": str(MAX_HOLDS)}},
    }
    if _change(client, table, update, "hold", scope, by, why, {}, now):
        return made
    held = read(client, table).holds
    if scope in held:
        return held[scope]
    raise ValueError(f"{MAX_HOLDS} scopes are held already; release some, or hold org, which stops everything")


def release(client: Any, table: str, scope: str, by: str, why: str, *, now: float) -> None:
    """Let a scope spend again; raises LookupError when it was not held, else as `hold`."""
    check_words(by, why)
    _ensure(client, table)
    update = {
        "UpdateExpression": "REMOVE holds.#s",
        "ConditionExpression": "attribute_exists(holds.#s)",
        "ExpressionAttributeNames": {"#s": scope},
    }
    if not _change(client, table, update, "release", scope, by, why, {}, now):
        held = ", ".join(sorted(read(client, table).holds)) or "nothing"
        raise LookupError(f"{scope} is not held; held is {held}")


def read(client: Any, table: str) -> Control:
    """The switches as they are now."""
    answer = client.get_item(TableName=table, Key=CONTROL_KEY, ConsistentRead=True)
    return read_control(answer.get("Item", {}))


def history(client: Any, table: str, *, most: int) -> list[Audit]:
    """The latest changes of holds and budgets, newest first."""
    answer = client.query(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": AUDIT_PK},
        ScanIndexForward=False,
        Limit=most,
        ConsistentRead=True,
    )
    return [_audit({name: value["S"] for name, value in item.items()}) for item in answer["Items"]]


def audit_put(
    table: str, action: str, scope: str, by: str, why: str, detail: Mapping[str, Any], *, now: float
) -> dict[str, Any]:
    """The write of an audit record, for a transaction with what it is about."""
    # Milliseconds and a random end: two changes of one moment are two records.
    place = f"{int(now * 1000):014d}#{secrets.token_hex(4)}"
    texts = {"at": moment(now), "action": action, "scope": scope, "by": by, "why": why, "detail": json.dumps(detail)}
    item = {"pk": AUDIT_PK, "sk": {"S": place}, **{name: {"S": text} for name, text in texts.items()}}
    return {"Put": {"TableName": table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}


def check_words(by: str, why: str) -> None:
    """Raises ValueError unless both say something, printable and of bounded length."""
    for name, text, most in (("by", by, MAX_BY), ("why", why, MAX_WHY)):
        if not text.strip() or len(text) > most or not text.isprintable():
            raise ValueError(
                f"{name}={text[:40]!r} is not 1 to {most} printable characters; say who or why in a few words"
            )


def moment(seconds: float) -> str:
    """A moment in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _audit(item: Mapping[str, str]) -> Audit:
    texts = {name: item[name] for name in ("at", "action", "scope", "by", "why")}
    return Audit(**texts, detail=json.loads(item["detail"]))


def _change(
    client: Any,
    table: str,
    update: Mapping[str, Any],
    action: str,
    scope: str,
    by: str,
    why: str,
    detail: Mapping[str, Any],
    now: float,
) -> bool:
    """Change the item and record it, both or neither; False when the item's condition does not hold."""
    try:
        client.transact_write_items(
            TransactItems=[
                {"Update": {"TableName": table, "Key": CONTROL_KEY, **update}},
                audit_put(table, action, scope, by, why, detail, now=now),
            ]
        )
    except Exception as error:
        if error_code(error) != "TransactionCanceledException" or "ConditionalCheckFailed" not in str(error):
            raise
        return False
    return True


def _ensure(client: Any, table: str) -> None:
    """An item with both maps: a path inside of a map can be set only where the map is."""
    client.update_item(
        TableName=table,
        Key=CONTROL_KEY,
        UpdateExpression="SET holds = if_not_exists(holds, :none), rungs = if_not_exists(rungs, :none)",
        ExpressionAttributeValues={":none": {"M": {}}},
    )
