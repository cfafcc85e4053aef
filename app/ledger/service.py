"""The ledger of one process: reserves, settles, and tells what was spent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.budgets.window import Window, moment, names_anywhere
from app.errors import ApiError
from app.ledger.book import Hold, Payer
from app.ledger.entries import Entry, Kept, shown
from app.ledger.group import Group, Piece, Place, page_time
from app.ledger.item import UNBOUNDED_PICO, Item, SetAside, Use
from app.ledger.keeper import KINDS, MAX_UNWRITTEN, SPANS, TRIES, Keeper, LedgerAwayError
from app.ledger.lease import Lease, State
from app.ledger.limits import MONTHLY
from app.ledger.table import Default, Refused, Write
from app.ledger.watch import EMERGENCY_SECONDS
from app.turns import in_turns

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
RESERVE_SECONDS = 5.0
"""A request waits no longer for money. What was begun for it goes on, so that a later one finds it done."""
RETRY_SECONDS = 5
ALIVE_SECONDS = 60.0
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Account:
    """A scope's money in one window, in pico-dollars."""

    scope: str
    window: str
    limit: int | None
    """None = no budget."""
    spent: int
    reserved: int
    """Leased by replicas and not spent yet."""
    suspense: int
    """Of replicas that fell silent: counted, until there is evidence of what they spent."""
    resets: str
    """When the next window begins."""

    @property
    def left(self) -> int | None:
        """What may still be leased; below zero when more was spent than the limit is now. None = no budget."""
        return None if self.limit is None else self.limit - self.spent - self.reserved - self.suspense


class Ledger(Keeper):
    """Reserves, settles, and tells what was spent."""

    _group: Group | None = None
    """Of transactions; nobody has one who defers nothing."""

    # for a request

    def take(self, payer: Payer, worst: int, id_: str) -> Hold | None:
        """Reserve from the leases at hand, waiting for nothing; None when `reserve` has to ask the table."""
        if worst == 0:  # what is free needs nobody's leave
            return self.book.force((), 0, payer, id_)
        line = self._lines.get(payer)
        if line is None or self._wall_clock() >= line.until or self._clock() - self._beat_at >= EMERGENCY_SECONDS:
            return None
        return self.book.take(line.leases, worst, payer, id_)

    async def reserve(self, payer: Payer, worst: int, id_: str) -> Hold:
        """A hold on `worst` pico-dollars of every scope of a payer.

        Raises ApiError: 429 `insufficient_quota` when a budget has no room, 503 `ledger_unavailable` when the table
        does not answer and what was leased for that time is spent.
        """
        try:
            async with asyncio.timeout(RESERVE_SECONDS):
                return await self._reserve(payer, worst, id_)
        except (LedgerAwayError, TimeoutError):
            return self._from_emergency(payer, worst, id_)

    async def _reserve(self, payer: Payer, worst: int, id_: str) -> Hold:
        for _ in range(TRIES):
            hold = self.take(payer, worst, id_)
            if hold is not None:
                return hold
            if self._clock() - self._beat_at >= EMERGENCY_SECONDS:
                await self._beat()
            leases = (await self._line(payer)).leases
            short = [lease for lease in leases if lease.committed + worst > lease.line]
            for failure in await in_turns((self._grow(lease, worst) for lease in short), len(leases)):
                if failure is not None:
                    raise failure
        raise _unavailable("The spend ledger is busy")

    async def extend(self, hold: Hold, more: int) -> bool:
        """Reserve more for a call that runs, asking the table when the leases at hand have no room."""
        for _ in range(TRIES):
            if hold.settled or hold.extend(more):
                return not hold.settled
            try:
                for lease in hold.leases:
                    if lease.state is not State.OPEN or lease.closing:
                        return False
                    if lease.committed + more > lease.line:
                        await self._grow(lease, more)
            except LedgerAwayError:
                self._draw_away()
                return hold.extend(more)
            except ApiError:  # there is no money; what is kept for an outage stays kept
                return hold.extend(more)
        return False

    def settle(self, hold: Hold, entry: Entry) -> None:
        """Put what an attempt cost in place of what was reserved for it. Only the first time counts."""
        if self.book.settle(hold, entry) > MAX_UNWRITTEN:
            self._bound_memory()

    def release(self, hold: Hold) -> None:
        """Give back what was reserved for an attempt that was never made."""
        self.book.release(hold)

    def note(self, entry: Entry) -> None:
        """Keep an entry that costs nothing: a refused attempt."""
        self.book.note(entry)
        self._bound_memory()

    def count(self, kept: Kept, request_id: str) -> None:
        """Count an answer that needed no attempt: one entry a page for all of the same kind."""
        if not self.book.count(kept):
            self.book.begin_count(kept, f"{request_id}.0", self._wall_clock())
            self._bound_memory()

    # for a request that waits

    async def places(self, payer: Payer) -> tuple[Place, ...]:
        """Where a call of this moment is charged; raises ApiError 503 `ledger_unavailable`."""
        try:
            return tuple((lease.scope, lease.window) for lease in (await self._line(payer)).leases)
        except Exception as error:
            raise _away() from error

    async def set_aside(self, places: Sequence[Place], worst: int, writes: Sequence[Write], day: str = "") -> bool:
        """Keep the worst case of a call that is made later, together with `writes`: all of it or nothing.

        It is held by no process, until `use` with the same `day` (evidence.aside_day of now). False when the writes
        were refused. Raises ApiError: 429 `insufficient_quota` when a budget has no room, 503 `ledger_unavailable` when
        it is not known what came of it.
        """
        refused = await self._share(Piece(places, SetAside(worst, day), writes))
        if refused is not None and refused.step is not None:
            place = places[refused.step]
            lease = self.book.current.get(place) or Lease(*place, "")
            if refused.item is None:
                raise _away()
            lease.see(refused.item)
            raise self._refusal(lease)
        return refused is None

    async def use(
        self, places: Sequence[Place], worst: int, entry: Entry | None, writes: Sequence[Write], day: str = ""
    ) -> bool:
        """Book what a call cost (None: it was not made) in place of what was set aside for it, together with `writes`.

        False when the writes were refused: then it was booked before. Raises ApiError 503 `ledger_unavailable`.
        """
        refused = await self._share(Piece(places, Use(worst, entry.pico if entry else 0, day), writes, entry))
        if refused is not None and refused.step is not None:
            raise _away()  # an item is gone, with the table perhaps: what was spent is not forgotten
        return refused is None

    async def _share(self, piece: Piece) -> Refused | None:
        if self._group is None:
            self._group = Group(self._together)
        try:
            return await self._group.run(piece)
        except Exception as error:
            raise _away() from error

    async def _together(
        self, steps: Mapping[Place, SetAside | Use], writes: Sequence[Write], entries: tuple[Entry, ...]
    ) -> Refused | None:
        if entries:
            page = self.book.page_of(entries, page_time(entries, self._wall_clock()))
            writes = [*writes, await self.table.page_write(page)]
        return await self.table.together([(*place, op) for place, op in steps.items()], writes)

    # for people and programs

    async def account(self, scope: str, kind: str = MONTHLY) -> Account:
        """What a scope may spend and has spent in the window that runs; raises ApiError 503 `ledger_unavailable`."""
        running = self._window(kind)
        try:
            await self._know_limits()
            item = await self.table.read(scope, running.name)
            if item is not None and item.limit != self._limits.wanted(scope, kind):
                # Nobody leases of it, so nobody else looks: somebody went back to a default that he did not know.
                await self._know_limits(fresh=True)
                item = await self._set_item_limit(scope, running.name, item, self._limits.wanted(scope, kind))
        except Exception as error:
            raise _away() from error
        return self._told(scope, kind, running, item)

    async def accounts(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Account]:
        """The same of many scopes and kinds of window at half the price, as they were a moment ago."""
        windows = {kind: self._window(kind) for kind in KINDS}
        try:
            await self._know_limits()
            items = await self.table.read_many([(scope, windows[kind].name) for scope, kind in places])
        except Exception as error:
            raise _away() from error
        found = {}
        for scope, kind in places:
            item = items.get((scope, windows[kind].name))
            if item is not None and item.limit != self._limits.wanted(scope, kind):
                found[scope, kind] = await self.account(scope, kind)
            else:
                found[scope, kind] = self._told(scope, kind, windows[kind], item)
        return found

    def _told(self, scope: str, kind: str, running: Window, item: Item | None) -> Account:
        found = item or Item(self._limits.wanted(scope, kind), 0)
        current = self.book.current.get((scope, running.name))
        own = [lease for lease in self.book.draining if (lease.scope, lease.window) == (scope, running.name)]
        own += [] if current is None else [current]
        ahead = sum(lease.total - lease.published for lease in own if lease.state in (State.OPEN, State.LOST))
        return Account(
            scope=scope,
            window=running.name,
            limit=None if found.limit >= UNBOUNDED_PICO else found.limit,
            spent=found.used + ahead,
            reserved=max(0, found.leased - ahead),
            suspense=found.suspense,
            resets=moment(running.end, self.zone),
        )

    async def month(self, tenant: str) -> int:
        """Pico-dollars the tenant has spent this month, with what this process has yet to write."""
        return (await self.account(f"tenant:{tenant}")).spent

    async def set_limit(self, scope: str, kind: str, pico: int | Default | None, *, by: str, why: str) -> None:
        """Set a scope's limit for this and all later windows of a kind; None takes it away. Audited.

        `Default.LIMIT` goes back to the one that this process was made with. What is leased at this moment stays
        spendable. Whoever sets it need not know the owner's zone: where one window ends and another begins, both have
        the limit. Raises ValueError for a limit or a text out of bounds.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of window; choose one of {', '.join(KINDS)}")
        if isinstance(pico, int) and not 0 <= pico < UNBOUNDED_PICO:
            raise ValueError(f"{pico} is not a limit from 0 to {UNBOUNDED_PICO - 1} pico-dollars")
        for name, text in (("by", by), ("why", why)):
            if not 1 <= len(text) <= MAX_TEXT:
                raise ValueError(f"{name} has {len(text)} characters; 1 to {MAX_TEXT} are needed, for the audit")
        await self.table.set_standing(scope, kind, pico, by, why)
        self._due["limits"] = 0.0
        await self._know_limits(fresh=True)
        for name in {self._window(kind).name, *names_anywhere(SPANS[kind], self._wall_clock())}:
            item = await self.table.read(scope, name)
            if item is not None:
                await self._set_item_limit(scope, name, item, self._limits.wanted(scope, kind))

    def alive(self) -> bool:
        """Whether what was spent up to ALIVE_SECONDS ago is in the ledger."""
        if not self.book.unwritten:
            self._alive_at = self._clock()
        return self._clock() - self._alive_at < ALIVE_SECONDS

    def start(self) -> None:
        """Start the task that keeps leases and pages."""
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def stop(self) -> None:
        """Write what waits and give back what is leased; what cannot be written goes to the log. Safe to call twice."""
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None
        for lease in list(self.book.current.values()):
            self.book.retire(lease)
        self._lines.clear()
        deadline = self._clock() + STOP_SECONDS
        while True:
            clean = await self.flush()
            if clean or self._clock() >= deadline:
                break
            await asyncio.sleep(0.2)
        while (page := self.book.page(self._wall_clock())) is not None:
            for entry in page.entries:
                log.error("spend that is in no ledger: add it by hand", extra={"fields": shown(entry)})
            self.book.filed()

    async def flush(self) -> bool:
        """Write pages and send every step that waits, once; whether nothing is left. Never raises."""
        with contextlib.suppress(LedgerAwayError):
            await self._write_pages()
            await self._step_all()
        return not self.book.unwritten and not any(
            lease.flying or lease.state in (State.LOST, State.OPEN) for lease in self.book.draining
        )

    def _from_emergency(self, payer: Payer, worst: int, id_: str) -> Hold:
        self._draw_away()
        hold = self.take(payer, worst, id_)
        if hold is None:
            raise _unavailable(
                "The spend ledger does not answer in time, and nothing is set aside for that, or no more"
            )
        return hold

    def _bound_memory(self) -> None:
        while self.book.unwritten > MAX_UNWRITTEN:
            dropped = self.book.drop_oldest()
            if dropped is None:
                return
            log.error("spend that is in no ledger: add it by hand", extra={"fields": shown(dropped)})


def _away() -> ApiError:
    return ApiError("ledger_unavailable", "The spend ledger does not answer; try again in a second.")


def _unavailable(why: str) -> ApiError:
    return ApiError(
        "ledger_unavailable",
        f"{why}; try again in {RETRY_SECONDS} s.",
        headers={"retry-after": str(RETRY_SECONDS)},
    )
