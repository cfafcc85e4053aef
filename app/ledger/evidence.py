"""What silent holders spent, by evidence: OpenAI's bill of days that are final, else the end of the window. Pure.

A lease in suspense is settled by its holder's pages. What was billed on the days of its holder beyond all entries was
billed for calls that nobody was left to write down: it is filed as a page of the audit's own first, so that a run
that dies on its way is finished by the next one with the same result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.ledger.audit import Finding, Tokens, share_out
from app.ledger.book import ORG
from app.ledger.entries import DAY_SECONDS, Entry, Outcome, Page, day_after, day_of, day_start, sequence
from app.ledger.item import Item, Resolve, Slot
from app.ledger.watch import boot_of

HOUR_SECONDS = 3_600
WAIT_SECONDS = 24 * HOUR_SECONDS
"""After the end of a UTC day its bill is not looked at for so long."""
AGREE_SECONDS = 6 * HOUR_SECONDS
"""Two looks at a bill so far apart that found the same make it final: OpenAI names no time after which one is."""
MARGIN_SECONDS = 3 * HOUR_SECONDS
"""Before its last page and after its last heartbeat a process may have had calls: an hour on old leases, an hour of a
stream, an hour to spare."""
CLOSE_SECONDS = 7 * DAY_SECONDS
"""So long after the end of its window, a lease without evidence counts as spent."""
BATCH_DAYS = 3
"""A batch is over, and billed, a day after its requests were accepted, with minutes on both sides."""
ALWAYS = frozenset({"org", "tenant"})
"""Kinds of scopes that every call is charged to: who has no lease of one has no call that is not written down."""
AUDIT = "audit."
"""Before a process's name: the pages that were filed for it."""


class Bill(NamedTuple):
    """What OpenAI says of a UTC day, by model."""

    tokens: dict[str, Tokens]
    pico: dict[str, int]


class Seen(NamedTuple):
    """A bill, and since when it has said the same."""

    bill: Bill
    since: float
    final: bool = False


def dump_seen(seen: Seen) -> str:
    """As the table keeps it; amounts are texts."""
    tokens = {model: list(each) for model, each in seen.bill.tokens.items()}
    pico = {model: str(each) for model, each in seen.bill.pico.items()}
    return orjson.dumps({"tokens": tokens, "pico": pico, "since": seen.since, "final": seen.final}).decode()


def parse_seen(text: str) -> Seen:
    """The same, read."""
    kept = orjson.loads(text)
    tokens = {model: Tokens(*each) for model, each in kept["tokens"].items()}
    return Seen(Bill(tokens, {model: int(each) for model, each in kept["pico"].items()}), kept["since"], kept["final"])


def is_over(day: str, now: float) -> bool:
    """Whether a day's bill may be looked at."""
    return now >= day_start(day) + DAY_SECONDS + WAIT_SECONDS


def looked(before: Seen | None, bill: Bill, now: float) -> Seen:
    """What is known of a day's bill after another look at it."""
    if before is None or before.bill != bill:
        return Seen(bill, now)
    return before._replace(final=before.final or now - before.since >= AGREE_SECONDS)


def aside_day(at: float) -> str:
    """The UTC day of a moment, as items name what was set aside on it."""
    return day_of(at)[5:].replace("-", "")


def unresolved(items: Mapping[tuple[str, str], Item], day: str) -> int:
    """What is set aside for requests that a batch may have answered on a UTC day, and nobody has filed.

    OpenAI may have billed so much of what no entry says: that is no loss, until a worker says what became of it.
    """
    accepted = {aside_day(day_start(day) - back * DAY_SECONDS) for back in range(BATCH_DAYS)}
    return sum(
        min(item.aside, sum(max(0, pico) for at, pico in item.asides.items() if at in accepted))
        for (scope, _), item in items.items()
        if scope == ORG
    )


@dataclass(frozen=True, slots=True)
class Residual:
    """What a final bill says beyond the entries of its day."""

    pico: int
    """For calls that nobody wrote down."""
    clear: bool = True
    """False when tokens are missing and dollars are not: credits, or a price that differs."""


def residual(findings: Iterable[Finding], filed: int) -> Residual:
    """What remains of a day's comparison; `filed` of it stands in pages of earlier audits."""
    missing = [finding for finding in findings if max(finding.unexplained) > 0]
    pico = sum(max(0, finding.corrected_pico) for finding in missing)
    return Residual(max(0, pico - filed), clear=not missing or pico > 0)


class Lease(NamedTuple):
    """A lease in suspense."""

    scope: str
    window: str
    handle: str
    slot: Slot

    @property
    def kind(self) -> str:
        """`org`, `tenant`, `key` or `model`."""
        return self.scope.partition(":")[0]

    @property
    def monthly(self) -> bool:
        """Whether it is in the window that every scope has an item in."""
        return self.window.startswith("M")


@dataclass(slots=True)
class Silent:
    """A process that left leases in suspense."""

    boot: str
    days: Sequence[str] | None
    """The UTC days on which OpenAI may have billed what is in no page; None when that is not known."""
    leases: list[Lease]
    charged: Mapping[str, int]
    """By lease: what its own pages say, and those of earlier audits."""

    def room(self, lease: Lease) -> int:
        """Of a lease, what its pages do not say."""
        return lease.slot.amt - self.charged.get(lease.handle, 0)

    @property
    def may_owe(self) -> bool:
        """Whether a call of its may be missing: each is charged to leases of these kinds."""
        return {lease.kind for lease in self.leases if lease.monthly} >= ALWAYS

    def least_room(self, leases: Iterable[Lease]) -> int:
        """The most that can be missing: no kind of scope can have spent more than another."""
        rooms: defaultdict[str, int] = defaultdict(int)
        for lease in leases:
            rooms[lease.kind] += max(0, self.room(lease))
        return min(rooms.values()) if rooms.keys() >= ALWAYS else 0


def days_of(first: float, last: float) -> list[str]:
    """The days on which a process may have made calls that are in no page.

    `first`: when it wrote its last page (or began); `last`: its last heartbeat.
    """
    days = [day_of(first - MARGIN_SECONDS)]
    end = day_of(max(first, last) + MARGIN_SECONDS)
    while days[-1] < end:
        days.append(day_after(days[-1]))
    return days


def silent_boots(items: Mapping[tuple[str, str], Item]) -> dict[str, list[Lease]]:
    """Leases in suspense by process, without those of a process that is not suspended everywhere yet."""
    busy = {boot_of(handle) for item in items.values() for handle in item.slots}
    found: defaultdict[str, list[Lease]] = defaultdict(list)
    for (scope, window), item in sorted(items.items()):
        for handle, slot in item.susp.items():
            if boot_of(handle) not in busy:
                found[boot_of(handle)].append(Lease(scope, window, handle, slot))
    return dict(found)


def all_seen(items: Mapping[tuple[str, str], Item], lives: Mapping[str, tuple[float, float]], now: float) -> bool:
    """Whether every process that holds a lease lately said that it lives: one that did not may owe pages."""
    boots = {boot_of(handle) for item in items.values() for handle in item.slots}
    return all(boot in lives and now - lives[boot][1] < MARGIN_SECONDS for boot in boots)


@dataclass(slots=True)
class Verdict:
    """What to do with the leases of one process: write the page, if there is one, then settle the leases."""

    boot: str
    pages: list[Page]
    resolves: list[tuple[Lease, Resolve]]
    assumed: bool = False
    """There is no evidence: what was left counts as spent."""


def judge(
    silents: Sequence[Silent],
    residuals: Mapping[str, Residual],
    ends: Mapping[str, float],
    now: float,
    *,
    complete: bool = True,
) -> list[Verdict]:
    """Verdicts on those of whom enough is known. `residuals` has the days that are final, `ends` when windows end.

    `complete`: nobody else may owe pages, so that what is missing was spent by those in suspense.

    While a window is open a lease is settled only when it is certain what it spent: a share that goes to the wrong
    tenant would give another one money back that it spent. After its end nothing is granted from it any more.
    """
    verdicts, left = [], dict(residuals)
    for number, one in enumerate(silents):
        ended = all(now >= ends[lease.window] for lease in one.leases)
        late = [lease for lease in one.leases if now >= ends[lease.window] + CLOSE_SECONDS]
        known = _known(one, left)
        if known is not None and (not any(known.values()) or (complete and (ended or _alone(one, silents)))):
            rest = {day for other in silents[number + 1 :] if other.may_owe for day in other.days or ()}
            given = _given(one, known, rest)
            verdicts.append(_by_bill(one, given))
            left |= {day: Residual(known[day] - given[day]) for day in known}
        elif late:
            verdicts.append(_as_spent(one, late))
    return verdicts


def _known(one: Silent, residuals: Mapping[str, Residual]) -> dict[str, int] | None:
    """What is missing on each of a process's days; None while one of them is open or unclear."""
    days = one.days
    if days is None or not all(day in residuals and residuals[day].clear for day in days):
        return None
    return {day: residuals[day].pico for day in days}


def _alone(one: Silent, silents: Iterable[Silent]) -> bool:
    """Whether nobody else, and only one lease of a kind, can have spent what is missing on its days."""
    days = set(one.days or ())
    if any(other.days is None or days & set(other.days) for other in silents if other is not one and other.may_owe):
        return False
    scopes = {(lease.kind, lease.scope) for lease in one.leases if lease.monthly}
    return one.may_owe and len(scopes) == len({kind for kind, _ in scopes})


def _given(one: Silent, known: Mapping[str, int], rest: set[str]) -> dict[str, int]:
    """What a process gets of each day: all of it, but no more than its room where others come after it."""
    if not one.may_owe:
        return dict.fromkeys(known, 0)
    room, given = one.least_room(lease for lease in one.leases if lease.monthly), dict[str, int]()
    for day, pico in known.items():
        given[day] = min(pico, room) if day in rest else pico
        room -= min(room, given[day])
    return given


def _by_bill(one: Silent, known: Mapping[str, int]) -> Verdict:
    """Settle by pages and by what the bill says beyond them."""
    pages, shares = [], dict[str, int]()
    for day, pico in known.items():
        if pico:
            given = _shared(one, pico, shares)
            if not given:
                continue
            pages.append(_page(one, day, given, "estimated audit", 1))
            for lease, share in given:
                shares[lease.handle] = shares.get(lease.handle, 0) + share
    return Verdict(one.boot, pages, _resolves(one, one.leases, shares))


def _as_spent(one: Silent, leases: Sequence[Lease]) -> Verdict:
    """Settle leases of windows that ended long ago as if everything was spent."""
    monthly = [lease for lease in leases if lease.monthly]
    most = one.least_room(monthly)
    pages, shares = [], dict[str, int]()
    if most:
        given = _shared(one, most, {}, monthly)
        day = one.days[-1] if one.days else f"{monthly[0].window[1:]}-01"
        pages.append(_page(one, day, given, "estimated audit assumed", 2))
        shares = {lease.handle: share for lease, share in given}
    shares |= {lease.handle: max(0, one.room(lease)) for lease in leases if not lease.monthly}
    return Verdict(one.boot, pages, _resolves(one, leases, shares), assumed=True)


def _shared(
    one: Silent, pico: int, before: Mapping[str, int], leases: Sequence[Lease] | None = None
) -> list[tuple[Lease, int]]:
    """An amount given to the leases of each kind; a daily lease gets what the monthly one of its scope gets."""
    leases = one.leases if leases is None else leases
    kinds: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        if lease.monthly:
            kinds[lease.kind].append(lease)
    given: list[tuple[Lease, int]] = []
    for group in kinds.values():
        rooms = {lease.handle: one.room(lease) - before.get(lease.handle, 0) for lease in group}
        shares = share_out(pico, rooms)
        given += [(lease, shares[lease.handle]) for lease in group if shares[lease.handle]]
    by_scope = {lease.scope: share for lease, share in given}
    daily = [lease for lease in leases if not lease.monthly and lease.scope in by_scope]
    return [*given, *((lease, by_scope[lease.scope]) for lease in daily)]


def _resolves(one: Silent, leases: Iterable[Lease], shares: Mapping[str, int]) -> list[tuple[Lease, Resolve]]:
    return [
        (lease, Resolve(lease.handle, lease.slot, one.charged.get(lease.handle, 0) + shares.get(lease.handle, 0)))
        for lease in leases
    ]


def _page(one: Silent, day: str, given: Sequence[tuple[Lease, int]], flags: str, number: int) -> Page:
    """Entries for what a silent holder was billed and had not written down, at the end of a day."""
    at = day_start(day) + DAY_SECONDS - 1.0
    entries = tuple(
        _entry(f"{AUDIT}{lease.handle}.{day}", at, lease.scope.partition(":")[2], share, flags)
        for lease, share in given
        if lease.kind == "tenant" and lease.monthly
    )
    leases = tuple((lease.scope, lease.window, lease.handle, share) for lease, share in given)
    return Page(f"{AUDIT}{one.boot}", sequence(at, number), entries, leases, ())


def _entry(name: str, at: float, tenant: str, pico: int, flags: str) -> Entry:
    return Entry(name, at, tenant, "", "", "", "", "", 0, 0, 0, 0, 0, "", pico, Outcome.ESTIMATED.value, "", flags)
