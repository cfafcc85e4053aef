"""What the ledger costs: writes to DynamoDB, counted at a simulated load, and CPU on the way of a request."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import orjson

from app.aws import Aws
from app.keys import Identity
from app.ledger import Entry, Ledger, Outcome, Payer
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
UNIT_BYTES, READ_BYTES = 1_024, 4_096
"""Of one write and one read request unit, DynamoDB's developer guide, "capacity unit consumption"."""
MOST_USD_PER_MILLION = Decimal(1)
MOST_CPU_SECONDS = 33e-6  # a tenth of the 330 us that a request may take


class Store:
    """Items and write units of a table in memory."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.units = 0
        self.read_units = Decimal(0)

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


async def units_per_request(
    seconds: int, rate: Decimal = Decimal(REQUESTS_PER_SECOND), tasks: int = REPLICAS
) -> tuple[Decimal, Decimal]:
    """Write units and read units for a request of one of many keys, tenants and models, spread over many replicas."""
    now = [1_795_000_000.0]
    store, chance = Store(), random.Random(1)
    aws = Aws("us-east-1")
    replicas = []
    for _ in range(tasks):
        ledger = Ledger(aws, "t", clock=lambda: now[0], wall_clock=lambda: now[0], defaults=_budget)
        ledger.table = CountingTable(store, lambda: now[0])
        replicas.append(ledger)
    payers = [Payer(f"tenant-{n % 5}", f"{n:012x}", f"model-{m}") for n in range(10) for m in range(2)]
    number = 0
    for second in range(1, seconds + 1):
        now[0] += 1
        while number < second * rate:
            number += 1
            ledger, payer = chance.choice(replicas), chance.choice(payers)
            pico = chance.randint(50, 500) * 1_000_000
            hold = ledger.take(payer, 10 * pico, str(number)) or await ledger.reserve(payer, 10 * pico, str(number))
            ledger.settle(hold, entry(payer, number, pico))
        for ledger in replicas:
            await ledger.tick()
    aws.close()
    return Decimal(store.units) / number, store.read_units / number


async def usd_per_million(seconds: int, rate: Decimal = Decimal(REQUESTS_PER_SECOND), tasks: int = REPLICAS) -> Decimal:
    """DynamoDB dollars for a million requests."""
    writes, reads = await units_per_request(seconds, rate, tasks)
    return writes * PRICES["table_writes"].usd + reads * PRICES["table_reads"].usd


async def test_a_million_requests_cost_at_most_a_dollar_of_dynamodb() -> None:
    cost = await usd_per_million(SECONDS)
    assert Decimal("0.05") < cost <= MOST_USD_PER_MILLION, cost


async def test_a_million_requests_cost_at_most_a_dollar_where_they_take_a_month_to_come() -> None:
    cost = await usd_per_million(SMALL_SECONDS, SMALL_PER_SECOND, SMALL_TASKS)
    assert Decimal("0.5") < cost <= MOST_USD_PER_MILLION, cost


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
    models = Models(default_document())
    identity = Identity("acme", "0" * 12, "ci", "user", None, None)
    document = {"model": "fast", "input": "x" * 400, "max_output_tokens": 100}
    plan = make_plan(RESPONSES, document, models)
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
    cost = asyncio.run(usd_per_million(SECONDS))
    small = asyncio.run(usd_per_million(SMALL_SECONDS, SMALL_PER_SECOND, SMALL_TASKS))
    sys.stdout.write(
        f"DynamoDB: ${cost:.2f} a million requests, ${small:.2f} where they take a month; "
        f"CPU: {cpu_seconds() * 1e6:.1f} us a request\n"
    )


if __name__ == "__main__":
    main()
