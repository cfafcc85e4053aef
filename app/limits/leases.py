"""The leases' way to Valkey: what many calls need is asked for together, off the request path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.limits.scope import LEASE_SECONDS, NEVER, Scope
from app.limits.scripts import FIELDS, LEASE
from app.valkey.client import ValkeyAwayError

if TYPE_CHECKING:
    from app.valkey.client import Valkey

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""A lease in use is renewed this often, and one that is not is given back."""
MOST_AT_ONCE = 100
"""Scopes in one call: a script holds the server for microseconds, not milliseconds."""


class _Slot:
    """Scopes whose keys share a hash slot, and so a call."""

    __slots__ = ("pending", "task")

    def __init__(self) -> None:
        self.pending: dict[Scope, None] = {}
        self.task: asyncio.Task[None] | None = None


class Leases:
    """Asks for every scope of this replica."""

    def __init__(self, valkey: Valkey, replica: str, clock: Callable[[], float]) -> None:
        """`replica` is a name that no other process has."""
        self.calls = 0
        """How often Valkey was called, for the count that a figure is made of."""
        self._valkey = valkey
        self._replica = replica
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._active: dict[Scope, None] = {}
        self._timers: dict[Scope, asyncio.TimerHandle] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._others = 0
        """Other replicas as of the last tick, at the limit where most were seen."""
        self._stopped = False

    def note(self, scope: Scope) -> None:
        """Tell the server of this scope at the next tick."""
        if scope.active:
            return
        scope.active = True
        self._active[scope] = None
        if self._ticker is None and not self._stopped:
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def forget(self, scope: Scope) -> None:
        """Never tell the server of this scope again: another may take its place."""
        self._active.pop(scope, None)
        scope.active = scope.asking = True  # what is given back to it goes nowhere

    def ask(self, scope: Scope) -> None:
        """Ask the server for this scope, together with whatever else asks in this turn of the loop."""
        if scope.asking:
            return
        self.note(scope)
        if not self._valkey.reachable:
            scope.fail(self._clock(), self._others)
            return
        scope.asking = True
        slot = self._slots.get(scope.slot)
        if slot is None:
            slot = self._slots[scope.slot] = _Slot()
        slot.pending[scope] = None
        if slot.task is None:
            slot.task = asyncio.get_running_loop().create_task(self._run(scope.slot, slot), name="lease")

    def wait(self, scope: Scope) -> None:
        """Somebody has joined the queue of this scope."""
        if scope.asking:
            return  # the answer is followed by turns
        if self._valkey.reachable and (scope.alone or self._clock() >= scope.next_ask):
            self.ask(scope)
            return
        if not self._valkey.reachable:
            self.ask(scope)
        self.pump(scope)

    def pump(self, scope: Scope) -> None:
        """Give turns to those who can be served; tell those who cannot in time; come back for the next."""
        now = self._clock()
        queue = scope.queue
        while (head := queue.head()) is not None and scope.fits(now, head):
            queue.pop()
            if not head.turn.done():
                scope.take(head.tokens, int(head.streams), head.requests)
                head.turn.set_result(None)
        if not queue:
            return
        for waiter in queue.newcomers():
            waiter.wait = scope.wait_of(now, waiter)
            # What is there already takes one question more, also for one who would not wait.
            if waiter.wait and now + waiter.wait > waiter.latest and not waiter.turn.done():
                waiter.refused = True
                queue.leave(waiter)
                waiter.turn.set_result(None)
        if queue:
            self._come_back(scope, now)

    async def stop(self) -> None:
        """Give back everything that is held, as far as Valkey answers."""
        self._stopped = True
        for handle in (self._ticker, *self._timers.values()):
            if handle is not None:
                handle.cancel()
        for scope in self._active:
            scope.rest()
            self.ask(scope)
        while tasks := [slot.task for slot in self._slots.values() if slot.task is not None]:
            await asyncio.wait(tasks)

    def _come_back(self, scope: Scope, now: float) -> None:
        at = scope.ask_after(now)
        timer = self._timers.get(scope)
        if self._stopped or (timer is not None and scope.next_ask <= at):
            return
        if timer is not None:
            timer.cancel()
        scope.next_ask = at
        self._timers[scope] = asyncio.get_running_loop().call_later(max(0.0, at - now), self._due, scope)

    def _due(self, scope: Scope) -> None:
        self._timers.pop(scope, None)
        scope.next_ask = NEVER
        self.ask(scope)
        if not scope.asking:
            self.pump(scope)

    def _tick(self) -> None:
        self._ticker = None
        self._others = max((scope.others for scope in self._active), default=self._others)
        for scope in list(self._active):
            if scope.active:
                self.ask(scope)
            else:
                del self._active[scope]
        if self._active:
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    async def _run(self, name: str, slot: _Slot) -> None:
        try:
            while slot.pending:
                scopes = list(slot.pending)[:MOST_AT_ONCE]
                for scope in scopes:
                    del slot.pending[scope]
                again = await self._sync(scopes)
                for scope in scopes:
                    self.pump(scope)
                for scope in again:
                    self.ask(scope)
        finally:
            slot.task = None
            if not slot.pending:
                self._slots.pop(name, None)

    async def _sync(self, scopes: list[Scope]) -> list[Scope]:
        """One call: tell what is held and needed, take what is granted. Without an answer every scope is alone.

        Returns the scopes of which the server should hear more at once.
        """
        now = self._clock()
        arguments: list[Any] = [self._replica, int(LEASE_SECONDS * 1000), FIELDS]
        for scope in scopes:
            arguments += scope.report(now)
        self.calls += 1
        again = []
        try:
            answers = await LEASE.call(self._valkey, [scope.key for scope in scopes], *arguments)
            for scope, answer in zip(scopes, answers, strict=True):
                if scope.accept(answer, self._clock()):
                    again.append(scope)
        except Exception as error:  # whatever it is, who waits must not wait for this answer
            if not isinstance(error, ValkeyAwayError):
                log.error("Valkey's answer about limits makes no sense", extra={"fields": {"reason": str(error)}})
            for scope in scopes:
                scope.fail(self._clock(), self._others)
        finally:
            for scope in scopes:
                scope.asking = False
        return again
