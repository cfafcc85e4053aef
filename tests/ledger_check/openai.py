"""OpenAI's side of a history: what it bills, and what it says of that, late and bit by bit; and audits that ask it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

from app.ledger import auditor
from app.ledger.audit import Booked, Tokens, book, charge, compare
from app.ledger.entries import DAY_SECONDS, Page, day_of, day_start
from app.ledger.evidence import (
    AUDIT,
    Bill,
    Lease,
    Residual,
    Seen,
    Silent,
    Verdict,
    all_seen,
    days_of,
    is_over,
    judge,
    looked,
    residual,
    silent_boots,
)
from app.ledger.item import Item

HOUR = 3_600.0
BEHIND_SECONDS = 8 * HOUR
"""So far behind is what is shown of a day that runs."""
LATEST_SECONDS = 40 * HOUR
"""After the end of a day its bill may go on changing for so long; no two looks 6 h apart see the same before that."""
MODEL = "m"


class OpenAI:
    """What was billed on each UTC day; a token costs a pico-dollar."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._billed: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._complete: dict[str, float] = {}

    def work(self, began: float, amount: int) -> None:
        """Bill a call to the day on which it began."""
        day = day_of(began)
        self._billed[day].append((began, amount))
        if day not in self._complete:
            self._complete[day] = day_start(day) + DAY_SECONDS + self._chance.uniform(0, LATEST_SECONDS)

    def bill(self, day: str, now: float) -> Bill:
        """A day's bill as it is shown at a time."""
        shown = now - BEHIND_SECONDS if now < day_start(day) + DAY_SECONDS else now
        billed = sum(amount for began, amount in self._billed[day] if began <= shown)
        if not billed:
            return Bill({}, {})
        if day_start(day) + DAY_SECONDS <= now < self._complete[day]:
            hour = int(now // HOUR)
            part = billed * (hour % 7) // 7
            return Bill({MODEL: Tokens(part, hour)}, {MODEL: part})
        return Bill({MODEL: Tokens(billed, 0)}, {MODEL: billed})


class Audits:
    """Runs of the auditor's own decisions over a history."""

    def __init__(self, openai: OpenAI | None) -> None:
        """`openai` None: there is no admin key."""
        self._openai = openai
        self._kept: dict[str, Seen] = {}
        self.shared = False
        """Something was given to more than one lease by estimate."""
        self.assumed = False
        """Something counted as spent without evidence."""

    def verdicts(
        self,
        items: Mapping[tuple[str, str], Item],
        pages: Mapping[str, list[Page]],
        lives: Mapping[str, tuple[float, float]],
        ends: Mapping[str, float],
        now: float,
    ) -> list[Verdict]:
        """What a run of the auditor decides at a time."""
        silents = [_silent(boot, leases, pages, lives) for boot, leases in silent_boots(items).items()]
        residuals = {}
        for day in sorted({day for one in silents for day in one.days or ()}):
            if is_over(day, now) and self._openai is not None:
                seen = self._kept[day] = looked(self._kept.get(day), self._openai.bill(day, now), now)
                if seen.final:
                    residuals[day] = _residual(day, seen.bill, pages)
        residuals = auditor.pending(residuals, items, auditor.Report())
        found = judge(silents, residuals, ends, now, complete=all_seen(items, lives, now))
        self.assumed = self.assumed or any(verdict.assumed for verdict in found)
        self.shared = self.shared or any(verdict.pages for verdict in found if now >= min(ends.values()))
        return found


def _silent(
    boot: str, leases: list[Lease], pages: Mapping[str, list[Page]], lives: Mapping[str, tuple[float, float]]
) -> Silent:
    charged: dict[str, int] = {}
    own = pages.get(boot, [])
    for page in (*own, *pages.get(AUDIT + boot, ())):
        charge(charged, page)
    life = lives.get(boot)
    days = None if life is None else days_of(own[-1].at if own else life[0], life[1])
    return Silent(boot, days, leases, charged)


def _residual(day: str, bill: Bill, pages: Mapping[str, list[Page]]) -> Residual:
    sums: dict[str, Booked] = {}
    filed = 0
    for boot, written in pages.items():
        for page in written:
            entries = page.of(day).entries
            book(sums, entries)
            if boot.startswith(AUDIT):
                filed += sum(entry.pico for entry in entries)
    return residual(compare(sums, bill.tokens, bill.pico, suspense=False), filed)
