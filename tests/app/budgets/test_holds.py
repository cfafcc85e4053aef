from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC
from typing import Any

import pytest

from app.aws import Aws
from app.budgets import holds
from app.budgets.__main__ import main
from app.budgets.control import CONTROL_KEY, ControlSource, Standing, read_control, rungs_attribute
from app.budgets.gate import BudgetGate
from app.budgets.policy import Rung
from app.budgets.scope import described, scope_of
from app.budgets.window import Span, window_at
from app.errors import ApiError
from app.keys import Identity
from app.ledger.item import Use
from app.ledger.table import LedgerTable
from app.models import Models, default_document
from app.observability.metrics import HELD_REQUESTS, Metrics
from app.pipeline.endpoints import EMBEDDINGS, RESPONSES
from tests.app.conftest import REGION, CloudParts, free_port

pytestmark = pytest.mark.process
NOW = 1_795_374_000.0
MODELS = Models(default_document())
ACME = Identity("acme", "0123456789ab", "test", "user", None, None)


@pytest.fixture
def run(cloud: CloudParts, table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line against the test's table: exit code, output, complaints."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("PRODKIT_STATE_TABLE", table)

    def command(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


@pytest.mark.parametrize("scope", ["org", "tenant:acme", "key:0123456789ab", "model:gpt-6.2-sol"])
async def test_what_is_held_is_refused_and_what_is_released_is_served(
    aws: Aws, client: Any, table: str, scope: str
) -> None:
    control = ControlSource(aws, table)
    gate = BudgetGate(control, Metrics("test", "web", write=lambda _line: None))
    await control.poll()
    gate.admit(ACME, "gpt-6.2-sol")
    holds.hold(client, table, scope, "ops", "costs too much", now=NOW)
    await control.poll()
    with pytest.raises(ApiError) as caught:
        gate.admit(ACME, "gpt-6.2-sol")
    assert (caught.value.status, caught.value.code, caught.value.type) == (403, "spending_held", "permission_error")
    assert f"Spending of {described(scope)} is on hold since 2026-11-22T19:00:00Z" in caught.value.message
    assert f"app.budgets release {scope}" in caught.value.message
    assert "costs too much" not in caught.value.message
    assert gate.may_use("gpt-6.2-sol") is not scope.startswith("model:")
    if scope != "org":
        gate.admit(Identity("globex", "ffffffffffff", "other", "user", None, None), "gpt-6-luna")
    holds.release(client, table, scope, "ops", "paid", now=NOW + 1)
    await control.poll()
    gate.admit(ACME, "gpt-6.2-sol")


async def test_a_held_request_is_counted(aws: Aws, client: Any, table: str) -> None:
    lines: list[str] = []
    metrics = Metrics("test", "web", write=lines.append)
    control = ControlSource(aws, table)
    holds.hold(client, table, "org", "ops", "why", now=NOW)
    await control.poll()
    with pytest.raises(ApiError):
        BudgetGate(control, metrics).admit(ACME, "gpt-6-luna")
    metrics.emit()
    assert f'"{HELD_REQUESTS}":1' in lines[0]


def test_every_change_is_on_record_with_who_and_why(client: Any, table: str) -> None:
    holds.hold(client, table, "tenant:acme", "ops", "runaway", now=NOW)
    holds.release(client, table, "tenant:acme", "lead", "was a test", now=NOW + 60)
    log = holds.history(client, table, most=10)
    assert [(audit.action, audit.scope, audit.by, audit.why, audit.at) for audit in log] == [
        ("release", "tenant:acme", "lead", "was a test", "2026-11-22T19:01:00Z"),
        ("hold", "tenant:acme", "ops", "runaway", "2026-11-22T19:00:00Z"),
    ]


def test_a_change_that_was_none_leaves_no_record(client: Any, table: str) -> None:
    first = holds.hold(client, table, "tenant:acme", "ops", "runaway", now=NOW)
    assert holds.hold(client, table, "tenant:acme", "lead", "again", now=NOW + 60) == first
    with pytest.raises(LookupError, match="tenant:globex is not held; held is tenant:acme"):
        holds.release(client, table, "tenant:globex", "lead", "typo", now=NOW + 60)
    assert len(holds.history(client, table, most=10)) == 1


def test_holds_have_a_bound(client: Any, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "MAX_HOLDS", 1)
    holds.hold(client, table, "tenant:acme", "ops", "why", now=NOW)
    with pytest.raises(ValueError, match="1 scopes are held already; release some, or hold org"):
        holds.hold(client, table, "tenant:globex", "ops", "why", now=NOW)


@pytest.mark.parametrize(
    ("by", "why"), [("", "why"), ("ops", " "), ("ops", "a\nb"), ("o" * 101, "why"), ("ops", "w" * 301)]
)
def test_nobody_changes_anything_without_saying_who_and_why(client: Any, table: str, by: str, why: str) -> None:
    with pytest.raises(ValueError, match="printable characters; say who or why"):
        holds.hold(client, table, "org", by, why, now=NOW)
    assert holds.read(client, table).holds == {}


async def test_when_the_table_is_away_the_last_switches_stay(aws: Aws, client: Any, table: str) -> None:
    holds.hold(client, table, "org", "ops", "why", now=NOW)
    control = ControlSource(aws, table)
    await control.poll()
    away = Aws(REGION, f"http://127.0.0.1:{free_port()}")
    control._aws = away
    await control.poll()
    away.close()
    assert set(control.current.holds) == {"org"}


async def test_a_rung_ends_with_its_window(aws: Aws, client: Any, table: str) -> None:
    rungs = {"tenant:acme": Standing(Rung.CHEAPER, NOW + 100), "org": Standing(Rung.SHORTER, NOW + 200)}
    client.put_item(TableName=table, Item={**CONTROL_KEY, "rungs": rungs_attribute(rungs)})
    control = ControlSource(aws, table)
    await control.poll()
    assert control.current.rungs == rungs
    now = NOW
    gate = BudgetGate(control, Metrics("test", "web"), wall_clock=lambda: now)
    document = {"model": "best", "input": "Hi"}
    rung, changed = gate.degrade(RESPONSES, document, MODELS, ACME, background=False)
    assert (rung, changed["model"]) == (Rung.CHEAPER, "gpt-6.1-terra")
    assert gate.degrade(EMBEDDINGS, {"model": "embed"}, MODELS, ACME, background=True) == (
        Rung.CHEAPER,
        {"model": "embed"},
    )
    now = NOW + 100
    assert gate.degrade(RESPONSES, document, MODELS, ACME, background=False)[0] is Rung.SHORTER
    now = NOW + 200
    assert gate.degrade(RESPONSES, document, MODELS, ACME, background=False) == (Rung.NORMAL, document)


def test_an_item_that_makes_no_sense_holds_what_it_names_and_degrades_nothing() -> None:
    control = read_control({"holds": {"M": {"org": {"S": "?"}}}, "rungs": {"M": {"org": {"M": {"rung": {"N": "99"}}}}}})
    assert set(control.holds) == {"org"}
    assert control.rungs == {}


def test_the_command_holds_shows_and_releases(run: Any) -> None:
    assert run("hold", "tenant:acme", "--why", "runaway", "--by", "ops")[0] == 0
    shown = run("show")[1]
    assert "tenant:acme" in shown
    assert "runaway" in shown
    assert run("release", "tenant:acme", "--why", "over", "--by", "lead")[0] == 0
    assert "tenant:acme" not in run("show")[1]
    log = run("log")[1]
    assert [line.split()[1:4] for line in log.splitlines()[1:]] == [
        ["release", "tenant:acme", "lead"],
        ["hold", "tenant:acme", "ops"],
    ]


def test_the_command_sets_a_limit_and_says_who_did(run: Any, cloud: CloudParts) -> None:
    scope = f"tenant:t-{secrets.token_hex(4)}"
    ledger = ("--ledger-table", "ledger")
    said = run("set", scope, "month", "0.5", "--why", "drill", "--dry-run", *ledger)[1]
    assert said.startswith("would set: tenant t-")
    assert run("set", scope, "month", "12.5", "--why", "a trial", "--by", "ops", *ledger)[0] == 0
    assert run("set", scope, "day", "none", "--why", "over", "--by", "lead", *ledger)[0] == 0
    said = run("set", scope, "day", "--default", "--why", "as planned", "--by", "lead", *ledger)[1]
    assert "may spend what the stack's settings say each day" in said
    log = [line.split() for line in run("log", "--most", "200", *ledger)[1].splitlines() if scope in line]
    assert sorted(line[3:] for line in log) == [
        ["lead", "as", "planned", "[day", "default]"],
        ["lead", "over", "[day", "none]"],
        ["ops", "a", "trial", "[month", "$12.50]"],
    ]
    item = cloud.client("dynamodb").get_item(
        TableName="ledger", Key={"pk": {"S": "L"}, "sk": {"S": f"M#{scope}"}}, ConsistentRead=True
    )["Item"]
    assert item["limit"]["N"] == str(12_500_000_000_000), "to the pico-dollar"


async def test_show_says_what_each_budget_has_spent(run: Any, aws: Aws) -> None:
    tenant = f"t-{secrets.token_hex(4)}"
    table = LedgerTable(aws, "ledger")
    name = window_at(Span.MONTH, time.time(), UTC).name
    await table.create(f"tenant:{tenant}", name, 10**12)
    await table.step(f"tenant:{tenant}", name, Use(0, 10**11))
    shown = await asyncio.to_thread(run, "show", "--ledger-table", "ledger")
    [line] = [line for line in shown[1].splitlines() if tenant in line]
    assert line.split() == [f"tenant:{tenant}", name, "$1.00", "$0.10", "$0.00", "$0.00", "$0.90"]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(run: Any) -> None:
    code, out, _ = run("hold", "org", "--why", "drill", "--dry-run")
    assert (code, out.startswith("would hold org")) == (0, True)
    assert run("release", "org", "--why", "drill", "--dry-run")[0] == 1
    run("hold", "org", "--why", "drill")
    assert run("release", "org", "--why", "drill", "--dry-run")[1].startswith("would release org")
    assert "org" in run("show")[1]
    run("release", "org", "--why", "drill")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["hold", "acme", "--why", "x"], "write org, tenant:NAME"),
        (["hold", "tenant:ACME", "--why", "x"], "write org, tenant:NAME"),
        (["hold", "key:123", "--why", "x"], "key:KEY_ID (12 hex digits)"),
        (["hold", "org"], "--why"),
        (["hold", "org", "--why", ""], "say who or why"),
        (["log", "--most", "0"], "not a whole number from 1 to 200"),
        (["drop"], "invalid choice"),
        (["set", "org", "month", "5", "--why", "x"], "set PRODKIT_LEDGER_TABLE or give --ledger-table"),
        (["set", "org", "year", "5", "--why", "x"], "invalid choice: 'year'"),
        (["set", "org", "day", "-5", "--why", "x", "--ledger-table", "l"], "limit='-5' is no amount"),
        (["set", "org", "day", "--why", "x", "--ledger-table", "l"], "or --default: one of them"),
        (["set", "org", "day", "5", "--default", "--why", "x", "--ledger-table", "l"], "or --default: one of them"),
        (["set", "org", "day", "1e3", "--why", "x", "--ledger-table", "l"], "such as 50 or 0.25"),
        ([], "required"),
    ],
)
def test_bad_arguments_are_refused_with_the_fix(run: Any, arguments: list[str], complaint: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert complaint in err


def test_releasing_what_is_not_held_says_what_is(run: Any) -> None:
    code, _, err = run("release", "tenant:acme", "--why", "x")
    assert (code, err) == (1, "python -m app.budgets: tenant:acme is not held; held is nothing\n")


def test_a_table_that_is_not_there_is_named(run: Any) -> None:
    code, _, err = run("show", "--table", "absent")
    assert code == 1
    assert "table absent in us-east-1: ResourceNotFoundException" in err


@pytest.mark.parametrize("scope", ["org", "tenant:a", "key:0123456789ab", "model:gpt-6.1-terra"])
def test_a_scope_is_what_it_says(scope: str) -> None:
    assert scope_of(scope) == scope


@pytest.mark.parametrize(("rung", "seconds"), [(Rung.DEFERRED, 3_600), (Rung.PRIORITY, 7_200), (Rung.REFUSED, 7_200)])
async def test_background_requests_wait_before_interactive_ones_do(
    aws: Aws, client: Any, table: str, rung: Rung, seconds: int
) -> None:
    client.put_item(
        TableName=table, Item={**CONTROL_KEY, "rungs": rungs_attribute({"org": Standing(rung, NOW + 7_200)})}
    )
    control = ControlSource(aws, table)
    await control.poll()
    gate = BudgetGate(control, Metrics("test", "web"), wall_clock=lambda: NOW)
    document = {"model": "best", "input": "Hi"}
    assert gate.degrade(RESPONSES, document, MODELS, ACME, background=False)[0] is rung
    with pytest.raises(ApiError) as caught:
        gate.degrade(RESPONSES, document, MODELS, ACME, background=True)
    refused = caught.value
    assert (refused.status, refused.code) == (429, "insufficient_quota")
    assert refused.headers["retry-after"] == str(seconds)
    assert refused.headers["x-prodkit-budget-rung"] == rung.label
    assert f"this service is on the rung '{rung.label}'" in refused.message
