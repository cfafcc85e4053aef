"""Suspense is settled by OpenAI's bill once that is final, and by the end of the window without one."""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from app.aws import Aws
from app.jobs import settle_suspense
from app.jobs.settings import SettlingSettings
from app.ledger import Ledger, Payer
from app.ledger.audit import Tokens
from app.ledger.auditor import Auditor, Report
from app.ledger.bill import read_bill
from app.ledger.entries import total
from app.ledger.evidence import AGREE_SECONDS, CLOSE_SECONDS, Bill, aside_day
from app.ledger.item import TOMB_SECONDS, Item, Reclaim
from app.settings import SettingsError
from local.openai.server import running
from tests.app.conftest import REGION, CloudParts
from tests.app.ledger.conftest import NOW, entry
from tests.app.replica import openai_secret

pytestmark = pytest.mark.process
HOUR = 3_600.0
DAY = "2026-11-18"
MONTH = "M2026-11"
DAY_END = 1_795_046_400.0
FINAL = DAY_END + 24 * HOUR
MONTH_END = 1_796_083_200.0
LIMIT = 10**12


class Case:
    """A table of one's own, a replica that died in it, and the bill as OpenAI says it."""

    def __init__(self, aws: Aws, table: str) -> None:
        self.aws, self.name = aws, table
        self.now = NOW
        self.bill = Bill({}, {})
        self.asked: list[str] = []
        self.dead = Ledger(aws, table, wall_clock=lambda: self.now, defaults=lambda scope, kind: LIMIT)
        self.table = self.dead.table

    async def spend(self, tenant: str, name: str, pico: int) -> None:
        payer = Payer(tenant, "k", "m")
        self.dead.settle(await self.dead.reserve(payer, 1_000, name), entry(payer, name, pico))

    async def die(self, *tenants: str) -> None:
        """In the middle of one call of each tenant: OpenAI answers, nobody is left to write it down."""
        await self.dead.tick()
        await self.dead.flush()
        for number, tenant in enumerate(tenants):
            await self.dead.reserve(Payer(tenant, "k", "m"), 1_000, f"lost{number}")
        for window in (MONTH, f"D{DAY}"):
            for scope, item in (await self.items(window)).items():
                for handle, slot in item.slots.items():
                    await self.table.step(scope, window, Reclaim(handle, slot))

    async def items(self, window: str = MONTH) -> dict[str, Item]:
        read = {scope: await self.table.read(scope, window) for scope in await self.table.scopes(window)}
        return {scope: item for scope, item in read.items() if item is not None}

    async def audit(self, at: float, *, with_key: bool = True) -> Report:
        self.now = at
        auditor = Auditor(self.table, datetime.UTC, self.read if with_key else None, wall_clock=lambda: self.now)
        return await auditor.run()

    def read(self, day: str) -> Bill:
        self.asked.append(day)
        return self.bill if day == DAY else Bill({}, {})

    async def spent(self, window: str = MONTH) -> dict[str, int]:
        items = await self.items(window)
        assert not any(item.slots or item.susp for item in items.values())
        assert all(item.avail == item.limit - item.spent for item in items.values())
        return {scope: item.spent for scope, item in items.items()}


def billed(pico: int) -> Bill:
    """Each entry of these tests has 10 tokens in and 5 out, and the lost calls as many."""
    return Bill({"m": Tokens(10 * 3, 5 * 3)}, {"m": pico})


@pytest.fixture
def case(cloud: CloudParts) -> Iterator[Case]:
    table = f"ledger-{secrets.token_hex(4)}"
    cloud.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    clients = Aws(REGION, cloud.url)
    yield Case(clients, table)
    clients.close()


async def test_a_lost_call_is_settled_by_two_looks_at_the_bill_six_hours_apart_and_not_before(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    case.bill = billed(650)
    for at in (NOW + HOUR, FINAL - 1):
        assert (await case.audit(at)).settled == 0
    assert case.asked == [], "a bill of a day that is not over says nothing"
    assert (await case.audit(FINAL)).settled == 0
    case.bill = billed(700)  # it went on growing
    assert (await case.audit(FINAL + AGREE_SECONDS)).settled == 0
    assert (await case.audit(FINAL + 2 * AGREE_SECONDS - 1)).settled == 0
    report = await case.audit(FINAL + 2 * AGREE_SECONDS)
    assert (report.settled, report.assumed, report.waiting, report.problems) == (8, 0, 0, [])
    for window in (MONTH, f"D{DAY}"):
        assert await case.spent(window) == dict.fromkeys(("org", "tenant:t", "key:k", "model:m"), 700)
    assert sum([total(page.entries) async for page in case.table.day_pages(DAY)]) == 700
    assert (await case.audit(FINAL + 3 * AGREE_SECONDS)).settled == 0


async def test_whose_lost_call_it_was_is_not_guessed_while_the_budget_runs(case: Case) -> None:
    await case.spend("a", "r1", 100)
    await case.spend("b", "r2", 200)
    await case.die("a", "b")
    case.bill = billed(550)
    for look in range(3):
        report = await case.audit(FINAL + look * AGREE_SECONDS)
    assert report.settled == 0
    assert (await case.audit(MONTH_END)).waiting == 0
    spent = await case.spent()
    assert spent["org"] == spent["tenant:a"] + spent["tenant:b"] == 550
    assert spent["tenant:a"] >= 100
    assert spent["tenant:b"] >= 200


async def test_what_a_batch_may_have_cost_that_nobody_has_filed_is_no_loss(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    worker = Ledger(case.aws, case.name, wall_clock=lambda: case.now, defaults=lambda scope, kind: LIMIT)
    places = await worker.places(Payer("u", "k", "m"))
    assert await worker.set_aside(places, 1_000, [], aside_day(case.now))
    case.bill = Bill({"m": Tokens(20, 10)}, {"m": 700})  # and the worker is silent for days
    for look in range(8):
        report = await case.audit(FINAL + look * AGREE_SECONDS)
        assert (report.settled, report.problems) == (0, []), "the dead one gets nothing that is the batch's"
    assert (report.unresolved, report.waiting) == (300, 8)
    assert await worker.use(places, 1_000, entry(Payer("u", "k", "m"), "def", 300), [], aside_day(NOW))
    report = await case.audit(case.now + AGREE_SECONDS)
    assert (report.settled, report.unresolved, report.waiting) == (8, 0, 0)
    spent = await case.spent()
    assert (spent["org"], spent["tenant:t"], spent["tenant:u"]) == (700, 400, 300)


async def test_what_waits_since_another_day_delays_no_evidence(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    case.now = DAY_END + 1
    places = await case.dead.places(Payer("u", "k", "m"))
    assert await case.dead.set_aside(places, 1_000, [], aside_day(case.now))
    case.bill = billed(700)
    await case.audit(FINAL)
    report = await case.audit(FINAL + AGREE_SECONDS)
    assert (report.settled, report.unresolved) == (8, 0)


async def test_when_nothing_is_missing_everybody_s_lease_goes_back_by_its_pages(case: Case) -> None:
    await case.spend("a", "r1", 100)
    await case.spend("b", "r2", 200)
    await case.die("a", "b")
    case.bill = Bill({"m": Tokens(20, 10)}, {"m": 300})
    await case.audit(FINAL)
    await case.audit(FINAL + AGREE_SECONDS)
    assert await case.spent() == {"org": 300, "tenant:a": 100, "tenant:b": 200, "key:k": 300, "model:m": 300}


async def test_without_a_bill_the_lease_counts_as_spent_a_week_after_its_window(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    held = sum(slot.amt for slot in (await case.items())["tenant:t"].susp.values())
    assert (await case.audit(DAY_END + CLOSE_SECONDS, with_key=False)).settled == 4, "of the daily budgets"
    assert (await case.audit(MONTH_END + CLOSE_SECONDS - 1, with_key=False)).settled == 0
    report = await case.audit(MONTH_END + CLOSE_SECONDS, with_key=False)
    assert (report.settled, report.assumed) == (4, 4)
    spent = await case.spent()
    assert 400 < spent["org"] == spent["tenant:t"] <= held


async def test_a_run_that_dies_on_its_way_is_finished_by_the_next_one(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    case.bill = billed(650)
    await case.audit(FINAL)
    steps = 0
    step = case.table.step

    async def dies(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise TimeoutError
        return await step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(case.table, "step", dies)
        with pytest.raises(TimeoutError):
            await case.audit(FINAL + AGREE_SECONDS)
    assert (await case.audit(FINAL + 2 * AGREE_SECONDS)).waiting == 0
    assert await case.spent() == dict.fromkeys(("org", "tenant:t", "key:k", "model:m"), 650)


async def test_entries_that_openai_never_billed_are_told_to_people(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.die("t")
    case.bill = Bill({"m": Tokens(3, 5)}, {"m": 100})
    await case.audit(FINAL)
    (problem,) = (await case.audit(FINAL + AGREE_SECONDS)).problems
    assert problem == f"{DAY} m: 7 tokens are in entries and OpenAI billed none of them"


async def test_tombs_of_a_scope_that_nobody_uses_any_more_are_dropped(case: Case) -> None:
    await case.spend("t", "r1", 400)
    await case.dead.stop()
    assert any(item.tomb for item in (await case.items()).values())
    await case.audit(NOW + TOMB_SECONDS / 2)
    assert any(item.tomb for item in (await case.items()).values())
    await case.audit(NOW + TOMB_SECONDS + 1)
    assert not any(item.tomb for item in (await case.items()).values())


def settings(cloud: CloudParts, table: str, **more: str) -> dict[str, str]:
    told = {
        "PRODKIT_STACK": "test",
        "PRODKIT_SERVICE": "settle-suspense",
        "PRODKIT_LOG_LEVEL": "info",
        "PRODKIT_OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "PRODKIT_OPENAI_ADMIN_SECRET_ARN": "",
        "PRODKIT_LEDGER_TABLE": table,
        "PRODKIT_BUDGET_TIME_ZONE": "UTC",
        **more,
    }
    assert sorted(told) == sorted(SettlingSettings.environment())
    return {**told, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": cloud.url}


@pytest.mark.parametrize(("name", "value"), [("PRODKIT_SERVICE", "web"), ("PRODKIT_BUDGET_TIME_ZONE", "Mars/Olympus")])
def test_the_job_names_a_variable_that_is_bad(cloud: CloudParts, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        SettlingSettings.from_environment(settings(cloud, "ledger", **{name: value}))


@pytest.mark.parametrize(("key", "failures"), [("", 0), ("sk-admin-of-nobody", 1)])
async def test_a_run_says_that_it_ran_and_whether_it_failed(
    case: Case, cloud: CloudParts, monkeypatch: pytest.MonkeyPatch, key: str, failures: int
) -> None:
    def refused(*_: str) -> Bill:
        raise PermissionError

    monkeypatch.setattr(settle_suspense, "read_bill", refused)
    await case.spend("t", "r1", 400)
    await case.die("t")
    arn = openai_secret(cloud, key) if key else ""
    told = settings(cloud, case.table._table, PRODKIT_OPENAI_ADMIN_SECRET_ARN=arn)
    wrote: list[dict[str, Any]] = []
    code = await asyncio.to_thread(
        settle_suspense.run,
        SettlingSettings.from_environment(told),
        clock=lambda: FINAL,
        write=lambda line: wrote.append(json.loads(line)),
    )
    assert code == failures
    assert [(line["JobRuns"], line["JobFailures"]) for line in wrote if "JobRuns" in line] == [(1.0, failures)]


def test_the_bill_is_read_as_openai_shows_it() -> None:
    with running() as simulator:
        assert read_bill(f"sk-admin-{secrets.token_urlsafe(24)}", simulator.base_url, DAY) == Bill({}, {})
