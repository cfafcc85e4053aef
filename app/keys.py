"""prodkit keys: made, listed and revoked by `python -m app.keys`; `app.key_store` looks them up."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.aws import Aws, error_code

USER, ADMIN = "user", "admin"
ROLES = (USER, ADMIN)
"""An admin's key sets budgets of every tenant: for operators, not for callers."""
MAX_RATE = 1_000_000_000  # a minute, of requests or tokens
MAX_NAME = 128  # characters
KEY_ID_BYTES, SECRET_BYTES = 6, 32
KEY = re.compile(r"prodkit_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_KEY_ID = re.compile(r"[0-9a-f]{12}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling: what a key stands for, without the key."""

    tenant: str
    key_id: str
    key_name: str
    role: str
    """One of ROLES."""
    requests_per_minute: int | None
    """None = the models document's default."""
    tokens_per_minute: int | None


def identity_of(item: dict[str, Any] | None) -> Identity | None:
    """Who an item of the table stands for; None of no item and of a revoked key. Raises KeyError and the like."""
    if item is None or "revoked_at" in item:
        return None
    rpm, tpm = (item.get(field, {}).get("N") for field in ("requests_per_minute", "tokens_per_minute"))
    return Identity(
        tenant=item["tenant"]["S"],
        key_id=item["key_id"]["S"],
        key_name=item["name"]["S"],
        role=item["role"]["S"],
        requests_per_minute=int(rpm) if rpm else None,
        tokens_per_minute=int(tpm) if tpm else None,
    )


def key_hash(key: str) -> str:
    """What the table stores of a key: SHA-256 in hex. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(
    client: Any,
    table: str,
    tenant: str,
    *,
    name: str = "default",
    role: str = "user",
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    now: Callable[[], float] = time.time,
) -> str:
    """Make a key and return it, the only time it is ever seen. `client` is a boto3 DynamoDB client.

    Raises ValueError for a bad tenant, name, role or rate, and botocore's errors.
    """
    _check_tenant(tenant)
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"name={name!r} is not 1 to {MAX_NAME} printable characters")
    if role not in ROLES:
        raise ValueError(f"role={role!r} is not one of {', '.join(ROLES)}")
    rates = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    for field, rate in rates.items():
        if rate is not None and not 1 <= rate <= MAX_RATE:
            raise ValueError(f"{field}={rate} is not from 1 to {MAX_RATE}")
    key_id = secrets.token_hex(KEY_ID_BYTES)
    key = f"prodkit_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    digest = key_hash(key)
    shown = {"name": {"S": name}, "role": {"S": role}, "created_at": {"S": _moment(now())}}
    limits = {field: {"N": str(rate)} for field, rate in rates.items() if rate is not None}
    identity = {"key_id": {"S": key_id}, "tenant": {"S": tenant}}
    absent = {"TableName": table, "ConditionExpression": "attribute_not_exists(pk)"}
    client.transact_write_items(
        TransactItems=[
            {"Put": {**absent, "Item": {**key_key(digest), **identity, **shown, **limits}}},
            {"Put": {**absent, "Item": {**_tenant_key(tenant, key_id), "hash": {"S": digest}, **shown, **limits}}},
        ]
    )
    return key


def list_keys(client: Any, table: str, tenant: str) -> list[dict[str, str]]:
    """Each key of a tenant as key_id, name, role, created_at, revoked_at (empty = in force), oldest first."""
    _check_tenant(tenant)
    rows = []
    pages = client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
        ExpressionAttributeValues={":pk": {"S": f"TENANT#{tenant}"}, ":sk": {"S": "KEY#"}},
        ConsistentRead=True,
    )
    for page in pages:
        for item in page["Items"]:
            row = {field: item.get(field, {}).get("S", "") for field in ("name", "role", "created_at", "revoked_at")}
            rows.append({"key_id": item["sk"]["S"].removeprefix("KEY#"), **row})
    return sorted(rows, key=lambda row: (row["created_at"], row["key_id"]))


def revoke_key(client: Any, table: str, tenant: str, key_id: str, *, now: Callable[[], float] = time.time) -> str:
    """Revoke a key and return when it was (or had been) revoked; it is refused everywhere within 5 seconds.

    Raises LookupError when the tenant has no such key.
    """
    _check_tenant(tenant)
    if _KEY_ID.fullmatch(key_id) is None:
        raise ValueError(f"key_id={key_id!r} is not 12 hex digits; `list --tenant {tenant}` shows them")
    listed = client.get_item(TableName=table, Key=_tenant_key(tenant, key_id), ConsistentRead=True).get("Item")
    if listed is None:
        raise LookupError(f"tenant {tenant} has no key {key_id}; `list --tenant {tenant}` shows the ones it has")
    if "revoked_at" in listed:
        return str(listed["revoked_at"]["S"])
    moment = _moment(now())
    update = {
        "TableName": table,
        "UpdateExpression": "SET revoked_at = :now",
        "ConditionExpression": "attribute_exists(pk)",
        "ExpressionAttributeValues": {":now": {"S": moment}},
    }
    client.transact_write_items(
        TransactItems=[
            {"Update": {**update, "Key": key_key(listed["hash"]["S"])}},
            {"Update": {**update, "Key": _tenant_key(tenant, key_id)}},
        ]
    )
    return moment


def key_pk(digest: str) -> str:
    """The partition of a key's item."""
    return f"KEY#{digest}"


def key_key(digest: str) -> dict[str, dict[str, str]]:
    """The primary key of a key's item."""
    return {"pk": {"S": key_pk(digest)}, "sk": {"S": "KEY"}}


def _tenant_key(tenant: str, key_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"KEY#{key_id}"}}


def _check_tenant(tenant: str) -> None:
    if _TENANT.fullmatch(tenant) is None:
        raise ValueError(f"tenant={tenant!r} is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 refused by AWS or no such key, 2 bad arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.table:
        parser.error("which table? set PRODKIT_STATE_TABLE or give --table (a stack exports its name)")
    if not options.region:
        parser.error("which region? set AWS_REGION or give --region")
    aws = Aws(options.region, os.environ.get("AWS_ENDPOINT_URL") or None)
    try:
        sys.stdout.write(_run(aws.client("dynamodb"), options))
        return 0
    except ValueError as error:
        parser.error(str(error))
    except LookupError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
    except Exception as error:
        sys.stderr.write(f"{parser.prog}: table {options.table} in {options.region}: {error_code(error)}: {error}\n")
    finally:
        aws.close()
    return 1


def _run(client: Any, options: argparse.Namespace) -> str:
    if options.verb == "create":
        key = create_key(
            client,
            options.table,
            options.tenant,
            name=options.name,
            role=options.role,
            requests_per_minute=options.rpm,
            tokens_per_minute=options.tpm,
        )
        sys.stderr.write("The key is shown once and stored only as a hash:\n")
        return key + "\n"
    if options.verb == "revoke":
        moment = revoke_key(client, options.table, options.tenant, options.key_id)
        return f"{options.key_id} revoked at {moment}\n"
    rows = list_keys(client, options.table, options.tenant)
    lines = [f"{'KEY ID':<13} {'ROLE':<6} {'CREATED':<21} {'REVOKED':<21} NAME"]
    lines += [
        f"{row['key_id']:<13} {row['role']:<6} {row['created_at']:<21} {row['revoked_at'] or '-':<21} {row['name']}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.keys", description="Make, list and revoke prodkit keys.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="create|list|revoke")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--tenant", required=True, help="whose keys: a-z, 0-9 and -, at most 63")
    shared.add_argument(
        "--table", default=os.environ.get("PRODKIT_STATE_TABLE"), help="the state table; default $PRODKIT_STATE_TABLE"
    )
    shared.add_argument(
        "--region",
        default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        help="of the table; default $AWS_REGION",
    )
    create = verbs.add_parser("create", parents=[shared], help="make a key and print it, once")
    create.add_argument("--name", default="default", help="what the key is for; default: default")
    create.add_argument("--role", choices=ROLES, default="user", help="default: user")
    create.add_argument("--rpm", type=int, help="requests per minute; default: the models document's")
    create.add_argument("--tpm", type=int, help="tokens per minute; default: the models document's")
    verbs.add_parser("list", parents=[shared], help="show a tenant's keys, never the key itself")
    revoke = verbs.add_parser("revoke", parents=[shared], help="refuse a key everywhere within 5 seconds")
    revoke.add_argument("key_id", help="12 hex digits, as list shows them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
