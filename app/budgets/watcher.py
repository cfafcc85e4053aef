"""Looks at every budget twice a minute: moves rungs, finds runaways, tells people. One replica does it for all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING, Protocol

from app.aws import Aws, error_code
from app.budgets import holds, ladder
from app.budgets.alert import (
    Alert,
    Teller,
    calm_alert,
    due_percents,
    recovered_alert,
    runaway_alert,
    rung_alert,
    spent_alert,
)
from app.budgets.control import Standing as Published
from app.budgets.history import HOUR
from app.budgets.memory import Memories, Memory
from app.budgets.policy import Policy, Rung
from app.budgets.runaway import Habit
from app.budgets.scope import ORG
from app.budgets.window import Span, window_at

if TYPE_CHECKING:
    from app.models import Models

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks at every budget, at the longest, and between two at whether this replica shall watch."""
LEAST_LOOK_SECONDS, SCOPE_SECONDS = 3.0, 0.1
"""Few budgets are looked at sooner: as many reads a second as many budgets need, about ten."""
KEEP_SECONDS = 600.0
"""A memory is written so often, and whenever its rung moves."""
MAX_SCOPES = 300
"""Looked at in one round; the others come in the next."""
CALM_SECONDS = 3 * HOUR
BY = "runaway watch"
SPANS = {"M": Span.MONTH, "D": Span.DAY}


class Account(Protocol):
    """A scope's money in one window, as the ledger tells it, in pico-dollars."""

    @property
    def limit(self) -> int | None: ...
    @property
    def spent(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    @property
    def suspense(self) -> int: ...


class Accounts(Protocol):
    """What the watcher asks of the ledger."""

    def account(self, scope: str, kind: str) -> Awaitable[Account]: ...
    def limit_of(self, scope: str, kind: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What one round saw: of the organisation's month in pico-dollars, and the highest rung of any scope."""

    spent: int
    reserved: int
    suspense: int
    limit: int | None
    rung: Rung


class Watcher:
    """The task; every replica has one, and the one with the lease works."""

    def __init__(
        self,
        aws: Aws,
        table: str,
        accounts: Accounts,
        scopes: Callable[[str], Awaitable[list[str]]],
        models: Callable[[], Models],
        report: Callable[[Seen], None],
        *,
        topic_arn: str,
        stack: str,
        zone: tzinfo,
        wall_clock: Callable[[], float] = time.time,
        owner: str | None = None,
    ) -> None:
        """`scopes` gives every scope that has an account in a window; `report` takes what a round saw."""
        self._aws = aws
        self._table = table
        self._accounts = accounts
        self._scopes = scopes
        self._models = models
        self._report = report
        self._zone = zone
        self._wall_clock = wall_clock
        self._memories = Memories(aws, table, owner or secrets.token_hex(6))
        self._teller = Teller(aws, table, topic_arn, stack, _note)
        self._known: dict[str, Memory] = {}
        self._kept_at: dict[str, float] = {}
        self._habits: dict[str, Habit] = {}
        self._published: dict[str, Published] | None = None
        self._next = 0
        self._untold: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="budget-watch")

    async def stop(self) -> None:
        """Stop; another replica takes over when the lease has run out. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def look(self) -> bool:
        """One round, when this replica watches; whether it did. Raises when the tables do not answer, and, once
        everything else is done, when somebody could not be told."""
        now = self._wall_clock()
        self._untold = None
        if not await self._memories.lead(now):
            # Somebody else moves them now: what is known here grows old.
            self._known.clear()
            self._published = None
            return False
        policy = self._models().budget
        month = window_at(Span.MONTH, now, self._zone).name
        every = sorted({ORG, *await self._scopes(month)}, key=lambda scope: scope != ORG)
        known = {scope: self._known.get(scope) or await self._memories.read(scope) for scope in every}
        self._known = known  # a scope that has no account any more is forgotten
        for scope in self._turn(every):
            await self._judge(scope, policy, month, now)
        await self._publish(now)
        account = await self._accounts.account(ORG, "M")
        rung = max((p.rung for m in self._known.values() for p in m.places.values()), default=Rung.NORMAL)
        self._report(Seen(account.spent, account.reserved, account.suspense, account.limit, rung))
        if self._untold is not None:
            raise self._untold
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:
                log.warning("budgets were not looked at", extra={"fields": {"reason": error_code(error)}})
            await asyncio.sleep(self.pause)

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        if not self._known:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(LEAST_LOOK_SECONDS, SCOPE_SECONDS * len(self._known)))

    def _turn(self, every: list[str]) -> list[str]:
        """The organisation each time, the others in turns."""
        org, others = every[:1], every[1:]
        self._next = self._next if self._next < len(others) else 0
        chosen = others[self._next : self._next + MAX_SCOPES]
        self._next += MAX_SCOPES
        return org + chosen

    async def _judge(self, scope: str, policy: Policy, month: str, now: float) -> None:
        memory = self._known[scope]
        before = dict(memory.places)
        account = await self._accounts.account(scope, "M")
        self._remember(scope, memory, account, policy, month, now)
        for kind, span in SPANS.items():
            if kind == "D" and self._accounts.limit_of(scope, kind) is None:
                memory.places.pop(kind, None)
                continue
            judged = account if kind == "M" else await self._accounts.account(scope, kind)
            if judged.limit is None:
                memory.places.pop(kind, None)
                continue
            window = window_at(span, now, self._zone)
            counted = judged.spent + judged.suspense
            standing = ladder.Standing(judged.limit, counted, memory.history.pace(now), window, now)
            await self._step(scope, kind, memory, policy, standing)
        if scope.startswith("tenant:"):
            await self._watch_habit(scope, memory, policy, month, now)
        if memory.places != before or now - self._kept_at.get(scope, 0.0) >= KEEP_SECONDS:
            await self._memories.keep(scope, memory)
            self._kept_at[scope] = now

    def _remember(self, scope: str, memory: Memory, account: Account, policy: Policy, month: str, now: float) -> None:
        """Add what was spent since the last look to the history, as it would have been without degradation."""
        spent = account.spent - (memory.spent if memory.month == month else 0)
        rung = max((place.rung for place in memory.places.values()), default=Rung.NORMAL)
        shared = self._known.get(ORG)
        if shared is not None:
            rung = max(rung, *(place.rung for place in shared.places.values()), Rung.NORMAL)
        if rung is Rung.REFUSED and spent <= 0:
            memory.history.skip(now)  # nobody could spend: that says nothing about who wants to
        else:
            memory.history.add(now, int(max(0, spent) / policy.cost(rung)))
        memory.month, memory.spent = month, account.spent

    async def _step(self, scope: str, kind: str, memory: Memory, policy: Policy, standing: ladder.Standing) -> None:
        before = memory.places.get(kind, ladder.Place())
        place = ladder.step(policy, standing, before)
        memory.places[kind] = place
        window = standing.window.name
        memory.told = {name: rung for name, rung in memory.told.items() if name[0] != kind or name == window}
        told = memory.told.get(window, 0)
        for percent in due_percents(policy, standing)[-1:]:
            await self._tell(spent_alert(scope, standing, percent, self._zone), standing.now)
        if place.rung > told:
            # Each rung once a window; what was told before is not taken back with a second recovery either.
            if await self._tell(rung_alert(scope, standing, place.rung, self._zone), standing.now):
                memory.told[window] = int(place.rung)
        elif place.rung is Rung.NORMAL and told:
            alert = recovered_alert(scope, standing, place.since, self._zone)
            if await self._tell(alert, standing.now) is not None:
                memory.told[window] = 0

    async def _tell(self, alert: Alert, now: float) -> bool | None:
        """Whether it was told now, None when it could not be: a topic that is gone holds up no rung."""
        try:
            return await self._teller.tell(alert, now)
        except Exception as error:
            self._untold = error
            return None

    async def _watch_habit(self, scope: str, memory: Memory, policy: Policy, month: str, now: float) -> None:
        hour = int(now // HOUR)
        habit = self._habits.get(scope)
        if habit is None or habit.hour != hour:
            habit = self._habits[scope] = Habit(memory.history, now)
        found = habit.judge(now)
        if found is None:
            over = memory.runaway_at and now - memory.runaway_at >= CALM_SECONDS
            if over and await self._tell(calm_alert(scope, month, hour), now) is not None:
                memory.runaway_at = 0.0
            return
        if not memory.runaway_at:
            if policy.hold_runaways:
                await self._hold(scope, now)
            alert = runaway_alert(scope, found, held=policy.hold_runaways, window=month, hour=hour)
            if await self._tell(alert, now) is None:
                return
        memory.runaway_at = now

    async def _hold(self, scope: str, now: float) -> None:
        why = "spending out of its habit; the alert says by how much"
        await self._aws.run(lambda: holds.hold(self._aws.client("dynamodb"), self._table, scope, BY, why, now=now))

    async def _publish(self, now: float) -> None:
        rungs: dict[str, Published] = {}
        for scope, memory in self._known.items():
            for kind, place in memory.places.items():
                window = window_at(SPANS[kind], now, self._zone)
                higher = scope not in rungs or place.rung > rungs[scope].rung
                if place.rung and place.window == window.name and higher:
                    rungs[scope] = Published(place.rung, window.end)
        if rungs != self._published:
            await self._memories.publish(rungs)
            self._published = rungs


def _note(alert: Alert, outcome: str) -> None:
    fields = {"scope": alert.scope, "window": alert.window, "kind": alert.kind, "outcome": outcome, "what": alert.what}
    with contextlib.suppress(OSError):
        log.warning("budget alert", extra={"fields": fields})
