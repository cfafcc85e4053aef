"""Settles what silent holders left in suspense, by evidence: reads the ledger and OpenAI's bill, and acts on both."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from app.aws import error_code
from app.budgets.window import Span, Window, window_at
from app.ledger.audit import Booked, book, charge, compare
from app.ledger.entries import DAY_SECONDS
from app.ledger.evidence import (
    AUDIT,
    CLOSE_SECONDS,
    Bill,
    Lease,
    Residual,
    Silent,
    Verdict,
    all_seen,
    days_of,
    is_over,
    judge,
    looked,
    residual,
    silent_boots,
    unresolved,
)
from app.ledger.item import Bury, Item, old_tombs
from app.ledger.table import LedgerTable
from app.ledger.watch import boot_of

log = logging.getLogger(__name__)

MONTHS = 3
"""That are looked at: the one that runs, and those before it whose leases may still be open."""
DAYS = CLOSE_SECONDS // DAY_SECONDS + 5
TOMBS_AT_ONCE = 50
"""Of one step: an update expression has 4 KB."""

ReadBill = Callable[[str], Bill]
"""OpenAI's bill of a UTC day; blocks."""


@dataclass(slots=True)
class Report:
    """What a run found and did."""

    settled: int = 0
    """Leases."""
    assumed: int = 0
    """Of these, without evidence: counted as spent when their window was over."""
    waiting: int = 0
    """Leases that stay in suspense."""
    unresolved: int = 0
    """Pico-dollars of a bill that may be of requests whose batch nobody has filed: no loss as long as that is so."""
    problems: list[str] = field(default_factory=list)
    """What contradicts the entries: people have to look at it."""


def pending(
    found: Mapping[str, Residual], items: Mapping[tuple[str, str], Item], report: Report
) -> dict[str, Residual]:
    """The days whose bill says what was lost: not those where a batch that is not filed may be what is missing."""
    known = {}
    for day, one in found.items():
        if (one.pico or not one.clear) and unresolved(items, day):
            report.unresolved += one.pico
        else:
            known[day] = one
    return known


class Auditor:
    """One run over the windows whose leases may be in suspense."""

    def __init__(
        self,
        table: LedgerTable,
        zone: datetime.tzinfo,
        read_bill: ReadBill | None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`read_bill` None: there is no admin key, and without evidence a lease waits for the end of its window."""
        self._table = table
        self._zone = zone
        self._read_bill = read_bill
        self._wall_clock = wall_clock

    async def run(self) -> Report:
        """Settle what can be settled now. A run that dies on its way is finished by the next one."""
        now = self._wall_clock()
        windows = self._windows(now)
        items = {key: item for name in windows for key, item in (await self._items(name)).items()}
        await self._bury(items, int(now))
        report = Report()
        silents = [await self._silent(boot, leases) for boot, leases in silent_boots(items).items()]
        days = {day for one in silents for day in one.days or ()}
        residuals = pending(await self._residuals(days, now, report), items, report)
        ends = {name: window.end for name, window in windows.items()}
        holders = {boot_of(handle) for item in items.values() for handle in item.slots}
        complete = all_seen(items, await self._table.lives(holders) if holders else {}, now)
        await self.carry_out(judge(silents, residuals, ends, now, complete=complete), report)
        report.waiting = sum(len(one.leases) for one in silents) - report.settled
        return report

    async def carry_out(self, verdicts: Iterable[Verdict], report: Report) -> None:
        """Write what was missing first: a run that dies after that is finished by the next one."""
        for verdict in verdicts:
            for page in verdict.pages:
                await self._table.put_page(page)
            for lease, resolve in verdict.resolves:
                taken, _ = await self._table.step(lease.scope, lease.window, resolve)
                report.settled += taken
                report.assumed += taken and verdict.assumed
                fields = {"scope": lease.scope, "window": lease.window, "lease": lease.handle}
                amounts = {"pico": str(resolve.billed), "assumed": verdict.assumed}
                log.info("a lease in suspense is settled", extra={"fields": fields | amounts})

    async def charged(self, boot: str) -> tuple[dict[str, int], float | None]:
        """What a process's leases were charged, by its pages and by those of earlier audits; and when its last was."""
        sums: dict[str, int] = {}
        last = None
        async for page in self._table.pages(boot):
            charge(sums, page)
            last = page.at
        async for page in self._table.pages(AUDIT + boot):
            charge(sums, page)
        return sums, last

    def _windows(self, now: float) -> dict[str, Window]:
        found = [window_at(Span.DAY, now - back * DAY_SECONDS, self._zone) for back in range(DAYS)]
        at = now
        for _ in range(MONTHS):
            found.append(window_at(Span.MONTH, at, self._zone))
            at = found[-1].start - 1
        return {window.name: window for window in found}

    async def _items(self, window: str) -> dict[tuple[str, str], Item]:
        read = {scope: await self._table.read(scope, window) for scope in await self._table.scopes(window)}
        return {(scope, window): item for scope, item in read.items() if item is not None}

    async def _bury(self, items: dict[tuple[str, str], Item], now: int) -> None:
        for (scope, window), item in items.items():
            # Of the scopes that are used, whoever leases drops them.
            if not item.slots and (old := old_tombs(item.tomb, now, TOMBS_AT_ONCE)):
                await self._table.step(scope, window, Bury(old))

    async def _silent(self, boot: str, leases: list[Lease]) -> Silent:
        charged, last_page = await self.charged(boot)
        life = (await self._table.lives([boot])).get(boot)
        days = None if life is None else days_of(life[0] if last_page is None else last_page, life[1])
        return Silent(boot, days, leases, charged)

    async def _residuals(self, days: Iterable[str], now: float, report: Report) -> dict[str, Residual]:
        """What the bill says beyond the entries, of those days whose bill is final."""
        found = {}
        for day in sorted(day for day in days if is_over(day, now)):
            seen = await self._table.bill(day)
            if (seen is None or not seen.final) and self._read_bill is not None:
                try:
                    fresh = looked(seen, await asyncio.to_thread(self._read_bill, day), now)
                except Exception as error:  # of any kind: what needs no bill goes on, and people hear of it
                    report.problems.append(f"the bill of {day} could not be read ({error_code(error)})")
                    continue
                if fresh != seen:
                    await self._table.put_bill(day, fresh)
                seen = fresh
            if seen is not None and seen.final:
                found[day] = await self.residual(day, seen.bill, report.problems)
        return found

    async def residual(self, day: str, bill: Bill, problems: list[str]) -> Residual:
        """A day's bill against its entries."""
        sums: dict[str, Booked] = {}
        filed = 0
        async for page in self._table.day_pages(day):
            book(sums, page.entries)
            if page.boot.startswith(AUDIT):
                filed += sum(entry.pico for entry in page.entries)
        findings = compare(sums, bill.tokens, bill.pico, suspense=False)
        problems += [
            f"{day} {finding.model}: {-min(finding.unexplained)} tokens are in entries and OpenAI billed none of them"
            for finding in findings
            if min(finding.unexplained) < 0
        ]
        return residual(findings, filed)
