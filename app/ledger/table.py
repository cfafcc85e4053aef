"""The ledger's items in DynamoDB. Every method raises botocore's errors when the fate of a write is not known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from random import SystemRandom
from types import MappingProxyType
from typing import Any, NamedTuple

from app.aws import Aws, error_code
from app.awsjson.wire import MOST_KEYS
from app.ledger.attributes import item_attributes, parse_item, value_of
from app.ledger.entries import Page, day_after, pack, unpack
from app.ledger.evidence import Seen, dump_seen, parse_seen
from app.ledger.item import Item, Op

_REFUSED, _REFUSED_PART = "ConditionalCheckFailedException", "ConditionalCheckFailed"
_CONFLICTS = frozenset({"TransactionConflictException", "TransactionConflict"})
CONFLICT_TRIES = 7
CONFLICT_SECONDS = 0.01
"""Before the second try; each later one waits twice as long, less a random part: half a second in all."""
_CHANCE = SystemRandom()
LIMITS = "L"
_VERSION = "!"
_DEFAULT = "="
"""Before the sort key of a default."""


Write = dict[str, Any]
"""One item of a transaction, in DynamoDB's words."""


class Refused(NamedTuple):
    """What kept a transaction from happening."""

    step: int | None
    """The number of the step; None when it was one of the other writes."""
    item: Item | None
    """Of the step."""
    writes: frozenset[int] = frozenset()
    """The numbers of the writes."""


class Default(Enum):
    """In place of a limit: the one that the stack has where nobody set one."""

    LIMIT = "default"


class Standing(NamedTuple):
    """Limits that somebody set, by scope and kind of window; they hold for every window until set again."""

    version: int
    limits: dict[tuple[str, str], int | None]
    defaults: Mapping[tuple[str, str], tuple[int, float]] = MappingProxyType({})
    """Where nobody set one: what the settings of the process say that began last, and when it did (Unix seconds)."""


class LedgerTable:
    """Reads and steps. Keys: `B#<scope>` budgets, `W#<window>` their index, `P#<boot>` pages, `I#<day>` index of
    boots, `H#<boot>` heartbeats, `L` limits, `A#<scope>` who changed what and why."""

    def __init__(self, aws: Aws, table: str, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._aws = aws
        self._table = table
        self._wall_clock = wall_clock
        self.writes = 0
        """Write requests sent, for the cost of them."""
        self._boot_days: set[tuple[str, str]] = set()

    async def read(self, scope: str, window: str) -> Item | None:
        """The item as it is now."""
        answer = await self._call("get_item", Key=_key(f"B#{scope}", window), ConsistentRead=True)
        return parse_item(answer["Item"]) if answer.get("Item") else None

    async def read_many(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Item]:
        """Items by scope and window, as they were a moment ago."""
        found = self._many([_key(f"B#{scope}", window) for scope, window in places])
        return {(item["pk"]["S"].removeprefix("B#"), item["sk"]["S"]): parse_item(item) async for item in found}

    async def create(self, scope: str, window: str, limit: int) -> Item:
        """The item, made with this limit when there is none."""
        item = Item(limit, limit)
        # The index first: an item that nobody finds would never be swept.
        await self._put({**_key(f"W#{window}", scope)})
        if await self._put({**_key(f"B#{scope}", window), **item_attributes(item)}, absent=True):
            return item
        found = await self.read(scope, window)
        if found is None:
            raise RuntimeError(f"the budget item of {scope} is neither absent nor there")
        return found

    async def step(self, scope: str, window: str, op: Op) -> tuple[bool, Item | None]:
        """Whether the step was taken, and the item after it (before it when it was not; None: there is none)."""
        self.writes += 1
        try:
            answer = await self._unhindered("update_item", **self._update(scope, window, op), ReturnValues="ALL_NEW")
        except Exception as error:
            if error_code(error) != _REFUSED:
                raise
            old = getattr(error, "response", {}).get("Item")
            return False, parse_item(old) if old else None
        return True, parse_item(answer["Attributes"])

    async def together(self, steps: Sequence[tuple[str, str, Op]], writes: Sequence[Write]) -> Refused | None:
        """Take steps (scope, window, step) and make other writes, all or none of them; what refused, if something did.

        A write that is refused is told before a step that is.
        """
        items = [*writes, *({"Update": self._update(*step)} for step in steps)]
        self.writes += 2 * len(items)  # a transaction counts twice
        try:
            await self._unhindered("transact_write_items", TransactItems=items)
        except Exception as error:
            refused = {
                number: reason for number, reason in enumerate(_reasons(error)) if reason["Code"] == _REFUSED_PART
            }
            if not refused:
                raise
            if first := frozenset(number for number in refused if number < len(writes)):
                return Refused(None, None, first)
            number = min(refused)
            old = refused[number].get("Item")
            return Refused(number - len(writes), parse_item(old) if old else None)
        return None

    def _update(self, scope: str, window: str, op: Op) -> dict[str, Any]:
        update = op.update(int(self._wall_clock()))
        parameters: dict[str, Any] = {
            "TableName": self._table,
            "Key": _key(f"B#{scope}", window),
            "UpdateExpression": update.change,
            "ConditionExpression": update.condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        # DynamoDB refuses an empty map.
        if update.names:
            parameters["ExpressionAttributeNames"] = update.names
        if update.values:
            parameters["ExpressionAttributeValues"] = {name: value_of(value) for name, value in update.values.items()}
        return parameters

    async def _unhindered(self, operation: str, **parameters: Any) -> Any:
        """A write, again while a transaction of others has its item: it was refused for certain, and for no reason."""
        for tried in range(CONFLICT_TRIES):
            try:
                return await self._aws.call("dynamodb", operation, **parameters)
            except Exception as error:
                found = {error_code(error), *(reason["Code"] for reason in _reasons(error))}
                if not found & _CONFLICTS or _REFUSED_PART in found or tried == CONFLICT_TRIES - 1:
                    raise
            await asyncio.sleep(CONFLICT_SECONDS * 2**tried * _CHANCE.uniform(0.5, 1.0))
        raise AssertionError("the last try returns or raises")

    async def put_page(self, page: Page) -> None:
        """Write a page; a page that is there already stays as it is."""
        await self._put(await self._page_item(page), absent=True)

    async def page_write(self, page: Page) -> Write:
        """The write of a page, for a transaction."""
        return {"Put": {"TableName": self._table, "Item": await self._page_item(page)}}

    async def _page_item(self, page: Page) -> dict[str, Any]:
        """The item of a page, which those who look for the day's pages will find."""
        if (page.boot, page.day) not in self._boot_days:
            await self._put(_key(f"I#{page.day}", page.boot))
            self._boot_days.add((page.boot, page.day))
        # In a thread: a full page takes milliseconds, most of them without the interpreter's lock.
        packed = await self._aws.run(partial(pack, page))
        body = {"body": {"B": packed}, "n": {"N": str(len(page.entries))}}
        return {**_key(f"P#{page.boot}", page.sequence), **body}

    async def beat(self, boot: str) -> None:
        """Move the heartbeat of a process."""
        self.writes += 1
        await self._call(
            "update_item",
            Key=_key(f"H#{boot}", "H"),
            UpdateExpression="SET born = if_not_exists(born, :now), seen = :now ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}, ":now": {"N": str(int(self._wall_clock()))}},
        )

    async def beats(self, boots: Iterable[str]) -> dict[str, int]:
        """Heartbeats of processes; one that has none is left out."""
        return {boot: int(item["n"]["N"]) for boot, item in (await self._heartbeats(boots)).items()}

    async def lives(self, boots: Iterable[str]) -> dict[str, tuple[float, float]]:
        """When processes sent their first and their last heartbeat, by their own clocks; unknown ones are left out."""
        return {
            boot: (float(item["born"]["N"]), float(item["seen"]["N"]))
            for boot, item in (await self._heartbeats(boots)).items()
            if "born" in item
        }

    async def _heartbeats(self, boots: Iterable[str]) -> dict[str, dict[str, Any]]:
        found = self._many([_key(f"H#{boot}", "H") for boot in sorted(boots)])
        return {item["pk"]["S"].removeprefix("H#"): item async for item in found}

    async def _many(self, wanted: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Items as they were a moment ago, at half the price; in no order, and without those that there are not."""
        for at in range(0, len(wanted), MOST_KEYS):
            keys = list(wanted[at : at + MOST_KEYS])
            while keys:
                answer = await self._aws.call("dynamodb", "batch_get_item", RequestItems={self._table: {"Keys": keys}})
                for item in answer["Responses"].get(self._table, ()):
                    yield item
                keys = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])

    async def scopes(self, window: str, *, exactly: bool = True) -> list[str]:
        """Every scope that has an item in a window; those of a moment ago at half the price."""
        return [item["sk"]["S"] async for item in self._query(f"W#{window}", exactly=exactly)]

    async def boots(self, day: str) -> list[str]:
        """Every process that wrote a page on a UTC day."""
        return [item["sk"]["S"] async for item in self._query(f"I#{day}")]

    async def pages(self, boot: str, day: str = "") -> AsyncIterator[Page]:
        """The pages of a process, all or those of a UTC day, in order; raises ValueError for one that is none."""
        async for item in self._query(f"P#{boot}", begins=day):
            yield unpack(boot, item["sk"]["S"], bytes(item["body"]["B"]))

    async def day_pages(self, day: str) -> AsyncIterator[Page]:
        """Pages of a UTC day and the next one with the entries of attempts that began on it.

        One process after the other: there may be more than memory holds.
        """
        for written in (day, day_after(day)):
            for boot in await self.boots(written):
                async for page in self.pages(boot, written):
                    yield page.of(day)

    async def bill(self, day: str) -> Seen | None:
        """What is known of OpenAI's bill of a UTC day."""
        answer = await self._call("get_item", Key=_key(f"U#{day}", "bill"), ConsistentRead=True)
        return parse_seen(answer["Item"]["seen"]["S"]) if answer.get("Item") else None

    async def put_bill(self, day: str, seen: Seen) -> None:
        """Keep what is known of a day's bill."""
        await self._put({**_key(f"U#{day}", "bill"), "seen": {"S": dump_seen(seen)}})

    async def limits_version(self) -> int:
        """A number that moves with each limit that is set."""
        answer = await self._call("get_item", Key=_key(LIMITS, _VERSION))
        return int(answer.get("Item", {}).get("n", {}).get("N", "0"))

    async def standing(self) -> Standing:
        """Every limit that is set."""
        version = await self.limits_version()
        limits: dict[tuple[str, str], int | None] = {}
        defaults: dict[tuple[str, str], tuple[int, float]] = {}
        async for scope, kind, item in self._rules():
            if kind.startswith(_DEFAULT):
                defaults[scope, kind.removeprefix(_DEFAULT)] = int(item["limit"]["N"]), float(item["since"]["N"])
            elif "default" not in item:
                limits[scope, kind] = int(item["limit"]["N"]) if "limit" in item else None
        return Standing(version, limits, defaults)

    async def offer_default(self, scope: str, kind: str, limit: int, since: float) -> bool:
        """Say what a limit is where nobody sets one; False when a process that began later says so already."""
        self.writes += 1
        try:
            await self._call(
                "put_item",
                Item={
                    **_key(LIMITS, f"{_DEFAULT}{kind}#{scope}"),
                    "limit": {"N": str(limit)},
                    "since": {"N": f"{since:.3f}"},
                },
                ConditionExpression="attribute_not_exists(pk) OR since < :since",
                ExpressionAttributeValues={":since": {"N": f"{since:.3f}"}},
            )
        except Exception as error:
            if error_code(error) != _REFUSED:
                raise
            return False
        await self._move_version()
        return True

    async def ever_limited(self) -> set[str]:
        """Every scope of which somebody set a limit, whether it holds still or not."""
        return {scope async for scope, kind, _ in self._rules() if not kind.startswith(_DEFAULT)}

    async def set_standing(self, scope: str, kind: str, limit: int | Default | None, by: str, why: str) -> None:
        """Set a limit for this and all later windows, and note who did it and why."""
        now = self._wall_clock()
        value: dict[str, Any] = {"default": {"BOOL": True}} if limit is Default.LIMIT else {}
        if isinstance(limit, int):
            value = {"limit": {"N": str(limit)}}
        said = {"by": {"S": by}, "why": {"S": why}, "at": {"N": str(int(now))}, **value}
        await self._put({**_key(f"A#{scope}", f"{kind}#{now:020.6f}"), **said})
        await self._put({**_key(LIMITS, f"{kind}#{scope}"), **said})
        await self._move_version()

    async def _move_version(self) -> None:
        self.writes += 1
        await self._call(
            "update_item",
            Key=_key(LIMITS, _VERSION),
            UpdateExpression="ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    async def _rules(self) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
        async for item in self._query(LIMITS):
            if item["sk"]["S"] != _VERSION:
                kind, _, scope = item["sk"]["S"].partition("#")
                yield scope, kind, item

    async def changes(self, scope: str) -> list[dict[str, str]]:
        """Who changed the limits of a scope, and why, oldest first."""
        return [
            {name: str(next(iter(value.values()))) for name, value in item.items() if name not in ("pk",)}
            async for item in self._query(f"A#{scope}")
        ]

    async def _put(self, item: dict[str, Any], *, absent: bool = False) -> bool:
        """Write an item; False when it had to be absent and is not."""
        self.writes += 1
        condition = {"ConditionExpression": "attribute_not_exists(pk)"} if absent else {}
        try:
            await self._call("put_item", Item=item, **condition)
        except Exception as error:
            if absent and error_code(error) == _REFUSED:
                return False
            raise
        return True

    async def _query(self, pk: str, begins: str = "", *, exactly: bool = True) -> AsyncIterator[dict[str, Any]]:
        start: dict[str, Any] = {}
        condition = "pk = :pk AND begins_with(sk, :sk)" if begins else "pk = :pk"
        values = {":pk": {"S": pk}} | ({":sk": {"S": begins}} if begins else {})
        while True:
            answer = await self._call(
                "query",
                KeyConditionExpression=condition,
                ExpressionAttributeValues=values,
                ConsistentRead=exactly,
                **start,
            )
            for item in answer["Items"]:
                yield item
            if not answer.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def _call(self, operation: str, **parameters: Any) -> Any:
        return await self._aws.call("dynamodb", operation, TableName=self._table, **parameters)


def _reasons(error: BaseException) -> list[dict[str, Any]]:
    """Why a transaction was cancelled, one reason for each of its items; none for any other error."""
    return list(getattr(error, "response", {}).get("CancellationReasons", ()))


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}
