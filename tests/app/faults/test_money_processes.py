"""Two replicas over one ledger, one of them killed in the middle of a stream: what was billed, and what is known."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest

from app.aws import Aws
from app.ledger import MONTHLY, Ledger
from app.ledger import __main__ as command
from app.ledger.bill import read_bill
from app.ledger.watch import boot_of
from local.openai.server import Running
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, wait_until
from tests.app.ledger.conftest import table
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica
from tests.patience import PATIENCE_SECONDS

__all__ = ["table"]  # a fixture

pytestmark = pytest.mark.process
BUDGET = 1_500_000_000


@pytest.fixture
def task(cloud: CloudParts, valkey_port: int, simulator: Running, table: str) -> dict[str, str]:
    simulator.reset()
    return BASE_ENVIRONMENT | {
        "PRODKIT_LEDGER_TABLE": table,
        "PRODKIT_OPENAI_BASE_URL": simulator.base_url,
        "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
        "PRODKIT_QUEUE_URL": cloud.queue_url,
        "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{valkey_port}",
        "PRODKIT_READINESS_GRACE_SECONDS": "0",
        "PRODKIT_DRAIN_SECONDS": "1",
        "AWS_ENDPOINT_URL": cloud.url,
    }


@pytest.fixture
async def ledger(cloud: CloudParts, table: str) -> AsyncIterator[Ledger]:
    aws = Aws("us-east-1", cloud.url)
    yield Ledger(aws, table)
    aws.close()


async def ask(http: aiohttp.ClientSession, to: Replica, question: str, *, stream: bool = False) -> int:
    """Status of one answer, read to its end."""
    body = {"model": "fast", "input": question, "stream": stream, "max_output_tokens": 400}
    async with http.post(f"{to.base_url}/responses", json=body) as answer:
        await answer.read()
        return answer.status


async def test_the_cap_holds_over_two_replicas_one_killed_and_every_dollar_is_explained(
    task: dict[str, str], cloud: CloudParts, simulator: Running, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = f"money-{secrets.token_hex(4)}"
    key = prodkit_key(cloud, tenant, requests_per_minute=100_000, tokens_per_minute=100_000_000)
    scope = f"tenant:{tenant}"
    await ledger.set_limit(scope, MONTHLY, BUDGET, by="ada", why="a test")
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    headers = {"authorization": f"Bearer {key}", "cache-control": "no-cache"}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        with replica(task) as first, replica(task) as second:
            assert [await ask(http, each, "Hello") for each in (first, second)] == [200, 200]
            simulator.fault("stall", after=9)
            lost = asyncio.create_task(ask(http, first, "Cut off", stream=True))
            await asyncio.to_thread(wait_until, lambda: len(simulator.requests(0)) == 3)
            first.process.kill()
            with pytest.raises(aiohttp.ClientError):
                await lost
            statuses = [await ask(http, second, f"Number {each}") for each in range(40)]
            assert set(statuses) == {200, 429}, "the cap is met"
            item = await ledger.table.read(scope, ledger._window(MONTHLY).name)
            assert item is not None
            held = sum(slot.amt for slot in item.slots.values())
            assert item.avail + item.spent + held == BUDGET
            second.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.process.wait, PATIENCE_SECONDS) == 0
    day = ledger._window("D").name[1:]
    bill = await asyncio.to_thread(read_bill, f"sk-admin-{secrets.token_urlsafe(24)}", simulator.base_url, day)
    assert 0 < sum(bill.pico.values()) <= BUDGET
    month = ledger._window(MONTHLY).name
    org = await ledger.table.read("org", month)
    assert org is not None
    dead = {boot_of(handle) for handle in org.slots}
    assert len(dead) == 1, "the one that ended in order gave everything back"
    await ledger.sweep.suspend(ledger.table, month, dead)
    assert await command._verify(ledger.table, day, bill, resolve=True) == 0
    said = capsys.readouterr().out
    assert "0 unexplained; suspense resolved" in said
    item = await ledger.table.read(scope, month)
    assert item is not None
    assert (item.slots, item.susp, item.avail) == ({}, {}, BUDGET - item.spent)
    assert item.spent <= BUDGET
    assert item.spent == pytest.approx(sum(bill.pico.values()), abs=10), "floats of OpenAI's costs aside"
