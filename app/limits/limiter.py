"""Requests, tokens and streams of every call: granted from leases in memory, waited for in turn, settled by usage."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.limits.headers import go_duration, rate_headers, retry_headers
from app.limits.leases import Leases
from app.limits.queue import PRIORITY_WEIGHTS, Waiter
from app.limits.scope import Limits, Scope
from app.limits.scripts import KEY_PREFIX, SWEEP
from app.valkey import Valkey

if TYPE_CHECKING:
    from app.keys import Identity
    from app.models import KeyLimits

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
SWEEP_BATCH = 200  # keys looked at by one SCAN
ANSWER_SECONDS = 1.0
"""Besides the wait for a turn: for Valkey to answer, or to be found away."""


@dataclass(slots=True, eq=False)
class Grant:
    """What one call took of each of its limits; give the rest back by `Limiter.settle`, once."""

    scopes: tuple[Scope, ...]
    tokens: int
    streams: int
    at: float
    waited: float = 0.0
    """Seconds in queues."""

    @property
    def shared(self) -> bool:
        """True = taken from what all replicas share, False = from this one's share while Valkey was away."""
        return not any(scope.alone for scope in self.scopes)

    @property
    def requests_per_minute(self) -> int:
        """The limit of the key that holds here."""
        return self.scopes[0].effective().requests

    @property
    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of the key after this grant."""
        return _headers(self.scopes[0], self.at)


@dataclass
class Limiter:
    """Reserves on an estimate before a call and reconciles with its usage after it."""

    valkey: Valkey
    defaults: Callable[[], KeyLimits]
    """Limits of a key that has none of its own."""
    max_local_keys: int
    """Limits remembered here; the one unused for longest goes first."""
    clock: Callable[[], float] = time.monotonic
    _scopes: OrderedDict[str, Scope] = field(default_factory=OrderedDict)
    _sweeper: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._leases = Leases(self.valkey, secrets.token_hex(6), self.clock)

    def start(self) -> None:
        """Start the task that removes full buckets from Valkey each SWEEP_SECONDS or so."""
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="limits")

    async def stop(self) -> None:
        """Give back what is held and stop. Safe to call twice."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        await self._leases.stop()

    def take(self, identity: Identity, tokens: int, *, streams: int = 0) -> Grant | None:
        """A grant when it is there at once, from what this replica holds: no call and no wait; else None."""
        now = self.clock()
        scopes = self._scopes_of(identity)
        for scope in scopes:
            if not scope.ready(now, tokens, streams):
                return None
        for scope in scopes:
            if scope.take(tokens, streams):
                self._leases.ask(scope)
        return Grant(scopes, tokens, streams, now)

    async def reserve(
        self,
        identity: Identity,
        model: str,
        estimated_tokens: int,
        *,
        streams: int = 0,
        priority: str = "interactive",
        max_wait: float = 0.0,
    ) -> Grant:
        """Take one request and `estimated_tokens` from every limit of a call, waiting in turn for at most `max_wait` s.

        Raises ApiError 429 `rate_limit_exceeded` as soon as it is known that they will not be there in time, with
        `x-ratelimit-*` and the seconds after which the same call fits; without `retry-after` when it can never fit.
        """
        tokens = max(0, estimated_tokens)
        grant = self.take(identity, tokens, streams=streams)
        if grant is not None:
            return grant
        scopes = self._scopes_of(identity)
        for scope in scopes:
            if scope.limits.tokens and tokens > scope.limits.tokens:
                raise _too_large(scope, model, tokens)
        began = self.clock()
        latest = began + max_wait
        taken: list[Scope] = []
        try:
            for scope in scopes:
                await self._turn(scope, identity, model, tokens, streams, priority, latest)
                taken.append(scope)
        except BaseException:
            for scope in taken:
                scope.give_back(1, tokens, streams)
            raise
        now = self.clock()
        return Grant(scopes, tokens, streams, now, waited=now - began)

    def settle(self, grant: Grant, actual_tokens: int) -> None:
        """Give back what the call did not use, or take what it used beyond its estimate; never raises or waits.

        A bucket may go below zero by at most one minute's worth: the next calls wait for it.
        """
        back = grant.tokens - max(0, actual_tokens)
        if back == 0 and not grant.streams:
            return
        for scope in grant.scopes:
            scope.give_back(0, back, grant.streams)
            self._leases.note(scope)

    async def sweep(self) -> int:
        """Remove the buckets that are full, which is what a missing bucket means; returns how many were removed.

        Raises ValkeyAwayError.
        """
        client = self.valkey.client
        removed = 0
        async for key in client.scan_iter(match=f"{KEY_PREFIX}*", count=SWEEP_BATCH):
            removed += int(await self.valkey.run(partial(SWEEP.run, key=key)))
        return removed

    async def _turn(
        self, scope: Scope, identity: Identity, model: str, tokens: int, streams: int, priority: str, latest: float
    ) -> None:
        """Take from one limit when it is this call's turn; raises ApiError 429 when that is too late."""
        now = self.clock()
        if scope.ready(now, tokens, streams):
            if scope.take(tokens, streams):
                self._leases.ask(scope)
            return
        flow = f"{identity.tenant} {priority}"
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(1, tokens, streams, flow, PRIORITY_WEIGHTS[priority], latest, turn)
        scope.queue.push(waiter, scope.cost(waiter))
        self._leases.wait(scope)
        try:
            async with asyncio.timeout(max(latest - now, ANSWER_SECONDS)):
                await turn
        except TimeoutError:
            waiter.refused = not waiter.served
        except asyncio.CancelledError:
            if waiter.served:  # granted in the moment in which it was given up
                scope.give_back(1, tokens, streams)
            raise
        finally:
            scope.queue.leave(waiter)
        if waiter.refused:
            raise self._refusal(scope, model, waiter)

    def _refusal(self, scope: Scope, model: str, waiter: Waiter) -> ApiError:
        now = self.clock()
        limits = scope.effective()
        requests, _ = scope.remaining(now)
        few = limits.requests and requests < waiter.requests
        which = (
            f"requests per min (RPM): Limit {limits.requests}"
            if few
            else (f"tokens per min (TPM): Limit {limits.tokens}")
        )
        wait = waiter.wait
        return ApiError(
            "rate_limit_exceeded",
            f"Rate limit reached for {model} on {which} of {scope.label}. Please try again in {go_duration(wait)}.",
            headers={**_headers(scope, now), **retry_headers(wait)},
        )

    def _scopes_of(self, identity: Identity) -> tuple[Scope, ...]:
        defaults = self.defaults()
        limits = Limits(
            identity.requests_per_minute or defaults.requests_per_minute,
            identity.tokens_per_minute or defaults.tokens_per_minute,
        )
        name = identity.key_id
        scope = self._scopes.get(name)
        if scope is None:
            slot = f"{KEY_PREFIX}{identity.tenant}}}"
            scope = self._scopes[name] = Scope(f"{slot}:key:{name}", slot, "this key", limits)
            self._forget_idle()
        elif scope.limits != limits:
            scope.change(limits)
        return (scope,)

    def _forget_idle(self) -> None:
        """Keep to the bound: the oldest goes that the server need not hear of, or cannot."""
        for _ in range(len(self._scopes)):
            if len(self._scopes) <= self.max_local_keys:
                return
            name, scope = self._scopes.popitem(last=False)
            if scope.queue or (scope.active and not scope.alone):
                self._scopes[name] = scope
            else:
                self._leases.forget(scope)

    async def _sweep_forever(self) -> None:
        while True:
            # Not all replicas at the same moment.
            await asyncio.sleep(SWEEP_SECONDS * SystemRandom().uniform(0.5, 1.5))
            try:
                removed = await self.sweep()
                log.debug("full buckets removed", extra={"fields": {"count": removed}})
            except Exception as error:  # a sweep that failed is only late
                log.warning("sweep put off", extra={"fields": {"reason": type(error).__name__}})


def _headers(scope: Scope, now: float) -> dict[str, str]:
    limits = scope.effective()
    return rate_headers(limits.requests or 1, limits.tokens or 1, *scope.remaining(now))


def _too_large(scope: Scope, model: str, tokens: int) -> ApiError:
    limit = scope.limits.tokens
    return ApiError(
        "rate_limit_exceeded",
        f"Request too large for {model} on tokens per min (TPM) of {scope.label}: Limit {limit}, Requested {tokens}. "
        "Send less input or a smaller output cap.",
        headers={"x-ratelimit-limit-tokens": str(limit), "x-should-retry": "false"},
    )
