"""prodkit keys: made, listed and revoked by `python -m app.keys`, looked up by every request."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.aws import Aws, error_code
from app.errors import ApiError

USER, ADMIN = "user", "admin"
ROLES = (USER, ADMIN)
"""An admin's key sets budgets of every tenant: for operators, not for callers."""
IDENTITY_SECONDS = 4.0  # with the read itself below 5 s, after which a revoked key is dead everywhere
REFRESH_SECONDS = 3.0  # from this age on a key in use is read again beside its requests: none of them waits
DUE_A_READ = 64  # so many keys in use wait for one read after the other; for more of them there are more reads at once
UNKNOWN_SECONDS = 1.0  # a key just created works a second after it was refused
UNKNOWN_SHARE = 4  # refused keys get a quarter of the entries, so that guessing pushes out no identity
LOOKUP_SECONDS = 3.0
MAX_RATE = 1_000_000_000  # a minute, of requests or tokens
MAX_NAME = 128  # characters
KEY_ID_BYTES, SECRET_BYTES = 6, 32
_KEY = re.compile(r"prodkit_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
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


class KeyStore:
    """Identities by presented key, from the state table, remembered for IDENTITY_SECONDS."""

    def __init__(self, aws: Aws, table: str, *, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_entries` bounds what is remembered; the oldest goes first."""
        self._aws = aws
        self._table = table
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Identity]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._max_known = max(1, max_entries)
        self._max_unknown = max(1, max_entries // UNKNOWN_SHARE)
        self._reads: dict[str, asyncio.Task[Identity | None]] = {}
        self._beside = 0
        """Reads of keys in use."""
        self._due: dict[str, None] = {}
        """Keys in use whose turn to be read again comes, in their order."""

    def known(self, presented: str) -> Identity | None:
        """The identity of a key that was read of late; None when `lookup` may have to wait, or would find none."""
        return self._fresh(key_hash(presented))  # of nothing malformed: that is never read

    async def lookup(self, presented: str) -> Identity | None:
        """The identity of a key, or None when the key is malformed (no table is asked), unknown or revoked.

        Raises ApiError 503 `service_unavailable` when the table does not answer: no answer lets nobody in.
        """
        if _KEY.fullmatch(presented) is None:
            return None
        digest = key_hash(presented)
        known = self._fresh(digest)
        if known is not None:
            return known
        now = self._clock()
        if now < self._unknown.get(digest, now):
            return None
        # Shielded: the caller that began the read may go away while others wait for it.
        return await asyncio.shield(self._begin_reading(digest))

    def _fresh(self, digest: str) -> Identity | None:
        known, now = self._known.get(digest), self._clock()
        if known is None or now >= known[0]:
            return None
        if now >= known[0] - IDENTITY_SECONDS + REFRESH_SECONDS and digest not in self._reads:
            self._read_beside(digest)
        return known[1]

    def _read_beside(self, digest: str) -> None:
        """Read a key in use again, after those that are due before it.

        A read has a thread of its own. Many at once, as keys that came at once are due at once, would stop the requests
        for as long as all of them take; one after the other gives way between two.
        """
        if self._beside > len(self._due) // DUE_A_READ:
            self._due[digest] = None
            return
        self._due.pop(digest, None)
        self._beside += 1
        self._begin_reading(digest).add_done_callback(self._read_next)

    def _read_next(self, _: asyncio.Task[Identity | None]) -> None:
        self._beside -= 1
        if self._due:
            digest = next(iter(self._due))
            del self._due[digest]
            self._read_beside(digest)

    def _begin_reading(self, digest: str) -> asyncio.Task[Identity | None]:
        read = self._reads.get(digest)
        if read is None:
            read = self._reads[digest] = asyncio.create_task(self._read(digest), name="key")
            read.add_done_callback(lambda task: self._forget_read(digest, task))
        return read

    def _forget_read(self, digest: str, task: asyncio.Task[Identity | None]) -> None:
        self._reads.pop(digest, None)
        if not task.cancelled():
            task.exception()  # retrieved here as well, for when every caller has gone

    async def _read(self, digest: str) -> Identity | None:
        asked = self._clock()
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                answer = await self._aws.call(
                    "dynamodb", "get_item", TableName=self._table, Key=_key_key(digest), ConsistentRead=True
                )
            identity = _identity(answer.get("Item"))
        except Exception as error:
            raise ApiError(
                "service_unavailable",
                "The key cannot be checked at the moment. Try again in a second.",
                headers={"retry-after": "1"},
            ) from error
        if identity is None:
            self._known.pop(digest, None)
            _remember(self._unknown, digest, asked + UNKNOWN_SECONDS, self._max_unknown)
        else:
            self._unknown.pop(digest, None)
            _remember(self._known, digest, (asked + IDENTITY_SECONDS, identity), self._max_known)
        return identity


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
            {"Put": {**absent, "Item": {**_key_key(digest), **identity, **shown, **limits}}},
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
            {"Update": {**update, "Key": _key_key(listed["hash"]["S"])}},
            {"Update": {**update, "Key": _tenant_key(tenant, key_id)}},
        ]
    )
    return moment


def _identity(item: dict[str, Any] | None) -> Identity | None:
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


def _remember(entries: OrderedDict[str, Any], digest: str, value: Any, most: int) -> None:
    entries.pop(digest, None)
    entries[digest] = value
    while len(entries) > most:
        entries.popitem(last=False)


def _key_key(digest: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"KEY#{digest}"}, "sk": {"S": "KEY"}}


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
