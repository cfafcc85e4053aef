"""`python -m app.ledger verify|report`: what was spent, and whether OpenAI billed the same."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

from app.aws import Aws, error_code
from app.ledger.audit import Booked, Finding, book, broken_sums, compare, dollars_agree
from app.ledger.auditor import Auditor, Report
from app.ledger.bill import read_bill
from app.ledger.entries import WITHOUT_ATTEMPT, total
from app.ledger.evidence import AUDIT, Bill, Residual, Silent, judge, silent_boots, unresolved
from app.ledger.evidence import residual as residual_of
from app.ledger.item import Item
from app.ledger.table import LedgerTable
from app.prices import usd
from app.settings import Reader, SettingsError, address

KEY_VARIABLE = "OPENAI_ADMIN_KEY"
ESTIMATES = "of what was billed beyond the exact entries of their models the bill does not say what was whose"
WAITING = "what OpenAI billed for those is in no entry"
SUSPENSE = (
    "the job settle-suspense settles it, by itself in a stack with rotationDays; in any other --resolve-final does, "
    "once the bill of this day is final, or it ends with its window (docs/money.md)"
)
VIEWS = ("tenant", "key", "feature", "asked", "model", "tier", "outcome")
DEFAULT_VIEWS = ("tenant", "model", "tier", "outcome")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something does not add up, 2 when it could not be asked."""
    asked = _parser().parse_args(arguments)
    read = Reader(os.environ)
    table = read.text("PRODKIT_LEDGER_TABLE")
    region = read.text("AWS_REGION")
    base_url = read.value("PRODKIT_OPENAI_BASE_URL", address, "") if asked.command == "verify" else ""
    key = read.text(KEY_VARIABLE) if asked.command == "verify" else ""
    if read.problems:
        sys.stderr.write(f"{SettingsError(read.problems)}\n")
        return 2
    aws = Aws(region, read.optional("AWS_ENDPOINT_URL") or None)
    try:
        if asked.command == "report":
            return asyncio.run(_report(LedgerTable(aws, table), asked.day, asked.by))
        bill = read_bill(key, base_url, asked.day)
        return asyncio.run(_verify(LedgerTable(aws, table), asked.day, bill, resolve=asked.resolve_final))
    except Exception as error:
        sys.stderr.write(f"{asked.command} of {asked.day} came to no result: {error_code(error)}: {error}\n")
        return 2
    finally:
        aws.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.ledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    verify = commands.add_parser("verify", help=f"compare a day with OpenAI's usage and costs; needs {KEY_VARIABLE}")
    report = commands.add_parser("report", help="what a day's entries say: attempts, dollars, cached input")
    report.add_argument(
        "--by", type=_views, default=",".join(DEFAULT_VIEWS), help=f"some of {', '.join(VIEWS)} (default: %(default)s)"
    )
    for each in (verify, report):
        each.add_argument("--day", type=_day, default=today, help="a UTC day (default: today)")
    verify.add_argument(
        "--resolve-final",
        action="store_true",
        help="settle what is in suspense by what OpenAI billed: say so only when the day's bill is final",
    )
    return parser


def _views(text: str) -> list[str]:
    views = text.split(",")
    if unknown := [view for view in views if view not in VIEWS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)!r} is no view; choose from {', '.join(VIEWS)}")
    return views


def _day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-11-30") from None


async def _report(table: LedgerTable, day: str, by: Sequence[str]) -> int:
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    async for page in table.day_pages(day):
        for entry in page.entries:
            one = sums[tuple(getattr(entry, view) for view in by)]
            one["answers" if entry.outcome in WITHOUT_ATTEMPT else "attempts"] += entry.times
            one.update(pico=entry.pico, input=entry.input, cached=entry.cached)
    for names, one in sorted(sums.items()):
        counts = ", ".join(f"{one[what]} {what}" for what in ("attempts", "answers") if one[what])
        share = f"{100 * one['cached'] // (one['input'] or 1)} % from OpenAI's prompt cache"
        tokens = f"  {one['input']} input tokens, {share}" if one["input"] else ""
        sys.stdout.write(f"{'  '.join(name or '-' for name in names)}  {counts}  {usd(one['pico'])}{tokens}\n")
    whole = sum(sums.values(), Counter[str]())
    counts = f"{whole['attempts']} attempts, {whole['answers']} answers without one"
    sys.stdout.write(f"{day}: {counts}, {usd(whole['pico'])}\n")
    return 0


async def _verify(table: LedgerTable, day: str, bill: Bill, *, resolve: bool) -> int:
    window = f"M{day[:7]}"
    items = {scope: item for scope in await table.scopes(window) if (item := await table.read(scope, window))}
    problems = broken_sums(items)
    sums: dict[str, Booked] = {}
    count = mine = filed = 0
    async for page in table.day_pages(day):
        book(sums, page.entries)
        count, mine = count + len(page.entries), mine + total(page.entries)
        filed += total(page.entries) if page.boot.startswith(AUDIT) else 0
    waiting = unresolved({(scope, window): item for scope, item in items.items()}, day)
    suspended = any(item.susp for item in items.values()) or waiting > 0
    findings = compare(sums, bill.tokens, bill.pico, suspended)
    missing = residual_of(findings, filed)
    # What an audit filed has dollars and no tokens: it explains those of the calls that nobody wrote down.
    settled = filed > 0 and missing.clear and dollars_agree(filed, filed + missing.pico)
    for finding in findings:
        own, theirs = finding.booked, finding.billed
        sys.stdout.write(
            f"{finding.model or 'suspense that was settled'}: billed {theirs.input} + {theirs.output} tokens; entries "
            f"{own.exact.input} + {own.exact.output} exact, up to {own.estimated.input} + {own.estimated.output} "
            "estimated\n"
        )
        if min(finding.unexplained) < 0 or (max(finding.unexplained) > 0 and not settled):
            problems.append(f"{finding.model}: {finding.unexplained} tokens are unexplained")
    residual = sum(finding.corrected_pico for finding in findings)
    if resolve and waiting and residual > 0:
        problems.append(f"{usd(residual)} may be of batches of this day that are not filed: resolve once they are")
        resolve = False
    if resolve:
        await _resolve(table, window, items, residual, day)
    theirs_pico = sum(bill.pico.values())
    if resolve or not (suspended or any(finding.booked.estimated_pico for finding in findings)):
        mine += residual if resolve else 0
        if not dollars_agree(mine, theirs_pico):
            problems.append(f"the entries are {usd(mine)}, OpenAI's costs {usd(theirs_pico)}")
    for problem in problems:
        sys.stdout.write(f"UNEXPLAINED {problem}\n")
    left = sum(slot.amt - slot.set for scope, item in items.items() if scope == "org" for slot in item.susp.values())
    sys.stdout.write(
        f"{day}: {count} entries, {usd(mine)}; OpenAI billed {usd(theirs_pico)}; {len(problems)} unexplained; "
        f"suspense {'resolved' if resolve else usd(left)}\n"
    )
    for note in _notes(findings, filed, 0 if resolve else left, waiting):
        sys.stdout.write(f"{note}\n")
    return 1 if problems else 0


def _notes(findings: Sequence[Finding], filed: int, left: int, waiting: int) -> list[str]:
    """What the comparison cannot say and how much that is at most, and what becomes of suspense."""
    with_tokens = [finding for finding in findings if any(finding.booked.estimated)]
    estimated = sum(finding.booked.estimated_pico for finding in with_tokens)
    billed = sum(finding.beyond_exact_pico for finding in with_tokens)
    hidden = max(0, sum(finding.hides_pico for finding in with_tokens) - filed)
    said = f"{usd(estimated)} of the entries are estimates, for which OpenAI billed at most {usd(billed)}"
    return [
        *([f"{said}; they may hide a loss of at most {usd(hidden)}: {ESTIMATES}"] if with_tokens else []),
        *([f"{usd(filed)} of the entries are of audits, for calls that nobody wrote down"] if filed else []),
        *([f"{usd(waiting)} is set aside for requests of batches that nobody has filed: {WAITING}"] if waiting else []),
        *([f"suspense is what replicas held that died: {SUSPENSE}"] if left else []),
    ]


async def _resolve(table: LedgerTable, window: str, items: dict[str, Item], residual: int, day: str) -> None:
    """Settle every suspended lease of a month as if its holder's missing calls were of this day and its bill final."""
    auditor = Auditor(table, datetime.UTC, None)
    suspended = silent_boots({(scope, window): item for scope, item in items.items()})
    silents = [Silent(boot, [day], leases, (await auditor.charged(boot))[0]) for boot, leases in suspended.items()]
    # A window that has ended: what is left is given to all who may have spent it.
    verdicts = judge(silents, {day: Residual(max(0, residual))}, {window: 0.0}, 0.0)
    await auditor.carry_out(verdicts, Report())


if __name__ == "__main__":
    sys.exit(main())
