"""What waits for a batch is set aside with its record: held by no process, used once, where it was accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from app.errors import ApiError
from app.ledger import MONTHLY, Ledger, Payer, Place
from app.ledger.table import Write
from tests.app.conftest import CloudParts
from tests.app.ledger.conftest import BUDGET, WORST, Made, entry, refusal, spend

pytestmark = pytest.mark.process


def record(name: str, condition: str, charged: str) -> list[Write]:
    """The write of a request's own record."""
    item = {"pk": {"S": f"def-{name}"}, "sk": {"S": "-"}, "charged": {"S": charged}}
    return [{"Put": {"TableName": "state", "Item": item, "ConditionExpression": condition}}]


def accepted(payer: Payer, name: str = "") -> list[Write]:
    return record(payer.key + name, "attribute_not_exists(pk)", "no")


def charged(payer: Payer, name: str = "") -> list[Write]:
    item = record(payer.key + name, "charged = :no", "yes")
    item[0]["Put"]["ExpressionAttributeValues"] = {":no": {"S": "no"}}
    return item


async def limited(ledger: Ledger, payer: Payer, limit: int = BUDGET) -> Sequence[Place]:
    await ledger.set_limit(f"tenant:{payer.tenant}", MONTHLY, limit, by="ada", why="a test")
    return await ledger.places(payer)


async def test_what_is_set_aside_is_held_when_the_process_is_gone_and_refuses_what_has_no_room(
    make: Made, payer: Payer
) -> None:
    (gone, _, _), (other, _, _) = make(), make()
    places = await limited(gone, payer)
    assert await gone.set_aside(places, BUDGET - WORST, accepted(payer))
    await gone.stop()
    account = await other.account(f"tenant:{payer.tenant}")
    assert (account.reserved, account.spent, account.left) == (BUDGET - WORST, 0, WORST)
    for work in (
        other.set_aside(places, WORST + 1, accepted(payer, "more")),
        other.reserve(payer, WORST + 1, "now"),
    ):
        refused = await refusal(work)
        assert (refused.status, refused.code) == (429, "insufficient_quota")
        for said in (f"tenant {payer.tenant}", "rung 'refused'", "starts anew at 2026-12-01T00:00:00+00:00"):
            assert said in refused.message
    await spend(other, payer, WORST)  # what is left is anybody's


async def test_the_window_that_accepted_pays_for_what_is_answered_in_the_next_one(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    places = await limited(ledger, payer)
    assert await ledger.set_aside(places, WORST, accepted(payer))
    clock.now += 20 * 86_400
    assert await ledger.use(places, WORST, entry(payer, "late", 77), charged(payer))
    november = await ledger.table.read(f"tenant:{payer.tenant}", "M2026-11")
    assert november is not None
    assert (november.spent, november.avail, november.aside) == (77, BUDGET - 77, 0)
    assert (await ledger.account(f"tenant:{payer.tenant}")).spent == 0, "December"
    pages = ledger.table.pages(ledger.book.boot)
    assert [each.id async for page in pages for each in page.entries] == ["late"]


async def test_it_is_used_once_however_often_and_wherever_that_is_tried(make: Made, payer: Payer) -> None:
    (first, aws, _), (second, _, _) = make(), make()
    places = await limited(first, payer)
    assert await first.set_aside(places, WORST, accepted(payer))
    assert not await second.set_aside(places, WORST, accepted(payer)), "the same request again"
    assert await first.use(
        places, 0, entry(payer, "another", 1), record(payer.tenant, "attribute_not_exists(pk)", "yes")
    )
    fact = entry(payer, "fact", 77)
    aws.away, aws.late = True, True
    with pytest.raises(ApiError, match="does not answer"):
        await first.use(places, WORST, fact, charged(payer))
    aws.away = False
    assert not await first.use(places, WORST, fact, charged(payer)), "booked by the try that nobody answered"
    assert not await second.use(places, WORST, None, charged(payer))
    item = await first.table.read(*places[1])
    assert item is not None
    assert (item.spent, item.avail, item.aside) == (78, BUDGET - 78, 0)
    pages = first.table.pages(first.book.boot)
    assert [each.id async for page in pages for each in page.entries] == ["another", "fact"]


async def test_what_was_never_made_gives_everything_back_and_costs_no_entry(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    places = await limited(ledger, payer)
    assert await ledger.set_aside(places, WORST, accepted(payer))
    assert await ledger.use(places, WORST, None, charged(payer))
    account = await ledger.account(f"tenant:{payer.tenant}")
    assert (account.spent, account.reserved, account.left) == (0, 0, BUDGET)
    assert [page async for page in ledger.table.pages(ledger.book.boot)] == []


async def test_a_cost_beyond_what_was_set_aside_is_booked_all_the_same(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    places = await limited(ledger, payer, WORST)
    assert await ledger.set_aside(places, WORST, accepted(payer))
    assert await ledger.use(places, WORST, entry(payer, "dear", 3 * WORST), charged(payer))
    account = await ledger.account(f"tenant:{payer.tenant}")
    assert (account.spent, account.left) == (3 * WORST, -2 * WORST)


async def test_many_at_once_fit_exactly_and_the_rest_is_refused(make: Made, payer: Payer) -> None:
    (first, _, _), (second, _, _) = make(), make()
    places = await limited(first, payer, 5 * WORST)
    work = [(first, second)[number % 2].set_aside(places, WORST, accepted(payer, str(number))) for number in range(12)]
    found = await asyncio.gather(*work, return_exceptions=True)
    assert found.count(True) == 5
    assert {each.code for each in found if isinstance(each, ApiError)} == {"insufficient_quota"}


@pytest.mark.parametrize("operation", ["update_item", "transact_write_items"])
async def test_a_step_that_a_transaction_of_others_hinders_is_taken_after_it(
    make: Made, payer: Payer, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    ledger, aws, _ = make()
    places = await limited(ledger, payer)
    real, hindered = aws.call, 0

    async def busy(service: str, asked: str, /, **parameters: Any) -> Any:
        nonlocal hindered
        if asked == operation and hindered < 3:
            hindered += 1
            reasons = {"CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict"}]}
            if asked == "update_item":
                raise ClientError({"Error": {"Code": "TransactionConflictException", "Message": ""}}, asked)
            code = {"Error": {"Code": "TransactionCanceledException", "Message": ""}, **reasons}
            raise ClientError(code, asked)  # type: ignore[arg-type]
        return await real(service, asked, **parameters)

    monkeypatch.setattr(aws, "call", busy)
    if operation == "update_item":
        await spend(ledger, payer, 5)
    else:
        assert await ledger.set_aside(places, WORST, accepted(payer))
    assert hindered == 3


@pytest.fixture(autouse=True, scope="session")
def _state_table(cloud: CloudParts) -> None:
    """Where the records are."""
    client = cloud.client("dynamodb")
    if "state" not in client.list_tables()["TableNames"]:
        client.create_table(
            TableName="state",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )


async def test_those_of_one_moment_share_their_steps_and_one_that_is_refused_takes_none_with_it(
    make: Made, payer: Payer
) -> None:
    ledger, aws, _ = make()
    places = await limited(ledger, payer)
    assert await ledger.set_aside(places, WORST, accepted(payer, "3"))
    before = ledger.table.writes
    found = await asyncio.gather(
        *(ledger.set_aside(places, WORST, accepted(payer, str(number))) for number in range(10))
    )
    assert found == [number != 3 for number in range(10)], "its record is there already"
    assert ledger.table.writes - before == 2 * (10 + 4) + 2 * (9 + 4), "once with it, and once without"
    assert await ledger.use(places, WORST, entry(payer, "9", 9), charged(payer, "9"))
    aws.away = aws.late = True  # all of them are booked, and nobody hears of it
    work = [ledger.use(places, WORST, entry(payer, str(n), n), charged(payer, str(n))) for n in range(5)]
    assert {type(each) for each in await asyncio.gather(*work, return_exceptions=True)} == {ApiError}
    aws.away = False
    work = [ledger.use(places, WORST, entry(payer, str(n), n), charged(payer, str(n))) for n in range(10)]
    assert await asyncio.gather(*work) == [5 <= number < 9 for number in range(10)]
    account = await ledger.account(f"tenant:{payer.tenant}")
    assert (account.spent, account.reserved, account.left) == (sum(range(10)), 0, BUDGET - sum(range(10)))
    pages = [page async for page in ledger.table.pages(ledger.book.boot)]
    assert sorted(int(each.id) for page in pages for each in page.entries) == [*range(10)]
    assert len(pages) == 3


async def test_as_many_of_one_moment_as_have_room_are_accepted(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    places = await limited(ledger, payer, 7 * WORST)
    work = [ledger.set_aside(places, WORST, accepted(payer, str(number))) for number in range(20)]
    found = await asyncio.gather(*work, return_exceptions=True)
    assert found[:7] == [True] * 7, "in the order of their arrival"
    assert {each.code for each in found[7:] if isinstance(each, ApiError)} == {"insufficient_quota"}
    assert (await ledger.account(f"tenant:{payer.tenant}")).left == 0


async def test_a_transaction_holds_no_more_than_it_may_and_nothing_twice(make: Made, payer: Payer) -> None:
    ledger, _, _ = make()
    places = await limited(ledger, payer)
    names = [str(number) for number in range(120)]
    work = [ledger.set_aside(places, 1, accepted(payer, name)) for name in [*names, *names]]
    found = await asyncio.gather(*work)
    assert sorted(found[: len(names)]) == [True] * len(names)
    assert not any(found[len(names) :])
    assert (await ledger.account(f"tenant:{payer.tenant}")).reserved == len(names)


async def test_what_is_filed_days_late_is_found_by_whoever_looks_at_its_day(make: Made, payer: Payer) -> None:
    ledger, _, clock = make()
    places = await limited(ledger, payer)
    assert await ledger.set_aside(places, WORST, accepted(payer))
    clock.now += 5 * 86_400
    late = entry(payer, f"late-{payer.tenant}", 77)
    assert await ledger.use(places, WORST, late, charged(payer))
    assert late in [each async for page in ledger.table.day_pages("2026-11-18") for each in page.entries]
