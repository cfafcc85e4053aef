"""What the ledger costs: writes to DynamoDB, counted at a simulated load, and CPU on the way of a request."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import orjson
from botocore.exceptions import ClientError

from app.aws import Aws
from app.budgets.history import HOUR, KEPT_HOURS
from app.budgets.memory import Memory
from app.budgets.watcher import LOOK_SECONDS, Watcher
from app.budgets.window import Span, window_at
from app.keys import Identity
from app.ledger import Entry, Ledger, Outcome, Payer, scopes_of
from app.ledger.entries import MAX_ENTRIES, Page, pack
from app.ledger.item import Item, Op
from app.ledger.table import LedgerTable, Standing
from app.models import Models, default_document
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES
from app.pipeline.messages import Call
from app.pipeline.pay import Payment
from app.pipeline.record import Record
from app.prices import PICO_PER_USD, Usage
from components._prices import HOURS_A_MONTH, PRICES

REPLICAS = 20
REQUESTS_PER_SECOND = 100
SECONDS = 240
SMALL_PER_SECOND, SMALL_TASKS, SMALL_SECONDS = Decimal(1_000_000) / (HOURS_A_MONTH * 3_600), 3, 3_600
"""A million requests in a month."""
MEAN_PICO = 275_000_000
SHARES = {"org": 1, "tenant": 5, "key": 10, "model": 2}
"""Of a payer's scopes, how many of each kind there are."""
UNIT_BYTES, READ_BYTES = 1_024, 4_096
"""Of one write and one read request unit, DynamoDB's developer guide, "capacity unit consumption"."""
MOST_USD_PER_MILLION = Decimal(1)
MODELS = Models(default_document())
MOST_CPU_SECONDS = 33e-6  # a tenth of the 330 us that a request may take


class Store:
    """Items and write units of a table in memory."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.units = 0
        self.read_units = Decimal(0)

    @property
    def usd(self) -> Decimal:
        """What all of them cost."""
        writes, reads = (PRICES[name].usd / 1_000_000 for name in ("table_writes", "table_reads"))
        return self.units * writes + self.read_units * reads

    def write(self, size: int) -> None:
        self.units += -(-size // UNIT_BYTES)

    def read(self, size: int, *, consistent: bool) -> None:
        """An eventually consistent read is half a unit."""
        self.read_units += Decimal(-(-size // READ_BYTES)) / (1 if consistent else 2)


class CountingTable(LedgerTable):
    """The table's methods on a Store: the protocol's own steps, each counted in write units."""

    def __init__(self, store: Store, clock: Any) -> None:
        self.store = store
        self._wall_clock = clock

    async def read(self, scope: str, window: str) -> Item | None:
        item = self.store.items.get((scope, window))
        self.store.read(_size(item) if item else 1, consistent=True)
        return item.copy() if item else None

    async def read_many(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Item]:
        found = {place: self.store.items[place] for place in places if place in self.store.items}
        for item in found.values():
            self.store.read(_size(item), consistent=False)
        return {place: item.copy() for place, item in found.items()}

    async def scopes(self, window: str, *, exactly: bool = True) -> list[str]:
        found = [scope for scope, name in self.store.items if name == window]
        self.store.read(sum(len(scope) + 20 for scope in found) or 1, consistent=exactly)
        return found

    async def create(self, scope: str, window: str, limit: int) -> Item:
        self.store.write(100)
        self.store.write(200)
        return self.store.items.setdefault((scope, window), Item(limit, limit)).copy()

    async def step(self, scope: str, window: str, op: Op) -> tuple[bool, Item | None]:
        item = self.store.items[scope, window]
        taken = op.apply(item, int(self._wall_clock()))
        self.store.write(_size(item))
        return taken, item.copy()

    async def put_page(self, page: Page) -> None:
        self.store.write(len(pack(page)) + 100)

    async def beat(self, boot: str) -> None:
        self.store.write(40)

    async def beats(self, boots: Iterable[str]) -> dict[str, int]:
        for _ in boots:
            self.store.read(40, consistent=False)
        return dict.fromkeys(boots, int(self._wall_clock()))

    async def limits_version(self) -> int:
        self.store.read(20, consistent=False)
        return 1

    async def standing(self) -> Standing:
        return Standing(1, {})

    async def offer_default(self, scope: str, kind: str, limit: int, since: float) -> bool:
        self.store.write(100)
        self.store.write(20)
        return True


class StateTable(Aws):
    """The table of the watcher's lease and memories, in memory: its operations, each counted in units."""

    def __init__(self, store: Store) -> None:
        super().__init__("us-east-1")
        self.store = store
        self.items: dict[str, dict[str, Any]] = {}

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        assert service == "dynamodb"
        if operation == "batch_get_item":
            [(table, asked)] = parameters["RequestItems"].items()
            found = [item for key in asked["Keys"] if (item := self.items.get(str(key)))]
            for item in found:
                self.store.read(len(str(item)), consistent=asked["ConsistentRead"])
            return {"Responses": {table: found}}
        if operation == "put_item":
            item = parameters["Item"]
            self.store.write(len(str(item)))
            self.items[str({"pk": item["pk"], "sk": item["sk"]})] = item
            return {}
        item = self.items.setdefault(str(parameters["Key"]), {})
        if operation == "get_item":
            self.store.read(len(str(item)), consistent=parameters.get("ConsistentRead", False))
            return {"Item": item} if item else {}
        assert operation == "update_item"
        self.store.write(200)
        names, values = parameters.get("ExpressionAttributeNames", {}), parameters["ExpressionAttributeValues"]
        if ":me" in values:
            if item and item["owner"] != values[":me"] and item["until"]["N"] >= values[":now"]["N"]:
                raise ClientError({"Error": {"Code": "ConditionalCheckFailedException", "Message": ""}}, operation)
            item |= {names["#o"]: values[":me"], names["#u"]: values[":until"]}
        return {}


class Watched:
    """The watchers of replicas, one of which watches, with four weeks of every scope behind it."""

    def __init__(self, replicas: list[Ledger], store: Store, now: Callable[[], float]) -> None:
        self.aws = StateTable(store)
        self.looked = 0
        self._now = now
        self._watchers = [
            Watcher(
                self.aws,
                "s",
                ledger,
                partial(ledger.table.scopes, exactly=False),
                lambda: MODELS,
                lambda seen: None,
                topic_arn="",
                stack="s",
                zone=UTC,
                wall_clock=now,
                owner=str(number),
            )
            for number, ledger in enumerate(replicas)
        ]
        self._next = [now()] * len(replicas)

    def remember(self, scopes: Iterable[str], rate: Decimal) -> None:
        """As it was for weeks."""
        hour = int(self._now() // HOUR)
        for scope in scopes:
            memory = Memory(month=window_at(Span.MONTH, self._now(), UTC).name)
            pico = int(rate * HOUR) * MEAN_PICO // SHARES[scope.partition(":")[0]]
            memory.history.hours = {hour - back: pico + back for back in range(KEPT_HOURS)}
            memory.history.seen_at = memory.history.began_at = self._now()
            key = {"pk": {"S": f"BUDGET#{scope}"}, "sk": {"S": "WATCH"}}
            self.aws.items[str(key)] = {**key, "memory": {"S": memory.to_text()}}

    async def look(self) -> None:
        """Those whose time has come."""
        for number, watcher in enumerate(self._watchers):
            if self._now() >= self._next[number]:
                self.looked += await watcher.look()
                self._next[number] = self._now() + watcher.pause


def _size(item: Item) -> int:
    """Bytes of an item, generously: names, numbers of 15 digits, and a few bytes around each value."""
    slots = sum(len(handle) + 50 for handle in (*item.slots, *item.susp))
    return 200 + slots + sum(len(handle) + 12 for handle in item.tomb)


def entry(payer: Payer, number: int, pico: int) -> Entry:
    upstream = f"req_{random.Random(number).getrandbits(128):032x}"
    return Entry(
        f"req_{number:032x}.1",
        1.7e9 + number / 100,
        payer.tenant,
        payer.key,
        "/v1/responses",
        "fast",
        payer.model,
        "default",
        500 + number % 400,
        0,
        0,
        100 + number % 200,
        0,
        "2026-11-22",
        pico,
        "ok",
        upstream,
    )


def _budget(scope: str, kind: str) -> int | None:
    return 10_000 * PICO_PER_USD if kind == "M" else None


class Cost(NamedTuple):
    """Of DynamoDB, for requests."""

    writes: Decimal
    """Units for one of them."""
    reads: Decimal
    watcher: Decimal
    """Dollars for a million of them that are for the watcher of the budgets."""

    @property
    def whole(self) -> Decimal:
        """Dollars for a million of them."""
        return self.writes * PRICES["table_writes"].usd + self.reads * PRICES["table_reads"].usd


async def cost_per_million(seconds: int, rate: Decimal = Decimal(REQUESTS_PER_SECOND), tasks: int = REPLICAS) -> Cost:
    """Of requests of one of many keys, tenants and models, spread over many replicas, in their first seconds."""
    now = [1_795_000_000.0]
    store, chance = Store(), random.Random(1)
    aws = Aws("us-east-1")
    replicas = []
    for _ in range(tasks):
        ledger = Ledger(aws, "t", clock=lambda: now[0], wall_clock=lambda: now[0], defaults=_budget)
        ledger.table = CountingTable(store, lambda: now[0])
        replicas.append(ledger)
    watched = Watched(replicas, store, lambda: now[0])
    payers = [Payer(f"tenant-{n % 5}", f"{n:012x}", f"model-{m}") for n in range(10) for m in range(2)]
    watched.remember({scope for payer in payers for scope in scopes_of(payer)}, rate)
    number, watcher = 0, Decimal(0)
    for second in range(1, seconds + 1):
        now[0] += 1
        while number < second * rate:
            number += 1
            ledger, payer = chance.choice(replicas), chance.choice(payers)
            pico = chance.randint(50, 500) * MEAN_PICO // 275
            hold = ledger.take(payer, 10 * pico, str(number)) or await ledger.reserve(payer, 10 * pico, str(number))
            ledger.settle(hold, entry(payer, number, pico))
        for ledger in replicas:
            await ledger.tick()
        before = store.usd
        await watched.look()
        watcher += store.usd - before
    assert watched.looked >= seconds / (LOOK_SECONDS + 1), "somebody watches"
    aws.close()
    watched.aws.close()
    return Cost(Decimal(store.units) / number, store.read_units / number, watcher * 1_000_000 / number)


async def test_a_million_requests_cost_at_most_a_dollar_of_dynamodb() -> None:
    cost = await cost_per_million(SECONDS)
    assert Decimal("0.05") < cost.whole <= MOST_USD_PER_MILLION, cost


async def test_a_million_requests_cost_at_most_a_dollar_where_they_take_a_month_to_come() -> None:
    cost = await cost_per_million(SMALL_SECONDS, SMALL_PER_SECOND, SMALL_TASKS)
    assert Decimal("0.4") < cost.whole <= MOST_USD_PER_MILLION, cost
    assert Decimal("0.05") < cost.watcher <= MOST_USD_PER_MILLION / 4, "a month of it"


class BusyTable(CountingTable):
    """A table whose every answer takes so long that more entries wait when it is there."""

    sizes: list[int]
    ledger: Ledger

    async def put_page(self, page: Page) -> None:
        self.sizes.append(len(page.entries))
        if len(self.sizes) < 100:
            for number in range(20):
                self.ledger.note(entry(Payer("acme", "0" * 12, "gpt-6-luna"), number, 0))


async def test_entries_that_come_while_a_page_is_written_wait_to_be_many() -> None:
    aws = Aws("us-east-1")
    ledger = Ledger(aws, "t")
    table = ledger.table = BusyTable(Store(), time.time)
    table.sizes, table.ledger = [], ledger
    for number in range(MAX_ENTRIES + 100):
        ledger.note(entry(Payer("acme", "0" * 12, "gpt-6-luna"), number, 0))
    await ledger.flush()
    assert table.sizes == [MAX_ENTRIES, 120]
    assert ledger.book.unwritten == 20
    aws.close()


def cpu_seconds() -> float:
    """CPU of reserving, settling and writing the entry of one request, in four scopes."""
    ledger = Ledger(Aws("us-east-1"), "t")
    store = Store()
    ledger.table = CountingTable(store, time.time)
    identity = Identity("acme", "0" * 12, "ci", "user", None, None)
    document = {"model": "fast", "input": "x" * 400, "max_output_tokens": 100}
    plan = make_plan(RESPONSES, document, MODELS)
    call = Call("/v1/responses", orjson.dumps(document), identity, "req_1")
    rounds = 2_000

    async def pay() -> None:
        for number in range(rounds):
            call.request_id = f"req_{number}"
            payment = Payment(ledger, call, Record("req_1", "/v1/responses"))
            await payment.reserve(plan)
            payment.settle(Usage(100, 0, 0, 50), Outcome.OK)

    asyncio.run(pay())
    took = []
    for _ in range(5):
        began = time.process_time()
        asyncio.run(pay())
        took.append((time.process_time() - began) / rounds)
    return min(took)


def test_a_request_pays_a_tenth_of_its_cpu_for_the_ledger_at_most() -> None:
    assert cpu_seconds() < MOST_CPU_SECONDS


def test_an_entry_takes_about_sixty_bytes_of_a_page() -> None:
    payer = Payer("acme", "0" * 12, "gpt-6-luna")
    page = Page("b", "s", tuple(entry(payer, each, 100_000_000 + each) for each in range(100)), (), ())
    assert len(pack(page)) / 100 < 80


def main() -> None:
    """Print the figures of docs/money.md."""
    cost = asyncio.run(cost_per_million(SECONDS))
    small = asyncio.run(cost_per_million(SMALL_SECONDS, SMALL_PER_SECOND, SMALL_TASKS))
    tenth = asyncio.run(cost_per_million(4 * SMALL_SECONDS, SMALL_PER_SECOND / 10, SMALL_TASKS))
    sys.stdout.write(
        f"DynamoDB: ${cost.whole:.2f} a million requests, ${small.whole:.2f} where they take a month (the watcher of "
        f"the budgets ${small.watcher:.2f} of it), ${tenth.whole:.2f} where they take ten; "
        f"CPU: {cpu_seconds() * 1e6:.1f} us a request\n"
    )


if __name__ == "__main__":
    main()
