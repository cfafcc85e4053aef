"""Looks at every budget in its turn: moves rungs, finds runaways, tells people. One replica does it for all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING, Protocol

from app.aws import Aws, error_code
from app.budgets import holds, ladder, rota
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
from app.budgets.rota import Account, Rota, Turn
from app.budgets.runaway import Habit
from app.budgets.scope import ORG
from app.budgets.window import Span, window_at
from app.turns import in_turns

if TYPE_CHECKING:
    from app.models import Models

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks at whether this replica shall watch, and at which scopes there are."""
KEEP_SECONDS = 7_200.0
"""A memory is written so often while its scope spends, whenever its rung moves, and when the watcher stops."""
STOP_SECONDS = 3.0
"""For the memories of a watcher that stops."""
WRITES_AT_ONCE = 6
CALM_SECONDS = 3 * HOUR
BY = "runaway watch"
SPANS = {"M": Span.MONTH, "D": Span.DAY}


Place = tuple[str, str]
"""A scope and a kind of window."""


class Accounts(Protocol):
    """What the watcher asks of the ledger."""

    def accounts(self, places: Sequence[Place]) -> Awaitable[Mapping[Place, Account]]: ...
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
        self._kept: dict[str, tuple[float, int]] = {}
        """When a memory was written, and what had been spent by then."""
        self._habits: dict[str, Habit] = {}
        self._published: dict[str, Published] | None = None
        self._rota = Rota()
        self._listed: tuple[str, float] = ("", 0.0)
        """The month whose scopes are known, and when they were read."""
        self._untold: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="budget-watch")

    async def stop(self) -> None:
        """Stop, and leave what is remembered to the next one; one that dies is followed when its lease has run out.

        Safe to call twice.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        known, self._known = self._known, {}
        with contextlib.suppress(Exception):  # the tables are away: then it is as if it had died
            async with asyncio.timeout(STOP_SECONDS):
                spent = [scope for scope, memory in known.items() if self._kept.get(scope, (0, -1))[1] != memory.spent]
                await in_turns((self._memories.keep(scope, known[scope]) for scope in spent), WRITES_AT_ONCE)
                await self._memories.leave()

    async def look(self) -> bool:
        """One round, when this replica watches; whether it did. Raises when the tables do not answer, and, once
        everything else is done, when somebody could not be told."""
        now = self._wall_clock()
        self._untold = None
        if not await self._memories.lead(now):
            # Somebody else moves them now: what is known here grows old.
            self._known.clear()
            self._rota = Rota()
            self._published, self._listed = None, ("", 0.0)
            return False
        policy = self._models().budget
        month = window_at(Span.MONTH, now, self._zone).name
        if self._listed[0] != month or now - self._listed[1] >= LOOK_SECONDS:
            await self._list(month)
            self._listed = month, now
        account = (await self._look_at([ORG], policy, month, now))[ORG, "M"]
        self._rota.see(account)
        await self._look_at(self._rota.due(self._known, self._limits_of, now), policy, month, now)
        await self._publish(now)
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
        return self._rota.pause

    async def _list(self, month: str) -> None:
        """Know every scope there is; one that has no account any more is forgotten."""
        every = {ORG, *await self._scopes(month)}
        new = await self._memories.read([scope for scope in every if scope not in self._known])
        self._known = {scope: self._known.get(scope) or new[scope] for scope in every}
        self._kept = {scope: kept for scope, kept in self._kept.items() if scope in every}
        self._rota.keep(every)

    def _limits_of(self, scope: str) -> rota.Limits:
        return self._accounts.limit_of(scope, "M"), self._accounts.limit_of(scope, "D")

    async def _look_at(
        self, scopes: Collection[str], policy: Policy, month: str, now: float
    ) -> Mapping[Place, Account]:
        places = [(scope, "M") for scope in scopes]
        places += [(scope, "D") for scope in scopes if self._accounts.limit_of(scope, "D") is not None]
        accounts = await self._accounts.accounts(places) if places else {}
        for scope in scopes:
            await self._judge(scope, accounts, policy, month, now)
        return accounts

    async def _judge(
        self, scope: str, accounts: Mapping[Place, Account], policy: Policy, month: str, now: float
    ) -> None:
        memory, account = self._known[scope], accounts[scope, "M"]
        before, seconds = memory.marks, rota.without_limit(scope)
        rate = memory.rate(account.spent, month, now)
        self._remember(scope, memory, account, policy, month, now)
        for kind, span in SPANS.items():
            judged = accounts.get((scope, kind))
            if judged is None or judged.limit is None:
                memory.places.pop(kind, None)
                continue
            window = window_at(span, now, self._zone)
            counted = judged.spent + judged.suspense
            standing = ladder.Standing(judged.limit, counted, memory.history.pace(now), window, now)
            await self._step(scope, kind, memory, policy, standing)
            seconds = min(seconds, rota.seconds_until(policy, standing, memory.places[kind], rate))
        degraded = any(place.rung for place in memory.places.values())
        self._rota.note(scope, Turn(now, self._limits_of(scope), degraded, seconds))
        if scope.startswith("tenant:"):
            await self._watch_habit(scope, memory, policy, month, now)
        kept_at, spent = self._kept.get(scope, (0.0, -1))
        if memory.marks != before or (memory.spent != spent and now - kept_at >= KEEP_SECONDS):
            await self._memories.keep(scope, memory)
            self._kept[scope] = now, memory.spent

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
        # A read that is not the newest may say less than was seen: that is no spend to come.
        memory.spent = max(account.spent, memory.spent if memory.month == month else 0)
        memory.month = month

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
