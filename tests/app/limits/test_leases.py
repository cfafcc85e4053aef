"""Many replicas, one limit: whatever happens between them, they grant together what one bucket would."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.limits.scope import LEASE_SECONDS, Limits, Scope
from tests.app.limits.server import Server

EPSILON = 1e-2  # the server writes thousandths


def scope_of(limits: Limits) -> Scope:
    return Scope("{limit:t}:key:k", "{limit:t}", "this key", limits)


@dataclass
class Bucket:
    """What the limit means: one bucket, seen by everybody at once."""

    limit: float
    level: float
    at: float

    def change(self, now: float, amount: float) -> None:
        self.level = min(self.limit, self.level + (now - self.at) * self.limit / 60)
        self.at = now
        self.level = min(self.limit, self.level + amount)


@dataclass
class Replica:
    """One process: its part of the limit and what its calls took and may give back."""

    name: str
    scope: Scope
    taken: list[float] = field(default_factory=list)
    back: float = 0.0


@dataclass
class Fleet:
    """Replicas on one server, and the bucket they must not beat. Each has a monotonic clock of its own zero."""

    limits: Limits
    server: Server = field(default_factory=Server)
    replicas: list[Replica] = field(default_factory=list)
    started: int = 0

    def __post_init__(self) -> None:
        self.requests = Bucket(self.limits.requests, self.limits.requests, self.server.now)
        self.tokens = Bucket(self.limits.tokens, self.limits.tokens, self.server.now)

    def clock(self, replica: Replica) -> float:
        return self.server.now - 5_000.0 * int(replica.name)

    def start(self) -> None:
        self.started += 1
        self.replicas.append(Replica(str(self.started), scope_of(self.limits)))

    def call(self, replica: Replica, tokens: float) -> bool:
        scope, now = replica.scope, self.clock(replica)
        if not scope.ready(now, tokens, 0):
            return False
        scope.take(tokens, 0)
        replica.taken.append(tokens)
        self.requests.change(self.server.now, -1)
        self.tokens.change(self.server.now, -tokens)
        assert self.requests.level >= -EPSILON
        assert self.tokens.level >= -EPSILON
        return True

    def settle(self, replica: Replica, used: float) -> None:
        for _ in range(min(8, len(replica.taken))):
            back = replica.taken.pop() * (1 - used)
            before = replica.scope.tokens.left
            replica.scope.give_back(0, back)
            here = replica.scope.tokens.left - before
            self.tokens.change(self.server.now, here)
            # The rest is there for all, this replica among them, once the server heard of it: in service within a tick.
            replica.back += back - here

    def sync(self, replica: Replica, *, heard: bool = True, answered: bool = True) -> None:
        scope, now = replica.scope, self.clock(replica)
        scope.requests.ahead = scope.tokens.ahead = 10.0 * (self.limits.requests + self.limits.tokens)
        fields = scope.report(now)
        answer = self.server.lease(replica.name, scope, fields) if heard else ""
        if heard:
            self.tokens.change(self.server.now, replica.back)
        replica.back = 0.0
        if heard and answered:
            scope.accept(answer, now)
        else:
            scope.fail(now)
            # How it goes on alone is bounded by its share, and tested apart.
            scope.report(now)
            scope.until = float("-inf")

    def spend(self, replica: Replica, amount: float) -> None:
        while self.call(replica, round(amount * self.limits.tokens / 16)):
            pass

    def burst(self, replica: Replica, amount: float) -> None:
        for _ in range(40):
            self.sync(replica)
            self.spend(replica, amount)

    def crash(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        self.start()

    def wait(self, seconds: float) -> None:
        self.server.now += seconds

    def do(self, kind: str, replica: Replica, amount: float) -> None:
        """One thing that happens."""
        doing: dict[str, Callable[[], None]] = {
            "hold": lambda: self.sync(replica),
            "spend": lambda: self.spend(replica, amount),
            "burst": lambda: self.burst(replica, amount),
            "settle": lambda: self.settle(replica, amount),
            "deaf": lambda: self.sync(replica, heard=False),
            "mute": lambda: self.sync(replica, answered=False),
            "crash": lambda: self.crash(replica),
            "wait": lambda: self.wait(amount * LEASE_SECONDS),
            "long": lambda: self.wait(amount * 6 * LEASE_SECONDS),
        }
        doing[kind]()


KINDS = ("hold", "spend", "spend", "burst", "burst", "settle", "settle", "wait", "wait", "long", "long")
RARE = (*KINDS, *KINDS, "deaf", "mute", "crash")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 32))
@example(11202934)
def test_replicas_grant_together_what_one_bucket_would_whatever_dies_or_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    fleet = Fleet(Limits(chance.randint(4, 200), chance.randint(100, 3_000)))
    fleet.start()
    fleet.start()
    for _ in range(60):
        fleet.do(chance.choice(RARE), chance.choice(fleet.replicas), chance.random())


def test_what_was_granted_without_valkey_is_owed_when_it_is_back() -> None:
    fleet = Fleet(Limits(60, 6_000))
    fleet.start()
    (replica,) = fleet.replicas
    scope = replica.scope
    scope.fail(fleet.clock(replica))
    assert scope.effective() == Limits(30, 3_000)
    assert scope.requests.left == 30
    for _ in range(30):
        scope.take(100, 0)
    assert scope.requests.left == 0
    fleet.server.now += 1
    scope.accept(fleet.server.lease("1", scope, scope.report(fleet.clock(replica))), fleet.clock(replica))
    # Nobody else took anything: the shared bucket was full, and is short of exactly these.
    assert scope.remaining(fleet.clock(replica)) == (30, 3_000)


def test_a_silent_replicas_part_refills_nothing_while_it_could_still_be_spent() -> None:
    fleet = Fleet(Limits(60, 6_000))
    fleet.start()
    fleet.start()
    silent, other = fleet.replicas
    fleet.sync(silent)
    held = silent.scope.tokens.left
    assert held > 0
    fleet.wait(0.7 * LEASE_SECONDS)
    while fleet.call(silent, held / 8):
        pass
    fleet.wait(0.4 * LEASE_SECONDS)
    fleet.sync(other)
    shared = other.scope.remaining(fleet.clock(other))[1]
    assert shared <= fleet.tokens.level + EPSILON
    # What came since its lease ended is there for the others.
    assert shared >= 6_000 - held + 0.09 * LEASE_SECONDS * 6_000 / 60
