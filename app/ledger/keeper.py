"""What keeps a process's ledger going off the request's way: leases filled, pages written, silent holders watched."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

from app.aws import Aws, error_code
from app.budgets.policy import RUNG_HEADER, Rung
from app.budgets.window import Span, Window, moment, window_at
from app.errors import ApiError
from app.ledger.book import Book, Payer, scopes_of
from app.ledger.item import Item, SetLimit
from app.ledger.lease import Lease, State
from app.ledger.limits import DAILY, MONTHLY, Limits
from app.ledger.once import Once
from app.ledger.pace import beat_seconds, idle_seconds, page_due, publish_due
from app.ledger.sweep import Sweep
from app.ledger.table import LedgerTable
from app.ledger.watch import AWAY_SECONDS, BACK_SECONDS, EMERGENCY_SECONDS
from app.prices import usd
from app.turns import in_turns

log = logging.getLogger(__name__)

KINDS = (MONTHLY, DAILY)
SPANS = {MONTHLY: Span.MONTH, DAILY: Span.DAY}
TICK_SECONDS = 1.0
WATCH_SECONDS = 30.0
LIMITS_SECONDS, QUIET_LIMITS_SECONDS = 5.0, 60.0
"""How late a limit that somebody set is in force everywhere; the longer where nobody spends."""
BLOCK_SECONDS = 30.0
"""A block lasts about so long at the lease's own pace."""
REFUSED_SECONDS = 1.0
"""A scope without money is not asked again for so long."""
WRITES_AT_ONCE = 6
MAX_LINES = 20_000
MAX_UNWRITTEN = 100_000
"""Entries kept in memory while the ledger is away; what goes beyond is in the log."""
TRIES = 4


@dataclass(frozen=True, slots=True)
class _Line:
    leases: tuple[Lease, ...]
    until: float
    """Unix time at which the first of their windows ends."""


class LedgerAwayError(Exception):
    """The table did not answer."""


class Keeper:
    """The leases and pages of one process, and the task that keeps both together with the table."""

    def __init__(
        self,
        aws: Aws,
        table: str,
        *,
        defaults: Callable[[str, str], int | None] = lambda scope, kind: None,
        zone: datetime.tzinfo = datetime.UTC,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        """`defaults` gives the limit (pico-dollars) of a scope and window, `M` or `D`, that nobody set one for."""
        self.book = Book(boot or secrets.token_hex(6))
        self.table = LedgerTable(aws, table, wall_clock=wall_clock)
        self.zone = zone
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits = Limits(defaults, wall_clock())
        self._lines: dict[Payer, _Line] = {}
        self._learning = Once("ledger-limits")
        self._meeting = Once("ledger-meet")
        self._growing = Once("ledger-grow")
        self._demand: dict[Lease, tuple[int, int]] = {}
        """Of calls that wait for a lease to grow: what they need together, and the least that one of them needs."""
        self._looked: dict[Lease, tuple[int, float]] = {}
        self.sweep = Sweep(self.book.boot, zone, clock=clock, wall_clock=wall_clock)
        self._beat_at = self._alive_at = clock()
        self._entries_since_beat = 0
        self._due = dict.fromkeys(("beat", "watch", "limits"), 0.0)
        self._paged_at = float("-inf")
        self._spending = False
        """Whether a lease was used since the limits were last asked for."""
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told_away = False

    # leases

    def limit_of(self, scope: str, kind: str) -> int | None:
        """The limit in force, as this process knows it; None = no budget."""
        return self._limits.of(scope, kind)

    def _window(self, kind: str) -> Window:
        return window_at(SPANS[kind], self._wall_clock(), self.zone)

    def _leases(self, payer: Payer) -> tuple[Lease, ...]:
        month, day = self._window(MONTHLY).name, self._window(DAILY).name
        scopes = scopes_of(payer)
        daily = [scope for scope in scopes if self.limit_of(scope, DAILY) is not None]
        return (
            *(self.book.lease(scope, month) for scope in scopes),
            *(self.book.lease(scope, day) for scope in daily),
        )

    async def _line(self, payer: Payer) -> _Line:
        """The payer's leases, each of them with an item behind it."""
        await self._know_limits()
        leases = self._leases(payer)
        fresh = [lease for lease in leases if lease.state is State.NEW and lease.limit == 0 and lease.flying is None]
        for failure in await in_turns(map(self._meet, fresh), WRITES_AT_ONCE):
            if failure is not None:
                raise LedgerAwayError from failure
        if len(self._lines) >= MAX_LINES:
            self._lines.clear()
        until = min(self._window(kind).end for kind in KINDS)
        line = self._lines[payer] = _Line(leases, until)
        return line

    async def _meet(self, lease: Lease) -> None:
        """Read, or make, the item behind a new lease."""
        await self._meeting.run(lease, lambda: self._find(lease))

    async def _find(self, lease: Lease) -> None:
        item = await self.table.read(lease.scope, lease.window)
        if item is None:
            await self._know_limits(fresh=True)  # one that was set a moment ago holds from the first dollar on
            item = await self.table.create(lease.scope, lease.window, self._limits.wanted(*lease.kind))
        if item.limit != self._limits.wanted(*lease.kind):
            await self._know_limits(fresh=True)  # whoever set it may know something newer
            item = await self._set_item_limit(lease.scope, lease.window, item, self._limits.wanted(*lease.kind))
        lease.see(item)

    async def _set_item_limit(self, scope: str, name: str, item: Item, limit: int) -> Item:
        while item.limit != limit:
            _, found = await self.table.step(scope, name, SetLimit(item.ver, item.limit, limit))
            if found is None:
                break
            item = found
        for lease in self.book.leases:
            if (lease.scope, lease.window) == (scope, name):
                lease.see(item)
                lease.refused_until = 0.0
        return item

    async def _grow(self, lease: Lease, more: int) -> None:
        """Make room for a call: one step at a time a lease, for all that wait. Raises what `_reserve` raises."""
        self._spending = True
        if self._clock() < lease.refused_until and more >= lease.wanted:
            raise self._refusal(lease)
        together, least = self._demand.get(lease, (0, more))
        self._demand[lease] = (together + more, min(least, more))
        await self._growing.run(lease, lambda: self._ask(lease))

    async def _ask(self, lease: Lease) -> None:
        try:
            for _ in range(TRIES):
                if lease.state is State.NEW and lease.flying is None and lease.limit == 0:
                    try:
                        await self._meet(lease)
                    except Exception as error:
                        raise LedgerAwayError from error
                together, least = self._demand[lease]
                if lease.flying is None:
                    lease.wanted = together
                    await self._size(lease, together, least)
                    if lease.block == 0:
                        if lease.committed + least <= lease.line:
                            return  # some of them find room; the others ask again, and are told that there is none
                        lease.wanted, lease.refused_until = least, self._clock() + REFUSED_SECONDS
                        raise self._refusal(lease)
                granted = lease.block
                await self._step(lease)
                # Asked again before the next look at its pace: each time for twice as much.
                lease.burn = max(lease.burn, 2 * granted)
                if lease.state in (State.LOST, State.DONE) or lease.committed + self._demand[lease][0] <= lease.line:
                    return
        finally:
            # Whoever waited and still finds no room says so again.
            self._demand.pop(lease, None)

    async def _size(self, lease: Lease, together: int, least: int) -> None:
        """Set the block to ask for. Before it is none, look: somebody may have raised the limit or given money back."""
        lease.block = lease.size(together, lease.burn, least)
        if lease.block or lease.committed + least <= lease.line:
            return
        try:
            item = await self.table.read(lease.scope, lease.window)
        except Exception as error:
            self._note_away(error)
            raise LedgerAwayError from error
        if item is not None:
            lease.see(item)
            lease.block = lease.size(together, lease.burn, least)

    async def _step(self, lease: Lease) -> None:
        """Send the lease's next step and learn from the answer; raises LedgerAwayError when there was none."""
        op = lease.next_op()
        if op is None:
            return
        before = lease.state
        try:
            taken, item = await self.table.step(lease.scope, lease.window, op)
        except Exception as error:
            self._note_away(error)
            raise LedgerAwayError from error
        if item is None:
            # The item is gone, with the table perhaps: what is leased cannot be told from what is not.
            lease.state, lease.flying = State.DONE, None
            lease.draw(away=False)
        elif taken:
            lease.done(op, item)
        else:
            lease.refused(op, item)
        if item is not None:
            lease.bury(item.tomb, int(self._wall_clock()))
        if lease.state is not before and before is State.OPEN:
            self._lines.clear()

    def _draw_away(self) -> None:
        now = self._clock()
        self._due["beat"] = min(self._due["beat"], now + BACK_SECONDS)
        self.book.draw(away=True, stopped=now - self._beat_at >= EMERGENCY_SECONDS)

    def _refusal(self, lease: Lease) -> ApiError:
        kind = "monthly" if lease.window[0] == MONTHLY else "daily"
        whom = "the organisation" if ":" not in lease.scope else lease.scope.replace(":", " ", 1)
        resets = moment(self._window(lease.window[0]).end, self.zone)
        left = usd(max(0, lease.avail))
        return ApiError(
            "insufficient_quota",
            f"The {kind} budget of {whom} has no room for this request: {left} of {usd(lease.limit)} is neither spent "
            f"nor reserved (rung '{Rung.REFUSED.label}'). It starts anew at {resets}; to go on before, an operator "
            f"raises it with `python -m app.budgets set {lease.scope} {SPANS[lease.window[0]]} USD --why '...'`.",
            headers={"x-should-retry": "false", RUNG_HEADER: Rung.REFUSED.label},
        )

    # the task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(LedgerAwayError):
                await self.tick()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_SECONDS * SystemRandom().uniform(0.8, 1.2))

    async def tick(self) -> None:
        """Everything that is due now; raises LedgerAwayError when the table does not answer."""
        await self._beat()
        if page_due(self.book.unwritten, self._clock() - self._paged_at):
            await self._write_pages()
        self._look()
        await self._step_all()
        if self._spending or self._clock() >= self._due["limits"] + QUIET_LIMITS_SECONDS:
            await self._ask_for_limits()
        if self._is_due("watch", WATCH_SECONDS):
            await self._find_silent()

    def _is_due(self, what: str, seconds: float) -> bool:
        now = self._clock()
        if now < self._due[what]:
            return False
        self._due[what] = now + seconds
        return True

    async def _ask_for_limits(self) -> None:
        if self._is_due("limits", LIMITS_SECONDS):
            await self._know_limits(fresh=True)
            self._spending = False

    async def _beat(self) -> None:
        now = self._clock()
        if now - self._beat_at >= EMERGENCY_SECONDS:
            # Others may have given back what is leased here, by evidence: none of it is trusted any more.
            for lease in list(self.book.current.values()):
                self.book.retire(lease)
            self._lines.clear()
            self._due["beat"] = 0.0
        if self._due["beat"] and not self.book.leases:
            return  # whoever would miss it looks at those who hold money
        if not self._is_due("beat", beat_seconds(self._entries_since_beat)):
            return
        try:
            await self.table.beat(self.book.boot)
        except Exception as error:
            self._due["beat"] = 0.0
            self._note_away(error)
            if self._clock() - self._beat_at >= AWAY_SECONDS:
                self._draw_away()
            raise LedgerAwayError from error
        self._beat_at = now
        self._entries_since_beat = 0
        if self._told_away:
            self._told_away = False
            log.warning("the ledger answers again")
        self.book.draw(away=False)

    async def _write_pages(self) -> None:
        """Write what waits now. What comes meanwhile is left for the next time: it would be a page of a few entries,
        and after it another, for as long as requests come."""
        left = self.book.unwritten
        while left > 0 and (page := self.book.page(self._wall_clock())) is not None:
            left -= len(page.entries)
            self._entries_since_beat += len(page.entries)
            try:
                await self.table.put_page(page)
            except Exception as error:
                self._note_away(error)
                raise LedgerAwayError from error
            self.book.filed()
            self._alive_at = self._paged_at = self._clock()

    def _look(self) -> None:
        """Which leases want more, have something to tell, or are not used any more."""
        now, names = self._clock(), {self._window(kind).name for kind in KINDS}
        for lease in list(self.book.current.values()):
            total, at = self._looked.get(lease, (0, now))
            used = lease.total != total or lease.committed != lease.total
            if lease.window not in names or (not used and now - at >= idle_seconds(lease)):
                self.book.retire(lease)
                self._lines.clear()
                self._looked.pop(lease, None)
                continue
            self._spending = self._spending or used
            if lease not in self._looked:
                lease.published_at = now  # what it spends at first is told with all that it will have spent soon
            if used or lease not in self._looked:
                pace = (lease.total - total) * BLOCK_SECONDS / max(TICK_SECONDS, now - at)
                lease.burn = int(0.5 * lease.burn + 0.5 * pace)
                self._looked[lease] = (lease.total, now)
            if lease.state is not State.OPEN or lease.flying is not None:
                continue
            if 2 * lease.committed > lease.line + lease.published and now >= lease.refused_until:
                lease.block = lease.size(lease.wanted, lease.burn)
            if publish_due(lease, now):
                lease.published_at = now
                lease.publish()

    async def _step_all(self) -> None:
        for lease in self.book.draining:
            if lease.closing and not lease.drained:
                lease.publish()
        ready = [lease for lease in self.book.leases if lease not in self._growing and lease.next_op() is not None]
        failures = await in_turns(map(self._step, ready), WRITES_AT_ONCE)
        self.book.forget()
        for failure in failures:
            if failure is not None:
                raise failure

    async def _know_limits(self, *, fresh: bool = False) -> None:
        if fresh:
            await self._learn_limits()
        elif not self._limits.known:
            await self._learning.run("limits", self._learn_limits)

    async def _learn_limits(self) -> None:
        try:
            if await self._limits.learn(self.table):
                self._lines.clear()  # a scope may have a daily window now
                moved = [
                    lease
                    for lease in self.book.current.values()
                    if lease.limit not in (0, self._limits.wanted(*lease.kind))
                ]
                for failure in await in_turns(map(self._find, moved), WRITES_AT_ONCE):
                    if failure is not None:
                        raise failure
        except Exception as error:
            self._note_away(error)
            raise LedgerAwayError from error

    async def _find_silent(self) -> None:
        self._looked = {lease: self._looked[lease] for lease in self.book.current.values() if lease in self._looked}
        try:
            await self.sweep.run(self.table)
        except Exception as error:
            self._note_away(error)
            raise LedgerAwayError from error

    def _note_away(self, error: BaseException) -> None:
        if not self._told_away:
            self._told_away = True
            fields = {"reason": error_code(error)}
            log.warning("the ledger does not answer; leases go on, nothing is lost", extra={"fields": fields})
