from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app import spend as module
from app.aws import Aws
from app.errors import ApiError
from app.keys import Identity
from app.models import Usage
from app.spend import Spend, month_of
from tests.app.conftest import CloudParts, free_port

pytestmark = pytest.mark.process
USAGE = Usage(input_tokens=100, cached_tokens=10, cache_write_tokens=0, output_tokens=7)


class Clock:
    """A clock that a test turns."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FlakyAws(Aws):
    """The app's own clients, which fail as often as a test says; a `late` failure is an answer lost on its way back."""

    failures = 0
    late = False

    def __init__(self, url: str) -> None:
        super().__init__("us-east-1", url)
        self.tokens: list[str] = []

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        self.tokens.append(parameters.get("ClientRequestToken", ""))
        if self.failures and not self.late:
            self.failures -= 1
            raise TimeoutError
        answer = await super().call(service, operation, **parameters)
        if self.failures:
            self.failures -= 1
            raise TimeoutError
        return answer


@pytest.fixture
def flaky(cloud: CloudParts) -> Iterator[FlakyAws]:
    clients = FlakyAws(cloud.url)
    yield clients
    clients.close()


@pytest.fixture
def identity() -> Identity:
    return Identity(f"t-{secrets.token_hex(4)}", "0" * 12, "test", "user", None, None)


def ledger(cloud: CloudParts, tenant: str, month: str) -> dict[str, int]:
    key = {"pk": {"S": f"B#tenant:{tenant}"}, "sk": {"S": f"M{month}"}}
    item = cloud.client("dynamodb").get_item(TableName="ledger", Key=key).get("Item", {})
    return {name: int(value["N"]) for name, value in item.items() if "N" in value}


async def test_amounts_add_up_exactly_over_two_replicas(flaky: FlakyAws, cloud: CloudParts, identity: Identity) -> None:
    replicas = [Spend(flaky, "ledger", wall_clock=lambda: 0.0) for _ in range(2)]
    for replica in replicas:
        for _ in range(50):
            await replica.record(identity, "gpt-6-luna", USAGE, 123_456_789_012_345_678)
        await replica.stop()
    assert ledger(cloud, identity.tenant, "1970-01") == {
        "spent_pico": 100 * 123_456_789_012_345_678,
        "requests": 100,
        "input_tokens": 10_000,
        "output_tokens": 700,
    }


async def test_recording_waits_for_nothing(identity: Identity) -> None:
    aws = Aws("us-east-1", f"http://127.0.0.1:{free_port()}")
    spend = Spend(aws, "ledger")
    record = spend.record(identity, "gpt-6-luna", USAGE, 5)
    with pytest.raises(StopIteration):
        record.send(None)
    aws.close()


async def test_an_orderly_stop_loses_nothing(flaky: FlakyAws, cloud: CloudParts, identity: Identity) -> None:
    spend = Spend(flaky, "ledger")
    spend.start()
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    await spend.stop()
    await spend.record(identity, "gpt-6-luna", USAGE, 6)
    await spend.stop()
    assert ledger(cloud, identity.tenant, month_of(time.time()))["spent_pico"] == 11


async def test_the_task_writes_on_its_own(
    flaky: FlakyAws, cloud: CloudParts, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.01)
    spend = Spend(flaky, "ledger")
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    spend.start()
    async with asyncio.timeout(10):
        while spend._pending or spend._batches:  # noqa: ASYNC110 - the task under test has no event of its own
            await asyncio.sleep(0.01)
    assert ledger(cloud, identity.tenant, month_of(time.time()))["requests"] == 1
    await spend.stop()


async def test_a_write_that_failed_is_tried_again_under_the_same_token_and_new_amounts_wait(
    flaky: FlakyAws, cloud: CloudParts, identity: Identity
) -> None:
    spend = Spend(flaky, "ledger", wall_clock=lambda: 0.0)
    flaky.failures = 2
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    assert not await spend.flush()
    await spend.record(identity, "gpt-6-luna", USAGE, 6)
    assert not await spend.flush()
    assert not await spend.flush()
    assert await spend.flush()
    assert flaky.tokens[0] == flaky.tokens[1] == flaky.tokens[2] != flaky.tokens[3]
    assert ledger(cloud, identity.tenant, "1970-01")["spent_pico"] == 11


async def test_a_lost_answer_is_repeated_with_a_token_that_the_table_knows(flaky: FlakyAws, identity: Identity) -> None:
    spend = Spend(flaky, "ledger", wall_clock=lambda: 0.0)
    flaky.failures, flaky.late = 1, True
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    assert not await spend.flush()
    assert await spend.flush()
    assert len(flaky.tokens[0]) == 36
    assert flaky.tokens == [flaky.tokens[0]] * 2


async def test_a_month_is_the_ledger_and_what_waits(flaky: FlakyAws, cloud: CloudParts, identity: Identity) -> None:
    clock = Clock()
    spend = Spend(flaky, "ledger", wall_clock=clock)
    assert await spend.month(identity.tenant) == 0
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    await spend.flush()
    await spend.record(identity, "gpt-6-luna", USAGE, 6)
    assert await spend.month(identity.tenant) == 11
    clock.now += 40 * 86_400
    assert await spend.month(identity.tenant) == 0


async def test_a_ledger_that_is_away_is_an_error_to_the_asker_and_a_dead_meter(identity: Identity) -> None:
    clock = Clock()
    aws = FlakyAws(f"http://127.0.0.1:{free_port()}")
    aws.failures = 100
    spend = Spend(aws, "ledger", clock=clock)
    with pytest.raises(ApiError) as caught:
        await spend.month(identity.tenant)
    assert caught.value.code == "service_unavailable"
    assert spend.alive()
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    assert spend.alive()
    clock.now += module.ALIVE_SECONDS
    assert not spend.alive()
    assert not await spend.flush()
    assert not spend.alive()
    aws.close()


async def test_what_cannot_be_written_at_the_end_is_in_the_log(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    aws = FlakyAws(f"http://127.0.0.1:{free_port()}")
    aws.failures = 100
    spend = Spend(aws, "ledger", wall_clock=lambda: 0.0)
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    await spend.flush()
    await spend.record(identity, "gpt-6-luna", USAGE, 6)
    with caplog.at_level(logging.ERROR, logger="app.spend"):
        await spend.stop()
    found = [record.__dict__["fields"] for record in caplog.records if record.levelno == logging.ERROR]
    assert [(fields["tenant"], fields["month"], fields["spent_pico"]) for fields in found] == [
        (identity.tenant, "1970-01", 5),
        (identity.tenant, "1970-01", 6),
    ]
    aws.close()


async def test_memory_is_bounded_and_what_goes_beyond_is_in_the_log(
    flaky: FlakyAws, identity: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 1)
    spend = Spend(flaky, "ledger")
    await spend.record(identity, "gpt-6-luna", USAGE, 5)
    with caplog.at_level(logging.ERROR, logger="app.spend"):
        await spend.record(Identity("other", "1" * 12, "test", "user", None, None), "gpt-6-luna", USAGE, 9)
    assert len(spend._pending) == 1
    (record,) = caplog.records
    assert record.__dict__["fields"]["spent_pico"] == 9


async def test_an_outage_tries_a_few_tenants_a_round_and_not_all(flaky: FlakyAws, identity: Identity) -> None:
    spend = Spend(flaky, "ledger")
    flaky.failures = 1_000
    for number in range(50):
        await spend.record(Identity(f"t{number}", "1" * 12, "test", "user", None, None), "gpt-6-luna", USAGE, 9)
    assert not await spend.flush()
    assert len(flaky.tokens) <= 2 * module.WRITES_AT_ONCE
