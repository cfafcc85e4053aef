"""One replica watches for all: rungs move, people are told once, runaways are found and held."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import pytest

from app.aws import Aws
from app.budgets import holds
from app.budgets.history import HOUR
from app.budgets.memory import LEASE_SECONDS, Memory
from app.budgets.policy import Policy, Rung
from app.budgets.rota import FREE_SECONDS, ORG_SECONDS
from app.budgets.watch import report
from app.budgets.watcher import CALM_SECONDS, LOOK_SECONDS, Seen, Watcher
from app.budgets.window import Span, window_at
from app.models import Models, default_document
from app.settings import Settings
from tests.app.conftest import CloudParts

pytestmark = pytest.mark.process
USD = 10**12
NOVEMBER = window_at(Span.MONTH, 1_794_000_000, UTC)


@dataclass
class Money:
    """An account as the ledger tells it."""

    limit: int | None = None
    spent: int = 0
    reserved: int = 0
    suspense: int = 0


@dataclass
class Books:
    """A ledger's accounts, which a test writes."""

    months: dict[str, Money] = field(default_factory=dict)
    days: dict[str, Money] = field(default_factory=dict)

    asked: list[str] = field(default_factory=list)

    async def accounts(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Money]:
        self.asked += [scope for scope, _ in places]
        return {
            (scope, kind): copy.copy((self.months if kind == "M" else self.days).setdefault(scope, Money()))
            for scope, kind in places
        }

    def limit_of(self, scope: str, kind: str) -> int | None:
        kept = (self.months if kind == "M" else self.days).get(scope)
        return kept.limit if kept else None

    async def scopes(self, window: str) -> list[str]:
        return list(self.months)


@dataclass
class World:
    """A watched month: its books, its clock, what was reported and what people were told."""

    books: Books
    now: float
    new: Callable[..., Watcher]
    mail: Callable[[], list[dict[str, Any]]]
    seen: list[Seen] = field(default_factory=list)

    def subjects(self) -> list[str]:
        return [message["Subject"].removeprefix("[prodkit test] ") for message in self.mail()]


@pytest.fixture
def world(aws: Aws, cloud: CloudParts, table: str) -> World:
    sns, sqs = cloud.client("sns"), cloud.client("sqs")
    topic = sns.create_topic(Name=f"{table}-topic")["TopicArn"]
    queue = sqs.create_queue(QueueName=f"{table}-mail")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    def mail() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return found

    def new(owner: str = "one", topic_arn: str = topic, **policy: Any) -> Watcher:
        document = copy.deepcopy(default_document())
        document["budget"] |= policy
        models = Models(document)
        return Watcher(
            aws,
            table,
            made.books,
            made.books.scopes,
            lambda: models,
            made.seen.append,
            topic_arn=topic_arn,
            stack="test",
            zone=UTC,
            wall_clock=lambda: made.now,
            owner=owner,
        )

    made = World(Books(), NOVEMBER.start, new, mail)
    return made


async def live(world: World, watcher: Watcher, hours: float, usd_an_hour: float, scope: str = "org") -> None:
    """Spend evenly, less on a rung that saves, and let the watcher look each half hour."""
    for _ in range(int(hours * 2)):
        saved = Policy().cost(world.seen[-1].rung)
        world.books.months[scope].spent += int(usd_an_hour / 2 * USD * saved)
        world.now += HOUR / 2
        await watcher.look()


async def test_the_ladder_goes_up_with_the_pace_and_every_replica_is_told(
    world: World, client: Any, table: str
) -> None:
    world.books.months["org"] = Money(limit=720 * USD)
    watcher = world.new()
    await watcher.look()
    assert holds.read(client, table).rungs == {}
    await live(world, watcher, 12, usd_an_hour=1.6)  # 160 % of the even pace
    [(scope, standing)] = holds.read(client, table).rungs.items()
    assert (scope, standing.rung, standing.until) == ("org", Rung.CHEAPER, NOVEMBER.end)  # SHORTER costs 75 %
    assert world.seen[-1].rung is Rung.CHEAPER
    assert (world.seen[-1].spent, world.seen[-1].limit) == (world.books.months["org"].spent, 720 * USD)


async def test_an_alert_says_what_why_what_next_and_the_one_command(world: World) -> None:
    world.books.months["tenant:acme"] = Money(limit=720 * USD)
    watcher = world.new()
    await watcher.look()
    await live(world, watcher, 12, usd_an_hour=1.6, scope="tenant:acme")
    [first, *_] = world.mail()
    assert first["Subject"].startswith("[prodkit test] Budget of tenant acme: ")
    what, why, next_, act = first["Message"].strip().splitlines()
    assert what.startswith("What happened: the monthly budget of tenant acme is on the rung '")
    assert "of $720.00 are spent" in why
    assert "the pace leads to" in why
    assert next_.startswith("What happens next: ")
    assert act == "What you can do: raise it: python -m app.budgets set tenant:acme month USD --why '...'"


async def test_each_thing_is_told_once_whichever_replica_looks(world: World) -> None:
    world.books.months["org"] = Money(limit=720 * USD)
    one, two = world.new("one"), world.new("two")
    await one.look()
    await live(world, one, 12, usd_an_hour=1.6)
    told = world.subjects()
    assert len(told) == len(set(told)) > 0
    assert not await two.look()  # it is watched already
    world.now += LEASE_SECONDS + 1
    assert await two.look()
    assert not await one.look()
    await live(world, two, 2, usd_an_hour=1.6)
    assert set(world.subjects()).isdisjoint(told)


async def test_thresholds_of_what_is_spent_are_told_highest_first(world: World) -> None:
    world.books.months["org"] = Money(limit=100 * USD)
    watcher = world.new()
    world.now = NOVEMBER.start + 0.9 * NOVEMBER.seconds
    world.books.months["org"].spent = 81 * USD
    await watcher.look()
    assert world.subjects() == ["Budget of this service: 80 % spent"]
    world.books.months["org"].spent = 95 * USD
    world.now += LOOK_SECONDS
    await watcher.look()
    assert "Budget of this service: 95 % spent" in world.subjects()


async def test_a_spent_budget_is_told_and_so_is_its_recovery(world: World, client: Any, table: str) -> None:
    world.books.months["org"] = Money(limit=100 * USD)
    watcher = world.new(spent_percents=[])
    await watcher.look()
    world.books.months["org"].spent = 100 * USD
    world.now += HOUR
    await watcher.look()
    assert world.subjects() == ["Budget of this service: refused"]
    assert holds.read(client, table).rungs["org"].rung is Rung.REFUSED
    world.books.months["org"].limit = 100_000 * USD
    world.now += LOOK_SECONDS
    await watcher.look()
    assert world.subjects() == ["Budget of this service: recovered"]
    assert holds.read(client, table).rungs == {}


async def test_a_day_and_a_month_are_judged_apart_and_the_higher_rung_counts(
    world: World, client: Any, table: str
) -> None:
    world.books.months["tenant:acme"] = Money(limit=10_000 * USD, spent=5 * USD)
    world.books.days["tenant:acme"] = Money(limit=5 * USD, spent=5 * USD)
    watcher = world.new()
    await watcher.look()
    published = holds.read(client, table).rungs["tenant:acme"]
    assert (published.rung, published.until) == (Rung.REFUSED, NOVEMBER.start + 86_400)
    world.now = NOVEMBER.start + 86_400
    world.books.days["tenant:acme"] = Money(limit=5 * USD)
    await watcher.look()
    assert holds.read(client, table).rungs == {}


async def test_suspense_counts_as_spent(world: World, client: Any, table: str) -> None:
    world.books.months["org"] = Money(limit=100 * USD, spent=60 * USD, suspense=40 * USD)
    await world.new().look()
    assert holds.read(client, table).rungs["org"].rung is Rung.REFUSED


async def test_what_was_watched_is_remembered_by_the_next_watcher(world: World) -> None:
    world.books.months["org"] = Money(limit=720 * USD)
    watcher = world.new()
    await watcher.look()
    await live(world, watcher, 12, usd_an_hour=1.6)
    await watcher.stop()
    world.mail()
    world.now += LEASE_SECONDS + 1
    following = world.new("two")
    await following.look()
    assert world.seen[-1].rung is Rung.CHEAPER
    assert world.subjects() == []


@pytest.mark.parametrize("hold", [False, True])
async def test_a_runaway_is_told_held_if_wanted_and_over_when_it_is_over(
    world: World, client: Any, table: str, hold: bool
) -> None:
    world.books.months["tenant:acme"] = Money()
    watcher = world.new(hold_runaways=hold)
    await watcher.look()
    await live(world, watcher, 36, usd_an_hour=1, scope="tenant:acme")
    assert world.subjects() == []
    await live(world, watcher, 1, usd_an_hour=10, scope="tenant:acme")
    [alert] = world.mail()
    assert alert["Subject"] == "[prodkit test] Runaway spending: tenant acme"
    held = holds.read(client, table).holds
    assert set(held) == ({"tenant:acme"} if hold else set())
    verb = "release" if hold else "hold"
    assert f"python -m app.budgets {verb} tenant:acme --why '...'" in alert["Message"]
    await live(world, watcher, CALM_SECONDS / HOUR + 4, usd_an_hour=1, scope="tenant:acme")
    assert world.subjects() == ["Spending back to its habit: tenant acme"]


async def test_a_message_that_was_not_sent_is_sent_again(world: World, client: Any, table: str) -> None:
    world.books.months["org"] = Money(limit=100 * USD, spent=100 * USD)
    broken = world.new(topic_arn="arn:aws:sns:us-east-1:123456789012:absent", spent_percents=[])
    with pytest.raises(Exception, match="NotFound"):
        await broken.look()
    assert holds.read(client, table).rungs["org"].rung is Rung.REFUSED, "what cannot be told holds up no rung"
    world.now += LEASE_SECONDS + 1
    await world.new("two", spent_percents=[]).look()
    assert world.subjects() == ["Budget of this service: refused"]


async def test_a_tenant_without_a_budget_is_watched_and_never_degraded(world: World, client: Any, table: str) -> None:
    world.books.months["tenant:acme"] = Money(spent=10_000 * USD)
    await world.new().look()
    assert holds.read(client, table).rungs == {}
    assert world.seen[-1].limit is None


async def test_few_reads_are_enough_and_a_limit_that_is_set_is_looked_at_at_once(world: World) -> None:
    tenants = [f"tenant:t{number}" for number in range(20)]
    world.books.months = {scope: Money() for scope in (*tenants, "key:0123456789ab", "org")}
    world.books.months["org"] = Money(limit=10_000 * USD, reserved=1)
    watcher, began = world.new(), NOVEMBER.start + 86_400

    async def an_hour() -> int:
        world.books.asked.clear()
        world.now = began
        while world.now < began + HOUR:
            await watcher.look()
            world.now += watcher.pause
        return len(world.books.asked)

    assert await an_hour() < 0.2 * HOUR, "a fifth of a read a second"
    assert world.books.asked.count("tenant:t7") == HOUR / FREE_SECONDS
    assert world.books.asked.count("org") == HOUR / ORG_SECONDS
    began += HOUR
    world.books.months["tenant:t7"].limit = USD // 10
    await an_hour()
    assert world.books.asked.index("tenant:t7") <= 2
    assert world.books.asked.count("tenant:t7") == HOUR / ORG_SECONDS, "a dollar a minute would end it in six seconds"
    began += HOUR
    world.books.months["org"].reserved = 0
    await an_hour()
    assert world.books.asked.count("tenant:t7") == HOUR / FREE_SECONDS, "nobody can spend"
    world.books.months["org"].reserved = 1
    world.books.asked.clear()
    for _ in range(2):
        await watcher.look()
        world.now += watcher.pause
    assert "tenant:t7" in world.books.asked


async def test_who_stops_in_order_is_followed_at_once_by_one_that_knows_as_much(world: World) -> None:
    world.books.months["org"] = Money(limit=720 * USD)
    watcher = world.new()
    await watcher.look()
    await live(world, watcher, 1, usd_an_hour=0.9)
    world.books.months["org"].spent += USD
    world.now += 60
    await watcher.look()
    left = watcher._known["org"]
    await watcher.stop()
    following = world.new("two")
    assert await following.look()
    taken = following._known["org"]
    assert (taken.spent, taken.places) == (left.spent, left.places)
    assert taken.history.last(6, world.now) == left.history.last(6, world.now) > 0
    await watcher.stop()
    assert not await world.new("three").look(), "who does not watch leaves nothing to others"


async def test_an_older_read_counts_nothing_twice(world: World) -> None:
    world.books.months["org"] = Money(limit=720 * USD, spent=10 * USD)
    watcher = world.new()
    await watcher.look()
    for spent in (12, 11, 12, 10, 12):
        world.books.months["org"].spent = spent * USD
        world.now += LOOK_SECONDS
        await watcher.look()
    assert sum(watcher._known["org"].history.hours.values()) == 2 * USD


@pytest.mark.parametrize("limit", [10 * USD, None], ids=["with a budget", "without one"])
def test_what_a_round_saw_is_metrics_of_the_organisation_without_any_tenant(
    settings: Settings, capsys: pytest.CaptureFixture[str], limit: int | None
) -> None:
    report(settings, Seen(4 * USD, 2 * USD, USD, limit, Rung.CHEAPER))
    document = json.loads(capsys.readouterr().out)
    values = {"BudgetSpentUsd": 4.0, "BudgetReservedUsd": 2.0, "BudgetSuspenseUsd": 1.0}
    values |= {"BudgetRung": 3, "BudgetWatch": 1}
    values |= {} if limit is None else {"BudgetHeadroomUsd": 3.0}
    assert {name: value for name, value in document.items() if name != "_aws"} == {
        "Stack": "test",
        "Service": "web",
        **values,
    }
    [directive] = document["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Stack", "Service"]]


def test_a_memory_comes_back_as_it_was_kept() -> None:
    memory = Memory(month="M2026-11", spent=5, told={"M2026-11": 3}, runaway_at=1.5)
    memory.history.add(1_000.0, 0)
    memory.history.add(5_000.0, 77)
    assert Memory.from_text(memory.to_text()) == memory
