"""`python -m app.ledger verify|report`: what was spent, and whether OpenAI billed the same."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from app.aws import Aws
from app.ledger.audit import Tokens, broken_sums, compare, dollars_agree, share_out, spent_by_lease
from app.ledger.entries import WITHOUT_ATTEMPT, Entry, Outcome, Page, sequence
from app.ledger.item import Item, Resolve
from app.ledger.table import LedgerTable
from app.ledger.watch import boot_of
from app.prices import PICO_PER_USD, usd
from app.settings import Reader, SettingsError, address

DAY_SECONDS = 86_400
KEY_VARIABLE = "OPENAI_ADMIN_KEY"
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
        billed, costs = _billed(key, base_url, asked.day)
        return asyncio.run(_verify(LedgerTable(aws, table), asked.day, billed, costs, resolve=asked.resolve_final))
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
    return datetime.date.fromisoformat(text).isoformat()


async def _pages(table: LedgerTable, day: str) -> list[Page]:
    return [page for boot in await table.boots(day) for page in await table.pages(boot, day)]


async def _report(table: LedgerTable, day: str, by: Sequence[str]) -> int:
    sums: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for page in await _pages(table, day):
        for entry in page.entries:
            one = sums[tuple(getattr(entry, view) for view in by)]
            one["answers" if entry.outcome in WITHOUT_ATTEMPT else "attempts"] += entry.times
            one.update(pico=entry.pico, input=entry.input, cached=entry.cached)
    for names, one in sorted(sums.items()):
        counts = ", ".join(f"{one[what]} {what}" for what in ("attempts", "answers") if one[what])
        share = f"{100 * one['cached'] // (one['input'] or 1)} % from OpenAI's prompt cache"
        tokens = f"  {one['input']} input tokens, {share}" if one["input"] else ""
        sys.stdout.write(f"{'  '.join(name or '-' for name in names)}  {counts}  {usd(one['pico'])}{tokens}\n")
    total = sum(sums.values(), Counter[str]())
    counts = f"{total['attempts']} attempts, {total['answers']} answers without one"
    sys.stdout.write(f"{day}: {counts}, {usd(total['pico'])}\n")
    return 0


async def _verify(
    table: LedgerTable, day: str, billed: dict[str, Tokens], costs: dict[str, int], *, resolve: bool
) -> int:
    window = f"M{day[:7]}"
    items = {scope: item for scope in await table.scopes(window) if (item := await table.read(scope, window))}
    problems = broken_sums(items)
    pages = await _pages(table, day)
    entries = [entry for page in pages for entry in page.entries]
    suspended = any(item.susp for item in items.values())
    findings = compare(entries, billed, costs, suspended)
    for finding in findings:
        own, theirs = finding.booked, finding.billed
        sys.stdout.write(
            f"{finding.model}: billed {theirs.input} + {theirs.output} tokens; entries {own.exact.input} + "
            f"{own.exact.output} exact, up to {own.estimated.input} + {own.estimated.output} estimated\n"
        )
        if any(finding.unexplained):
            problems.append(f"{finding.model}: {finding.unexplained} tokens are unexplained")
    residual = sum(finding.corrected_pico for finding in findings)
    if resolve:
        await _resolve(table, window, items, residual, day)
    mine, theirs_pico = sum(entry.pico for entry in entries), sum(costs.values())
    if resolve or not (suspended or any(finding.booked.estimated_pico for finding in findings)):
        mine += residual if resolve else 0
        if not dollars_agree(mine, theirs_pico):
            problems.append(f"the entries are {usd(mine)}, OpenAI's costs {usd(theirs_pico)}")
    for problem in problems:
        sys.stdout.write(f"UNEXPLAINED {problem}\n")
    left = sum(slot.amt - slot.set for scope, item in items.items() if scope == "org" for slot in item.susp.values())
    sys.stdout.write(
        f"{day}: {len(entries)} entries, {usd(mine)}; OpenAI billed {usd(theirs_pico)}; {len(problems)} unexplained; "
        f"suspense {'resolved' if resolve else usd(left)}\n"
    )
    return 1 if problems else 0


async def _resolve(table: LedgerTable, window: str, items: dict[str, Item], residual: int, day: str) -> None:
    """Settle suspended leases by their holders' pages, and what was billed beyond those by the room that they have."""
    boots = {boot_of(handle) for item in items.values() for handle in item.susp}
    charged: dict[str, int] = {}
    for boot in boots:
        charged |= spent_by_lease(await table.pages(boot, window[1:]))
    groups: defaultdict[str, dict[str, tuple[str, Any]]] = defaultdict(dict)
    for scope, item in items.items():
        for handle, slot in item.susp.items():
            groups[scope.partition(":")[0]][f"{scope} {handle}"] = (scope, slot)
    for kind, leases in groups.items():
        rooms = {name: slot.amt - charged.get(name.split(" ")[1], 0) for name, (_, slot) in leases.items()}
        shares = share_out(residual, rooms)
        for name, (scope, slot) in leases.items():
            handle = name.split(" ")[1]
            taken, _ = await table.step(scope, window, Resolve(handle, slot, charged.get(handle, 0) + shares[name]))
            if taken and kind == "tenant" and shares[name]:
                await _adjust(table, scope, handle, shares[name], day)


async def _adjust(table: LedgerTable, scope: str, handle: str, pico: int, day: str) -> None:
    """An entry for what a silent holder was billed and had not written down."""
    at = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp() + DAY_SECONDS - 1
    tenant = scope.partition(":")[2]
    name = f"audit.{handle}"
    entry = Entry(
        name, at, tenant, "", "", "", "", "", 0, 0, 0, 0, 0, "", pico, Outcome.ESTIMATED.value, "", "estimated audit"
    )
    await table.put_page(Page(f"audit.{handle}", sequence(at, 1), (entry,), (), ()))


def _billed(key: str, base_url: str, day: str) -> tuple[dict[str, Tokens], dict[str, int]]:
    """Tokens and pico-dollars by model, as OpenAI's usage and costs endpoints give them for a UTC day."""
    import openai

    start = int(datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp())
    end = start + DAY_SECONDS
    tokens: defaultdict[str, Tokens] = defaultdict(Tokens)
    costs: defaultdict[str, int] = defaultdict(int)
    with openai.OpenAI(admin_api_key=key, base_url=base_url) as client:
        usage = client.admin.organization.usage
        for page in (
            usage.completions(start_time=start, end_time=end, group_by=["model"], limit=1),
            usage.embeddings(start_time=start, end_time=end, group_by=["model"], limit=1),
        ):
            for result in (result.to_dict() for bucket in page.data for result in bucket.results):
                found: dict[str, Any] = result
                more = Tokens(int(found.get("input_tokens") or 0), int(found.get("output_tokens") or 0))
                tokens[str(found["model"])] = tokens[str(found["model"])].plus(more)
        paid = usage.costs(start_time=start, end_time=end, group_by=["line_item"], limit=1)
        for cost in (result.to_dict() for bucket in paid.data for result in bucket.results):
            shown: dict[str, Any] = cost
            model = str(shown.get("line_item") or "").partition(",")[0]
            costs[model] += int(Decimal(repr(shown["amount"]["value"])) * PICO_PER_USD)
    return dict(tokens), dict(costs)


if __name__ == "__main__":
    sys.exit(main())
