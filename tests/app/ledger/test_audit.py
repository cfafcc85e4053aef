from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.aws import Aws
from app.ledger import Entry, Ledger, Payer
from app.ledger import __main__ as command
from app.ledger.audit import CLOSE_PICO, Booked, Tokens, book, broken_sums, compare, dollars_agree, share_out
from app.ledger.entries import Kept, Outcome, Page, sequence, total
from app.ledger.evidence import Bill, aside_day
from app.ledger.item import Item, Reclaim, Slot
from app.prices import PICO_PER_USD
from tests.app.conftest import CloudParts

DAY = "2026-11-18"
NOW = 1_795_000_000.0


def entry(model: str, tokens: int, pico: int, flags: str = "", name: str = "r") -> Entry:
    return Entry(name, NOW, "t", "k", "f", "a", model, "default", tokens, 0, 0, tokens, 0, "v", pico, "ok", "", flags)


def unexplained(entries: list[Entry], billed: dict[str, Tokens], *, suspense: bool = False) -> list[Tokens]:
    sums: dict[str, Booked] = {}
    book(sums, entries)
    return [finding.unexplained for finding in compare(sums, billed, {}, suspense)]


def test_entries_that_say_what_was_billed_leave_nothing_unexplained() -> None:
    entries = [entry("m", 10, 5), entry("m", 20, 7)]
    assert unexplained(entries, {"m": Tokens(30, 30)}) == [Tokens(0, 0)]


@pytest.mark.parametrize(("billed", "found"), [(31, 1), (29, -1), (0, -30)])
def test_a_token_too_many_or_too_few_is_found(billed: int, found: int) -> None:
    entries = [entry("m", 10, 5), entry("m", 20, 7)]
    assert unexplained(entries, {"m": Tokens(billed, billed)}) == [Tokens(found, found)]


def test_a_model_that_only_openai_knows_is_found() -> None:
    assert unexplained([], {"m": Tokens(3, 0)}) == [Tokens(3, 0)]


def test_an_estimate_explains_anything_up_to_itself_and_suspense_what_lies_beyond() -> None:
    entries = [entry("m", 10, 5), entry("m", 20, 7, "estimated")]
    for billed, found in ((10, 0), (30, 0), (31, 1), (9, -1)):
        assert unexplained(entries, {"m": Tokens(billed, billed)}) == [Tokens(found, found)]
    assert unexplained(entries, {"m": Tokens(31, 31)}, suspense=True) == [Tokens(0, 0)]


def test_dollars_agree_within_a_cent_or_a_thousandth() -> None:
    assert dollars_agree(PICO_PER_USD, PICO_PER_USD + PICO_PER_USD // 100)
    assert not dollars_agree(PICO_PER_USD, PICO_PER_USD + PICO_PER_USD // 50)
    assert dollars_agree(1_000 * PICO_PER_USD, 1_001 * PICO_PER_USD)


def test_an_item_that_lost_money_and_tenants_that_are_not_the_organisation_are_found() -> None:
    whole = Item(10, 5, spent=2, slots={"a.1": Slot(1, 3, 0)})
    assert broken_sums({"org": whole}) == []
    assert "org: available" in broken_sums({"org": Item(10, 5)})[0]
    assert "tenants spent 1" in broken_sums({"org": Item(10, 8, spent=2), "tenant:a": Item(10, 9, spent=1)})[0]


@given(st.integers(0, 1_000), st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_what_is_shared_out_is_all_of_it(residual: int, rooms: list[int]) -> None:
    shares = share_out(residual, {str(index): room for index, room in enumerate(rooms)})
    assert sum(shares.values()) == residual
    assert all(shares[str(index)] <= room for index, room in enumerate(rooms[:-1]))


@pytest.fixture
def aws(cloud: CloudParts) -> Iterator[Aws]:
    table = f"ledger-{secrets.token_hex(4)}"
    cloud.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    clients = Aws("us-east-1", cloud.url)
    clients.table = table  # type: ignore[attr-defined]  # one of its own: verify looks at every scope
    yield clients
    clients.close()


@pytest.mark.process
async def test_what_a_dead_replica_was_billed_is_resolved_by_evidence_to_the_last_pico_dollar(
    aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = Ledger(aws, aws.table, wall_clock=lambda: NOW)
    payer = Payer("t", "k", "m")
    hold = await dead.reserve(payer, 1_000, "r1")
    dead.settle(hold, entry("m", 10, 400, name="r1"))
    await dead.flush()
    await dead.reserve(payer, 1_000, "r2")  # OpenAI answers this one; nobody is left to write it down
    table = dead.table
    for scope in await table.scopes("M2026-11"):
        item = await table.read(scope, "M2026-11")
        assert item is not None
        for handle, slot in item.slots.items():
            await table.step(scope, "M2026-11", Reclaim(handle, slot))
    bill = Bill({"m": Tokens(15, 15)}, {"m": 650})
    assert await command._verify(table, DAY, bill, resolve=False) == 0
    assert "in any other --resolve-final does" in capsys.readouterr().out
    assert await command._verify(table, DAY, bill, resolve=True) == 0
    for scope in await table.scopes("M2026-11"):
        item = await table.read(scope, "M2026-11")
        assert item is not None
        assert (item.spent, item.avail, item.slots, item.susp) == (650, item.limit - 650, {}, {}), scope
    assert sum([total(page.entries) async for page in table.day_pages(DAY)]) == 650
    resolved = capsys.readouterr().out
    assert "0 unexplained; suspense resolved" in resolved
    assert "--resolve-final" not in resolved
    assert "estimates" not in resolved
    assert await command._verify(table, DAY, bill, resolve=False) == 0
    told = capsys.readouterr().out
    assert "$0.00000000025 of the entries are of audits" in told
    assert "are estimates" not in told
    more = Bill({"m": Tokens(1_015, 15)}, {"m": 1_650 + 2 * CLOSE_PICO})
    assert await command._verify(table, DAY, more, resolve=False) == 1, "what was settled explains itself alone"


@pytest.mark.parametrize(
    ("tokens", "pico", "hidden"),
    [(10, 5, 0), (25, 12, 7), (30, 15, 10), (35, 17, 12)],
    ids=["nothing beyond the exact ones", "less than was estimated", "as estimated", "more"],
)
def test_estimates_hide_at_most_what_was_billed_beyond_the_exact_entries(tokens: int, pico: int, hidden: int) -> None:
    sums: dict[str, Booked] = {}
    book(sums, [entry("m", 10, 5), entry("m", 20, 10, "estimated"), entry("n", 1, 1)])
    bill = Bill({"m": Tokens(tokens, tokens), "n": Tokens(9, 9)}, {"m": pico, "n": 9})
    estimated, exact = compare(sums, bill.tokens, bill.pico, suspense=False)
    assert (estimated.hides_pico, exact.hides_pico) == (hidden, 0), "what has no estimate is unexplained instead"


@pytest.mark.process
async def test_verify_takes_a_batch_that_is_not_filed_for_no_loss_and_settles_nothing_by_it(
    aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(aws, aws.table, wall_clock=lambda: NOW)
    places = await ledger.places(Payer("t", "k", "m"))
    assert await ledger.set_aside(places, PICO_PER_USD, [], aside_day(NOW))
    bill = Bill({"m": Tokens(10, 10)}, {"m": PICO_PER_USD // 2})
    assert await command._verify(ledger.table, DAY, bill, resolve=False) == 0
    assert "$1.00 is set aside for requests of batches that nobody has filed" in capsys.readouterr().out
    assert await command._verify(ledger.table, DAY, bill, resolve=True) == 1
    assert "UNEXPLAINED $0.50 may be of batches of this day that are not filed" in capsys.readouterr().out
    assert await ledger.use(places, PICO_PER_USD, None, [], aside_day(NOW))
    assert await command._verify(ledger.table, DAY, bill, resolve=False) == 1, "nobody waits for it any more"


@pytest.mark.process
async def test_verify_says_how_much_of_a_loss_estimates_may_hide(aws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table = Ledger(aws, aws.table).table
    entries = (entry("m", 10, 5_000_000), entry("m", 20, 10_000_000, "estimated", "r2"))
    await table.put_page(Page("boot", sequence(NOW, 1), entries, (), ()))
    assert await command._verify(table, DAY, Bill({"m": Tokens(25, 25)}, {"m": 12_000_000}), resolve=False) == 0
    said = capsys.readouterr().out
    assert "$0.000010 of the entries are estimates, for which OpenAI billed at most $0.000007" in said
    assert "they may hide a loss of at most $0.000007" in said


@pytest.mark.process
async def test_a_report_counts_every_kept_answer_and_nothing_is_billed_for_one(
    aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(aws, aws.table, wall_clock=lambda: NOW)
    ledger.settle(await ledger.reserve(Payer("t", "k", "m"), 1_000, "r1"), entry("m", 10, 400, name="r1"))
    for outcome, times in ((Outcome.CACHED, 3), (Outcome.JOINED, 2)):
        for number in range(times):
            ledger.count(Kept("t", "k", "f", "a", "m", "v", outcome), f"{outcome}{number}")
    await ledger.stop()
    assert await command._report(ledger.table, DAY, command.DEFAULT_VIEWS) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("t  m  default  cached  3 answers  $0.00")
    assert said[1].startswith("t  m  default  joined  2 answers  $0.00")
    assert said[3].startswith(f"{DAY}: 1 attempts, 5 answers without one, ")
    assert await command._verify(ledger.table, DAY, Bill({"m": Tokens(10, 10)}, {"m": 400}), resolve=False) == 0


@pytest.mark.process
async def test_a_report_tells_by_any_view_what_was_paid_and_how_much_of_the_prompt_openai_had_cached(
    aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Ledger(aws, aws.table).table
    fresh, again = (entry("m", 1_500, 700, name=name) for name in ("r1", "r2"))
    batched = entry("m", 100, 20, name="r3")._replace(tier="batch", feature="nightly")
    kept = entry("m", 0, 0, name="r4")._replace(outcome="cached")
    await table.put_page(Page("boot", sequence(NOW, 1), (fresh, again._replace(cached=1_200), batched, kept), (), ()))
    assert await command._report(table, DAY, command.DEFAULT_VIEWS) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "t  m  batch  ok  1 attempts  $0.000000000020  100 input tokens, 0 % from OpenAI's prompt cache",
        "t  m  default  cached  1 answers  $0.00",
        "t  m  default  ok  2 attempts  $0.0000000014  3000 input tokens, 40 % from OpenAI's prompt cache",
        f"{DAY}: 3 attempts, 1 answers without one, $0.0000000014",
    ]
    assert await command._report(table, DAY, ["feature"]) == 0
    assert [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        ["f", "2 attempts, 1 answers"],
        ["nightly", "1 attempts"],
    ]
    with pytest.raises(SystemExit):
        command.main(["report", "--by", "tenant,colour"])
    assert "'colour' is no view; choose from tenant, key, feature" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["report", "--day", "2026-13-01"])
    assert "'2026-13-01' is no day; write it as 2026-11-30" in capsys.readouterr().err


def test_the_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert "verify" in capsys.readouterr().out


def test_what_cannot_be_asked_is_no_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "PRODKIT_LEDGER_TABLE": "ledger",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "PRODKIT_OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_ADMIN_KEY": "admin",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert command.main(["verify", "--day", "2026-11-22"]) == 2
    assert command.main(["report", "--day", "2026-11-22"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("verify of 2026-11-22 came to no result: APIConnectionError: ")
    assert told[1].startswith("report of 2026-11-22 came to no result: EndpointConnectionError: ")


def test_a_command_without_its_settings_names_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PRODKIT_LEDGER_TABLE", "AWS_REGION", "PRODKIT_OPENAI_BASE_URL", command.KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert command.main(["verify"]) == 2
    said = capsys.readouterr().err
    assert "PRODKIT_LEDGER_TABLE is missing" in said
    assert f"{command.KEY_VARIABLE} is missing" in said
