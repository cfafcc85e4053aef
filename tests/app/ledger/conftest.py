"""The ledger of a process over a table that speaks DynamoDB, on clocks that the test turns."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.aws import Aws
from app.errors import ApiError
from app.ledger import Entry, Ledger, Payer
from tests.app.conftest import CloudParts

NOW = 1_795_000_000.0  # 2026-11-18
WORST = 1_000
BUDGET = 1_000_000


class Clock:
    """Both clocks of a replica, turned by a test."""

    def __init__(self, starts: float = 0.0) -> None:
        self.now = starts

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now


class FlakyAws(Aws):
    """The app's own clients, which are away when a test says; a `late` failure is an answer lost on its way back."""

    away = False
    late = False
    written = 0
    asked = 0
    slow: asyncio.Event | None = None
    """Nothing is answered until it is set."""

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        self.asked += 1
        if self.slow is not None:
            await self.slow.wait()
        if self.away and not self.late:
            raise TimeoutError
        answer = await super().call(service, operation, **parameters)
        self.written += operation in ("update_item", "put_item")
        if self.away:
            raise TimeoutError
        return answer


Made = Callable[..., tuple[Ledger, FlakyAws, Clock]]


@pytest.fixture
async def make(cloud: CloudParts) -> AsyncIterator[Made]:
    """Ledgers of replicas over one table."""
    made: list[Aws] = []

    def one(table: str = "ledger", starts: float = 0.0, **options: Any) -> tuple[Ledger, FlakyAws, Clock]:
        aws, clock = FlakyAws("us-east-1", cloud.url), Clock(starts)
        made.append(aws)
        return Ledger(aws, table, clock=clock, wall_clock=clock.wall, **options), aws, clock

    yield one
    for aws in made:
        aws.close()


@pytest.fixture
def table(cloud: CloudParts) -> str:
    """A ledger of a test's own: for what it does to the organisation, or as all that is billed must be in it."""
    name = f"ledger-{secrets.token_hex(4)}"
    cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    return name


@pytest.fixture
def payer() -> Payer:
    tag = secrets.token_hex(4)
    return Payer(f"t-{tag}", f"k-{tag}", f"m-{tag}")


def entry(payer: Payer, name: str, pico: int) -> Entry:
    return Entry(name, NOW, *payer[:2], "f", "fast", payer.model, "default", 10, 0, 0, 5, 0, "v", pico, "ok", "up")


async def spend(ledger: Ledger, payer: Payer, pico: int, worst: int = WORST) -> None:
    name = secrets.token_hex(6)
    hold = ledger.take(payer, worst, name) or await ledger.reserve(payer, worst, name)
    ledger.settle(hold, entry(payer, name, pico))


async def refusal(work: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await work
    return caught.value


async def answered(work: Any) -> bool:
    try:
        await work
    except ApiError:
        return False
    return True
