"""The steps against a table that speaks DynamoDB: the same conditions, the same changes as the protocol's own."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.aws import Aws
from app.ledger.entries import MAX_ENTRIES, MAX_OPEN, MAX_TEXT, MAX_TIER, Entry, Page, pack, sequence, unpack
from app.ledger.item import (
    UNBOUNDED_PICO,
    Bump,
    Bury,
    Close,
    Item,
    Op,
    Open,
    Reclaim,
    Resolve,
    SetAside,
    SetLimit,
    Slot,
    Use,
)
from app.ledger.table import LedgerTable
from tests.app.conftest import CloudParts

pytestmark = pytest.mark.process
NOW = 1_795_000_000

HANDLES = st.sampled_from(["a.1", "a.2", "b.1"])
SMALL = st.integers(0, 60)
NUMBERS = st.integers(1, 3)
SLOTS = st.builds(Slot, NUMBERS, st.integers(20, 60), st.integers(0, 20))
OPS: st.SearchStrategy[Op] = st.one_of(
    st.builds(Open, HANDLES, SMALL),
    st.builds(Bump, HANDLES, NUMBERS, SMALL, SMALL, st.booleans(), st.sampled_from([(), ("b.1",)])),
    st.builds(Close, HANDLES, NUMBERS, SMALL, SMALL),
    st.builds(Reclaim, HANDLES, SLOTS),
    st.builds(Resolve, HANDLES, SLOTS, SMALL),
    st.builds(Bury, st.sampled_from([("b.1",), ("a.1", "a.2")])),
    st.builds(SetLimit, st.integers(1, 2), st.just(100), SMALL),
    st.builds(SetAside, SMALL, st.sampled_from(["", "1122", "1123"])),
    st.builds(Use, SMALL, SMALL, st.sampled_from(["", "1122"])),
)


@pytest.fixture
def aws(cloud: CloudParts) -> Iterator[Aws]:
    clients = Aws("us-east-1", cloud.url)
    yield clients
    clients.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops=st.lists(OPS, min_size=1, max_size=10))
def test_a_step_means_in_dynamodb_what_it_means_in_the_protocol(aws: Aws, ops: list[Op]) -> None:
    table = LedgerTable(aws, "ledger", wall_clock=lambda: NOW)
    scope = f"tenant:{secrets.token_hex(6)}"

    async def play() -> None:
        here = await table.create(scope, "M2026-11", 100)
        for op in ops:
            before = here.copy()
            taken = op.apply(here, NOW)
            assert await table.step(scope, "M2026-11", op) == (taken, here if taken else before)
        assert await table.read(scope, "M2026-11") == here

    asyncio.run(play())


async def test_of_two_who_make_an_item_one_makes_it_and_both_see_it(aws: Aws) -> None:
    table, scope = LedgerTable(aws, "ledger"), f"tenant:{secrets.token_hex(6)}"
    made = await asyncio.gather(*(table.create(scope, "M2026-11", limit) for limit in (5, 6, 7)))
    assert len({item.limit for item in made}) == 1
    assert scope in await table.scopes("M2026-11")


async def test_an_item_holds_a_trillion_dollars_to_the_pico_dollar(aws: Aws) -> None:
    table, scope = LedgerTable(aws, "ledger"), f"tenant:{secrets.token_hex(6)}"
    await table.create(scope, "M2026-11", UNBOUNDED_PICO)
    taken, item = await table.step(scope, "M2026-11", Open("a.1", UNBOUNDED_PICO - 1))
    assert taken
    assert item is not None
    assert item.avail == 1


async def test_a_step_on_an_item_that_is_not_there_says_so(aws: Aws) -> None:
    assert await LedgerTable(aws, "ledger").step("tenant:none", "M2026-11", Open("a.1", 1)) == (False, None)


def entry(name: str, pico: int = 5) -> Entry:
    return Entry(name, 1.5, "t", "k", "f", "fast", "m", "default", 10, 1, 2, 3, 1, "v", pico, "ok", "up", "odd")


TEXT = st.text(max_size=20)
ENTRIES = st.builds(
    Entry,
    *[TEXT, st.floats(0, 1e10), *[TEXT] * 6],
    *[st.integers(-(10**20), 10**20)] * 5,
    *[TEXT, st.integers(0, 10**30), TEXT, TEXT, TEXT, st.integers(1, 10**9)],
)


@given(st.lists(ENTRIES, max_size=5), st.integers(1, 8))
def test_a_page_comes_back_as_it_was_whatever_is_in_it(entries: list[Entry], times: int) -> None:
    page = Page("b", "s", tuple(entries * times), (("org", "M2026-11", "b.1", 10**30),), (("r", "t", "m", 10**25),))
    assert unpack("b", "s", pack(page)) == page


@pytest.mark.parametrize("fields", [len(Entry._fields), len(Entry._fields) - 1])
def test_a_page_of_before_there_were_columns_or_counts_is_still_read(fields: int) -> None:
    leases, flying = (("org", "M2026-11", "b.1", 10**30),), (("r", "t", "m", 10**25),)
    row = [str(value) if type(value) is int else value for value in entry("one", 10**20)]
    row[-1] = 1
    before = [[row[:fields]], *([[*each[:3], str(each[3])] for each in some] for some in (leases, flying))]
    assert unpack("b", "s", zlib.compress(orjson.dumps(before))) == Page(
        "b", "s", (entry("one", 10**20),), leases, flying
    )


def test_a_full_page_fits_into_an_item_whatever_openai_says() -> None:
    def noise(characters: int) -> str:
        return secrets.token_urlsafe(characters)[:characters]

    def odd() -> Entry:
        name, at, count = f"req_{secrets.token_hex(16)}.1", secrets.randbits(40) / 64, secrets.randbits(20)
        who, served, upstream = (noise(63), noise(12), noise(40), "fast"), noise(MAX_TEXT), noise(MAX_TEXT)
        spent = (count, count // 3, count // 5, count // 7, count // 11)
        return Entry(name, at, *who, served, noise(MAX_TIER), *spent, "2026-11-22", count**3, "ok", upstream)

    entries = tuple(odd() for _ in range(MAX_ENTRIES))
    leases = tuple(
        (scope, "M2026-11", f"{'b' * 12}.{number}", one.pico)
        for number, one in enumerate(entries)
        for scope in (f"tenant:{one.tenant}", f"key:{one.key}")
    )
    flying = tuple((f"req_{secrets.token_hex(16)}.1", noise(63), "gpt-6-luna", 10**12) for _ in range(MAX_OPEN))
    assert len(pack(Page("b", "s", entries, leases, flying))) < 400_000 - 1_000


@pytest.mark.parametrize("body", [b"", b"nonsense", pack(Page("b", "s", (), (), ()))[:-3]])
def test_a_page_that_is_none_is_named(body: bytes) -> None:
    with pytest.raises(ValueError, match="page b/s cannot be read"):
        unpack("b", "s", body)


async def test_a_page_that_is_written_twice_is_there_once(aws: Aws) -> None:
    table, boot = LedgerTable(aws, "ledger"), secrets.token_hex(6)
    page = Page(boot, sequence(NOW, 1), (entry("one"),), (), ())
    await table.put_page(page)
    await table.put_page(page._replace(entries=(entry("another"),)))
    assert [each async for each in table.pages(boot, page.day)] == [page]
    assert [each async for each in table.pages(boot, "1999-01-01")] == []
    assert boot in await table.boots(page.day)


async def test_a_limit_is_set_with_who_and_why_and_moves_the_version(aws: Aws) -> None:
    table, scope = LedgerTable(aws, "ledger"), f"tenant:{secrets.token_hex(6)}"
    before = await table.limits_version()
    await table.set_standing(scope, "M", 10**15, "ada", "a bigger month")
    await table.set_standing(scope, "D", None, "ada", "no daily budget any more")
    known = await table.standing()
    assert known.version == before + 2 == await table.limits_version()
    assert (known.limits[scope, "M"], known.limits[scope, "D"]) == (10**15, None)
    changes = await table.changes(scope)
    assert sorted((change["by"], change["why"]) for change in changes) == [
        ("ada", "a bigger month"),
        ("ada", "no daily budget any more"),
    ]


async def test_heartbeats_count_up_and_the_dead_have_none(aws: Aws) -> None:
    table, boot = LedgerTable(aws, "ledger"), secrets.token_hex(6)
    for _ in range(3):
        await table.beat(boot)
    assert await table.beats([boot, "never-was"]) == {boot: 3}
    assert Item(1, 1).copy() == Item(1, 1)
