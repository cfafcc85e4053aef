"""Requests, tokens and streams of every call: granted from leases in memory, waited for in turn, settled by usage."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from app.errors import ApiError
from app.limits.headers import go_duration, rate_headers, retry_headers
from app.limits.leases import Leases
from app.limits.policy import Policy
from app.limits.queue import BACKGROUND, INTERACTIVE, Waiter
from app.limits.scope import Limits, Scope
from app.limits.scripts import KEY_PREFIX
from app.limits.sweeper import Sweeper
from app.limits.upstream import Ticket, UpstreamScope
from app.observability.metrics import (
    LIMITER_CALLS,
    OPENAI_HEADROOM_PERCENT,
    QUEUED_REQUESTS,
    UPSTREAM_RATE_LIMITED,
)
from app.valkey.client import Valkey

if TYPE_CHECKING:
    from app.keys import Identity

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


class Caller(NamedTuple):
    """For whom a call waits, how urgent it is, and until when by the limiter's clock."""

    tenant: str = ""
    priority: str = INTERACTIVE
    latest: float = 0.0
    streams: int = 0


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class _Chain:
    """The limits that calls of one key to one model pass, as long as nobody changes them."""

    identity: Identity
    policy: Policy
    scopes: tuple[Scope, ...]


@dataclass
class Limiter:
    """Reserves on an estimate before a call and reconciles with its usage after it."""

    valkey: Valkey
    policy: Callable[[], Policy]
    max_local_keys: int
    """Limits remembered here; the one unused for longest goes first."""
    clock: Callable[[], float] = time.monotonic
    max_waiting: int = 200
    """Calls that wait here at once, of one tenant half as many; beyond it a call that finds too little is refused."""
    address: str = ""
    """OpenAI's: its limits are of the project behind it, and shared by all who call there."""
    waited: Callable[[float], None] | None = None
    """Told the seconds of each wait for a turn that came."""
    upstream_refusals: int = 0
    """Calls that OpenAI refused by its limits all the same."""
    _scopes: OrderedDict[str, Scope] = field(default_factory=OrderedDict)
    _upstreams: dict[str, UpstreamScope] = field(default_factory=dict)  # as many as the documents ever name models
    _chains: dict[tuple[str, str], _Chain] = field(default_factory=dict)
    _waiting: Counter[str] = field(default_factory=Counter)
    _most_waiting: int = 0
    _reported: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._leases = Leases(self.valkey, secrets.token_hex(6), self.clock)
        self.sweeper = Sweeper(self.valkey)

    def start(self) -> None:
        """Start the task that removes full buckets from Valkey now and then."""
        self.sweeper.start()

    async def stop(self) -> None:
        """Give back what is held and stop. Safe to call twice."""
        await self.sweeper.stop()
        await self._leases.stop()

    @property
    def calls(self) -> int:
        """How often Valkey was called for limits."""
        return self._leases.calls

    @property
    def waiting(self) -> int:
        """Calls in queues at this moment."""
        return self._waiting.total()

    def figures(self) -> dict[str, float]:
        """Metrics since this was last asked: only what there was."""
        totals = (self.calls, self.upstream_refusals)
        calls, refusals = (total - before for total, before in zip(totals, self._reported, strict=True))
        found: dict[str, float] = {
            LIMITER_CALLS: calls,
            UPSTREAM_RATE_LIMITED: refusals,
            QUEUED_REQUESTS: self._most_waiting,
        }
        self._reported, self._most_waiting = totals, self.waiting
        now = self.clock()
        left = [part for scope in self._upstreams.values() for part in scope.headroom(now)]
        return {name: value for name, value in found.items() if value} | (
            {OPENAI_HEADROOM_PERCENT: round(100 * max(0.0, min(left)), 1)} if left else {}
        )

    def take(self, identity: Identity, model: str, tokens: int, *, streams: int = 0) -> Grant | None:
        """A grant when it is there at once, from what this replica holds: no call and no wait; else None."""
        now = self.clock()
        chain = self._chains.get((identity.key_id, model))
        if chain is None or chain.identity is not identity or chain.policy is not self.policy():
            chain = self._chain(identity, model)
        scopes = chain.scopes
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
        caller: Caller | None = None,
    ) -> Grant:
        """Take one request and `estimated_tokens` from every limit of a call, waiting in turn as long as `caller` may.

        Raises ApiError 429 `rate_limit_exceeded` as soon as it is known that they will not be there in time, with
        `x-ratelimit-*` and the seconds after which the same call fits; without `retry-after` when it can never fit.
        """
        tokens = max(0, estimated_tokens)
        grant = self.take(identity, model, tokens, streams=caller.streams if caller else 0)
        if grant is not None:
            return grant
        scopes = self._chain(identity, model).scopes
        for scope in scopes:
            if scope.limits.tokens and tokens > scope.limits.tokens:
                raise _too_large(scope, model, tokens)
        began = self.clock()
        caller = caller or Caller(identity.tenant)
        taken: list[Scope] = []
        try:
            for scope in scopes:
                await self._turn(scope, model, tokens, caller)
                taken.append(scope)
        except BaseException:
            for scope in taken:
                scope.give_back(1, tokens, caller.streams)
                self._leases.note(scope)
            raise
        now = self.clock()
        return Grant(scopes, tokens, caller.streams, now, waited=now - began)

    def enter_at_once(self, model: str, tokens: int) -> Ticket | None:
        """Take one request and `tokens` from OpenAI's own limit of a model, when they are held; for a call sent now."""
        scope = self._upstreams.get(model)
        now = self.clock()
        if scope is None or not scope.ready(now, tokens, 0):
            return None
        if scope.take(tokens, 0):
            self._leases.ask(scope)
        return scope.ticket(now, tokens)

    async def enter(self, model: str, tokens: int, caller: Caller) -> Ticket:
        """The same when its turn has come; raises ApiError 429 like `reserve` when that would be too late.

        OpenAI counts what a call may use, and gives nothing back.
        """
        scope = self._upstreams.get(model)
        if scope is None:
            slot = f"{KEY_PREFIX}all}}"
            label = "this service at OpenAI"
            place = hashlib.sha256(self.address.encode()).hexdigest()[:12]
            scope = self._upstreams[model] = UpstreamScope(f"{slot}:upstream:{place}:{model}", slot, label)
        await self._turn(scope, model, tokens, caller._replace(streams=0))
        return scope.ticket(self.clock(), tokens)

    def leave(self, ticket: Ticket, tokens: int) -> None:
        """Give back what was taken by `enter_at_once`: the call is not sent after all."""
        scope = ticket.scope
        scope.leave(tokens)
        self._leases.note(scope)
        if scope.queue:
            self._leases.pump(scope)

    def saw(self, ticket: Ticket, headers: Iterable[tuple[str, str]], refusal: str | None = None) -> None:
        """Learn from the headers of OpenAI's answer; `refusal` is the code of a 429 that time heals."""
        self.upstream_refusals += refusal is not None
        if ticket.scope.saw(ticket, headers, refusal, self.clock()):
            self._leases.ask(ticket.scope)

    def settle(self, grant: Grant, actual_tokens: int) -> None:
        """Give back what the call did not use, or take what it used beyond its estimate; never raises or waits.

        A bucket may go below zero by at most one minute's worth: the next calls wait for it.
        """
        back = grant.tokens - max(0, actual_tokens)
        if back == 0 and not grant.streams:
            return
        for scope in grant.scopes:
            scope.give_back(0, back, grant.streams)
            if grant.streams:
                scope.note_stream(self.clock() - grant.at)
                if scope.queue:
                    self._leases.ask(scope)
            self._leases.note(scope)
            if back > 0 and scope.queue.requests:
                self._leases.pump(scope)

    def take_back(self, grant: Grant) -> None:
        """Give back a grant whole: its call is not made after all."""
        for scope in grant.scopes:
            scope.give_back(1, grant.tokens, grant.streams)
            self._leases.note(scope)
            if scope.queue:
                self._leases.pump(scope)

    async def _turn(self, scope: Scope, model: str, tokens: int, caller: Caller) -> None:
        """Take from one limit when it is this call's turn; raises ApiError 429 when that is too late."""
        now = self.clock()
        streams, tenant = caller.streams, caller.tenant
        if scope.ready(now, tokens, streams):
            if scope.take(tokens, streams):
                self._leases.ask(scope)
            return
        waiting = self.waiting
        self._most_waiting = max(self._most_waiting, waiting + 1)
        full = waiting >= self.max_waiting or self._waiting[tenant] >= self.max_waiting // 2
        latest = now if full else caller.latest
        weight = self.policy().of_tenant(tenant).weight
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(1, tokens, streams, tenant, weight, caller.priority == BACKGROUND, latest, turn)
        self._waiting[tenant] += 1
        scope.queue.push(waiter, scope.cost(waiter))
        self._leases.wait(scope)
        try:
            async with asyncio.timeout(max(latest - now, ANSWER_SECONDS)):
                await turn
        except TimeoutError:
            waiter.refused = not waiter.served
            waiter.wait = scope.wait_of(self.clock(), waiter)
        except asyncio.CancelledError:
            if waiter.served:  # granted in the moment in which it was given up
                scope.give_back(1, tokens, streams)
            raise
        finally:
            scope.queue.leave(waiter)
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]
        if waiter.refused:
            raise self._refusal(scope, model, waiter)
        if self.waited is not None:
            self.waited(self.clock() - now)

    def _refusal(self, scope: Scope, model: str, waiter: Waiter) -> ApiError:
        now = self.clock()
        limits = scope.effective()
        requests, _ = scope.remaining(now)
        if limits.streams and waiter.streams > scope.free:
            which = f"streams at one time: Limit {limits.streams}"
        elif limits.requests and requests < waiter.requests:
            which = f"requests per min (RPM): Limit {limits.requests}"
        else:
            which = f"tokens per min (TPM): Limit {limits.tokens}"
        wait = waiter.wait or ANSWER_SECONDS  # others were quicker: nothing is known that says when
        return ApiError(
            "rate_limit_exceeded",
            f"Rate limit reached for {model} on {which} of {scope.label}. Please try again in {go_duration(wait)}.",
            headers={**_headers(scope, now), **retry_headers(wait)},
        )

    def _chain(self, identity: Identity, model: str) -> _Chain:
        policy = self.policy()
        mine = f"{KEY_PREFIX}tenant:{identity.tenant}}}"
        own = Limits(
            identity.requests_per_minute or policy.keys.requests,
            identity.tokens_per_minute or policy.keys.tokens,
            policy.keys.streams,
        )
        shared = f"{KEY_PREFIX}all}}"
        found = [
            (f"{mine}:key:{identity.key_id}", mine, "this key", own),
            (f"{mine}:tenant", mine, "this tenant", policy.of_tenant(identity.tenant).limits),
            (f"{shared}:model:{model}", shared, "this model", policy.models.get(model, Limits())),
            (f"{shared}:fleet", shared, "this service", policy.fleet),
        ]
        scopes = tuple(self._scope(*parts) for parts in found if any(parts[3]))
        chain = _Chain(identity, policy, scopes)
        if len(self._chains) >= self.max_local_keys:
            self._chains.clear()
        self._chains[identity.key_id, model] = chain
        return chain

    def _scope(self, key: str, slot: str, label: str, limits: Limits) -> Scope:
        scope = self._scopes.get(key)
        if scope is None:
            scope = self._scopes[key] = Scope(key, slot, label, limits)
            self._forget_idle()
        elif scope.limits != limits:
            scope.change(limits)
        return scope

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
                self._chains.clear()


def _headers(scope: Scope, now: float) -> dict[str, str]:
    limits = scope.effective()
    return rate_headers(limits.requests, limits.tokens, *scope.remaining(now))


def _too_large(scope: Scope, model: str, tokens: int) -> ApiError:
    limit = scope.limits.tokens
    return ApiError(
        "rate_limit_exceeded",
        f"Request too large for {model} on tokens per min (TPM) of {scope.label}: Limit {limit}, Requested {tokens}. "
        "Send less input or a smaller output cap.",
        headers={"x-ratelimit-limit-tokens": str(limit), "x-should-retry": "false"},
    )
