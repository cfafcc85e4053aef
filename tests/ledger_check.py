"""Check the lease protocol on random histories: `python -m tests.ledger_check --traces N [--seed S] [--mutant NAME]`.

The real book, leases, steps and watch run against a simulated table that loses requests, loses answers, delivers copies
late, and forgets nothing. Replicas crash, are paused while their clocks run, and keep spending when they come back;
clocks run at half to twice the speed. After every step I1 to I3 are checked, after every history I4 to I7. A history is
its seed: one that fails is printed and runs again by `--seed`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.ledger import item as items
from app.ledger.book import Book, Hold, Payer
from app.ledger.entries import Entry, Page
from app.ledger.item import Bump, Close, Item, Op, Open, Reclaim, Resolve, SetLimit, Slot
from app.ledger.lease import Lease, State
from app.ledger.watch import DEAD_SECONDS, EMERGENCY_SECONDS, Watch, boot_of

TENANTS = ("tenant:a", "tenant:b")
SCOPES = ("org", *TENANTS)
WINDOW = "M2026-11"
STEPS = 90
EVIDENCE_SECONDS = 86_400.0
"""A day that is final is over for this long; a lease of a holder that may live is not judged before."""
COPY_SECONDS = 300.0
"""A copy of a step arrives at most this late."""


class BrokenError(AssertionError):
    """An invariant does not hold."""


@dataclass
class Request:
    """A call as OpenAI knows it: what it bills is decided there, whatever becomes of its caller."""

    hold: Hold
    billed: int
    tenant: str


@dataclass
class Replica:
    """One process: a book, a clock of its own, and what it remembers of the others."""

    book: Book
    rate: float
    beat_at: float
    watch: Watch = field(default_factory=Watch)
    beat: int = 0
    crashed: bool = False
    paused_until: float = 0.0
    running: list[Request] = field(default_factory=list)
    requests: int = 0


class World:
    """A table, a network, OpenAI and some replicas."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        chance = self.random
        self.now = 1_000.0
        self.limits = {"org": chance.choice([300, 3_000, 10**24])}
        self.limits |= {tenant: chance.choice([0, 200, 2_000, 10**24]) for tenant in TENANTS}
        self.table = {scope: Item(limit, limit) for scope, limit in self.limits.items()}
        self.most = dict(self.limits)
        self.overruns = chance.random() < 0.25
        self.over = dict.fromkeys(SCOPES, 0)
        self.moves_limits = chance.random() < 0.3
        self.pages: dict[tuple[str, str], Page] = {}
        self.beats: dict[str, int] = {}
        self.late: list[tuple[float, str, Op]] = []
        self.billed = dict.fromkeys(SCOPES, 0)
        self.billed_by: dict[str, int] = {}
        self.reclaimed_at: dict[str, float] = {}
        self.quiet = False
        self.churn = chance.choice([0.05, 0.5])
        """How often a lease is given back."""
        self.boots = 0
        self.replicas: list[Replica] = []
        for _ in range(chance.choice([1, 2, 2, 3])):
            self.boot()

    # what a replica does

    def boot(self) -> None:
        self.boots += 1
        rate = self.random.choice([0.5, 1.0, 1.0, 2.0])
        self.replicas.append(Replica(Book(f"b{self.boots}"), rate, self.now * rate))

    def clock(self, replica: Replica) -> float:
        return self.now * replica.rate

    def ask(self, replica: Replica) -> None:
        """A request comes in: reserve, and ask for a block where there is no room."""
        chance, book = self.random, replica.book
        stopped = self.clock(replica) - replica.beat_at >= EMERGENCY_SECONDS
        if stopped:
            self.come_back(replica)
            return
        tenant = chance.choice(TENANTS)
        leases = (book.lease("org", WINDOW), book.lease(tenant, WINDOW))
        worst = chance.choice([1, 5, 20, 60])
        replica.requests += 1
        name = f"{book.boot}-{replica.requests}"
        hold = book.take(leases, worst, Payer(tenant, "k", "m"), name)
        if hold is None:
            for lease in leases:
                if lease.state is State.NEW and lease.flying is None:
                    lease.see(self.table[lease.scope])
                if lease.flying is None and lease.state in (State.NEW, State.OPEN):
                    lease.block = lease.size(worst, 100)
                    self.step(replica, lease)
            return
        billed = chance.randint(0, worst)
        if self.overruns and chance.random() < 0.2:
            billed += worst
            for lease in leases:
                self.over[lease.scope] += worst
        for lease in leases:
            self.billed[lease.scope] += billed
            self.billed_by[lease.handle] = self.billed_by.get(lease.handle, 0) + billed
        replica.running.append(Request(hold, billed, tenant))

    def answer(self, replica: Replica) -> None:
        if replica.running:
            request = replica.running.pop(self.random.randrange(len(replica.running)))
            entry = _entry(request.hold.id, request.tenant, request.billed)
            replica.book.settle(request.hold, entry)
            for lease in request.hold.leases:
                if lease.committed > lease.amt:
                    self.step(replica, lease)

    def extend(self, replica: Replica) -> None:
        """A stream reserves its next slice; OpenAI bills what it wrote of it."""
        if replica.running and self.clock(replica) - replica.beat_at < EMERGENCY_SECONDS:
            request = self.random.choice(replica.running)
            if request.hold.extend(10):
                request.billed += 10
                for lease in request.hold.leases:
                    self.billed[lease.scope] += 10
                    self.billed_by[lease.handle] += 10

    def file(self, replica: Replica) -> None:
        page = replica.book.page(self.now)
        if page is None or self.lost():
            return
        self.pages.setdefault((page.boot, page.sequence), page)
        if not self.lost():
            replica.book.filed()

    def heartbeat(self, replica: Replica) -> None:
        sent = self.clock(replica)
        if sent - replica.beat_at >= EMERGENCY_SECONDS:
            self.come_back(replica)
            return
        if not self.lost():
            replica.beat += 1
            self.beats[replica.book.boot] = replica.beat
            replica.beat_at = sent
            replica.book.draw(away=False)
        elif sent - replica.beat_at > 24:
            replica.book.draw(away=True)

    def come_back(self, replica: Replica) -> None:
        """Silent for too long: no lease of before is trusted, whatever the table may say of it."""
        for lease in list(replica.book.current.values()):
            replica.book.retire(lease)
        replica.beat_at = self.clock(replica)

    def pump(self, replica: Replica) -> None:
        leases = replica.book.leases
        if leases:
            lease = self.random.choice(leases)
            if self.random.random() < 0.3:
                lease.publish()
            elif self.random.random() < self.churn:
                replica.book.retire(lease)
            self.step(replica, lease)
            replica.book.forget()

    def step(self, replica: Replica, lease: Lease) -> None:
        op = lease.next_op()
        if op is None:
            return
        fate = self.random.random() if not self.quiet else 1.0
        if fate < 0.08:
            return
        if fate < 0.16:
            self.late.append((self.now + self.random.uniform(0, COPY_SECONDS), lease.scope, op))
            return
        item = self.table[lease.scope]
        taken = op.apply(item, int(self.now))
        if fate < 0.24:
            return
        if fate < 0.36:
            self.late.append((self.now + self.random.uniform(0, COPY_SECONDS), lease.scope, op))
        if taken:
            lease.done(op, item)
        else:
            lease.refused(op, item)
        if fate < 0.5:
            # Sent twice at the same moment, by two who did not know of each other, and answered twice.
            op.apply(item, int(self.now))
            lease.refused(op, item)
        lease.bury(item.tomb, int(self.now))

    def look(self, replica: Replica) -> None:
        """Watch the others and put the leases of the silent ones into suspense."""
        own = replica.book.boot
        boots = {boot_of(handle) for item in self.table.values() for handle in item.slots} - {own}
        for boot in sorted(boots):
            if replica.watch.silent(boot, self.beats.get(boot, -1), self.clock(replica)):
                for item in self.table.values():
                    for handle, slot in list(item.slots.items()):
                        if boot_of(handle) == boot and not self.lost():
                            Reclaim(handle, slot).apply(item, int(self.now))
                            self.reclaimed_at[handle] = self.now

    def judge(self) -> None:
        """Evidence from OpenAI's own count: of the dead at once, of those who may live once a day is final."""
        dead = {replica.book.boot for replica in self.replicas if replica.crashed}
        for scope, item in self.table.items():
            for handle, slot in list(item.susp.items()):
                if any(each[1] == scope and getattr(each[2], "handle", "") == handle for each in self.late):
                    continue
                final = self.now - self.reclaimed_at.get(handle, self.now) >= EVIDENCE_SECONDS
                if boot_of(handle) in dead or final:
                    Resolve(handle, slot, self.billed_by.get(handle, 0)).apply(item, int(self.now))

    def lost(self) -> bool:
        return not self.quiet and self.random.random() < 0.1

    # what happens to it

    def happen(self) -> None:
        chance = self.random
        what = chance.random()
        if what < 0.02:
            replica = chance.choice(self.replicas)
            replica.crashed = True
            self.boot()
        elif what < 0.05:
            chance.choice(self.replicas).paused_until = self.now + chance.choice([10, 60, 100, 5_000, 100_000])
        elif what < 0.06:
            self.now += chance.choice([100.0, 4_000.0, 90_000.0])
        elif what < 0.08:
            self.judge()
        elif what < 0.09 and self.moves_limits:
            scope = chance.choice(SCOPES)
            item = self.table[scope]
            wanted = chance.choice([0, 100, 500, 4_000])
            SetLimit(item.ver, item.limit, wanted).apply(item, int(self.now))
            self.most[scope] = max(self.most[scope], wanted)
        self.now += chance.choice([0.1, 1.0, 5.0, 20.0])
        for each in [each for each in self.late if each[0] <= self.now]:
            self.late.remove(each)
            each[2].apply(self.table[each[1]], int(self.now))
        awake = [each for each in self.replicas if not each.crashed and each.paused_until <= self.now]
        if awake:
            replica = chance.choice(awake)
            chance.choice(ACTIONS)(self, replica)

    def settle_down(self) -> None:
        """No more requests, no more faults: everything comes to rest, and everything is judged."""
        self.quiet = True
        self.now += 10 * COPY_SECONDS
        for _, scope, op in sorted(self.late, key=lambda each: each[0]):
            op.apply(self.table[scope], int(self.now))
        self.late.clear()
        for replica in self.replicas:
            if not replica.crashed:
                self.drain(replica)
        for _ in range(2):
            for watcher in [Replica(Book("watcher"), 1.0, self.now)]:
                self.look(watcher)
                self.now += 2 * DEAD_SECONDS
                self.look(watcher)
        for replica in self.replicas:
            replica.crashed = True
        self.judge()

    def drain(self, replica: Replica) -> None:
        while replica.running:
            self.answer(replica)
        while replica.book.page(self.now):
            self.file(replica)
        for lease in list(replica.book.current.values()):
            replica.book.retire(lease)
        for lease in list(replica.book.draining):
            for _ in range(4):
                self.step(replica, lease)
        replica.book.forget()

    # what must hold

    def check(self) -> None:
        for scope, item in self.table.items():
            held = item.avail + item.spent + sum(slot.amt for slot in (*item.slots.values(), *item.susp.values()))
            if held != item.limit:
                raise BrokenError(f"I1 {scope}: {held} is not the limit {item.limit}")
            if self.billed[scope] > self.most[scope] + self.over[scope]:
                raise BrokenError(f"I2 {scope}: billed {self.billed[scope]} of {self.most[scope]}")
        for replica in self.replicas:
            if replica.crashed:
                continue
            for lease in replica.book.current.values():
                if not lease.published <= lease.filed <= lease.total <= lease.committed:
                    raise BrokenError(
                        f"I3 {lease.handle}: {lease.published} {lease.filed} {lease.total} {lease.committed}"
                    )
                if lease.state is State.OPEN and lease.committed > lease.amt and not self.overruns:
                    raise BrokenError(f"I3 {lease.handle}: {lease.committed} committed of {lease.amt}")

    def check_rest(self) -> None:
        for scope, item in self.table.items():
            if item.slots or item.susp:
                raise BrokenError(f"I5 {scope}: {item.slots or item.susp} is still there")
            if item.spent != self.billed[scope] or item.avail != item.limit - item.spent:
                raise BrokenError(f"I4 {scope}: spent {item.spent}, billed {self.billed[scope]}, avail {item.avail}")
        seen = [entry.id for page in self.pages.values() for entry in page.entries]
        if len(seen) != len(set(seen)):
            raise BrokenError("I6: an entry is in two pages")
        reserved = [hold.id for replica in self.replicas for hold in replica.book.holds.values() if not replica.running]
        if reserved:
            raise BrokenError(f"I5: {reserved} are still reserved")
        if sum(self.table[tenant].spent for tenant in TENANTS) != self.table["org"].spent:
            raise BrokenError("I7: the tenants' spend is not the organisation's")


ACTIONS: tuple[Callable[[World, Replica], None], ...] = (
    *[World.ask] * 5,
    *[World.answer] * 3,
    World.extend,
    *[World.file] * 2,
    *[World.heartbeat] * 2,
    *[World.pump] * 3,
    *[World.look] * 2,
)


def run(seed: int) -> None:
    """One history; raises BrokenError."""
    world = World(seed)
    for _ in range(STEPS):
        world.happen()
        world.check()
    world.settle_down()
    world.check()
    world.check_rest()


def _entry(name: str, tenant: str, pico: int) -> Entry:
    return Entry(name, 0.0, tenant, "k", "f", "m", "m", "default", 1, 0, 0, 1, 0, "v", pico, "ok", "")


# Wrong protocols that the check has to catch: each was somebody's idea of how to do it.


def _money_back(op: Reclaim, item: Item, now: int) -> bool:
    slot = item.slots.get(op.handle)
    if slot is None or slot.n != op.seen.n:
        return False
    item.avail += slot.amt - slot.set
    item.spent += slot.set
    item.tomb[op.handle] = now
    del item.slots[op.handle]
    return True


_DELTAS: dict[tuple[int, Bump], int] = {}


def _delta_settle(op: Bump, item: Item, now: int) -> bool:
    """Each copy that arrives adds the difference that its sender had in mind."""
    slot = item.slots.get(op.handle)
    if slot is None or (op.guarded and item.avail < op.block):
        return False
    delta = _DELTAS.setdefault((id(item), op), op.total - slot.set)
    item.avail -= op.block
    item.slots[op.handle] = Slot(slot.n + 1, slot.amt + op.block, slot.set + delta)
    return True


def _no_tomb(op: Open, item: Item, now: int) -> bool:
    if item.avail < op.block or op.handle in item.slots or op.handle in item.susp:
        return False
    item.avail -= op.block
    item.slots[op.handle] = Slot(1, op.block, 0)
    return True


def _unfenced_close(op: Close, item: Item, now: int) -> bool:
    item.avail += op.amt - op.total
    item.spent += op.total
    item.slots.pop(op.handle, None)
    item.tomb[op.handle] = now
    return True


def _trusts_old_leases(world: World, replica: Replica) -> None:
    replica.beat_at = world.clock(replica)
    replica.book.draw(away=False)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "money-back-on-expiry": (items.Reclaim, "apply", _money_back),
    "settle-without-number": (items.Bump, "apply", _delta_settle),
    "no-tombstone": (items.Open, "apply", _no_tomb),
    "close-without-number": (items.Close, "apply", _unfenced_close),
    "old-leases-trusted": (World, "come_back", _trusts_old_leases),
}


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """The protocol with one thing wrong, inside the block."""
    where, what, wrong = MUTANTS[name]
    right = getattr(where, what)
    _DELTAS.clear()
    setattr(where, what, wrong)
    try:
        yield
    finally:
        setattr(where, what, right)


def check(traces: int, first: int = 0) -> int:
    """Run so many histories; returns how many, or raises BrokenError with the seed of the first that fails."""
    for seed in range(first, first + traces):
        try:
            run(seed)
        except BrokenError as broken:
            raise BrokenError(f"seed {seed}: {broken}") from None
    return traces


def main() -> int:
    """Check, print what was checked, 1 when an invariant broke."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.ledger_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--traces", type=int, default=10_000, help="histories to run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first history; each next one has the next")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="run a wrong protocol instead: it has to fail")
    asked = parser.parse_args()
    began = time.process_time()
    try:
        if asked.mutant:
            with mutant(asked.mutant):
                check(asked.traces, asked.seed)
        else:
            check(asked.traces, asked.seed)
    except BrokenError as broken:
        sys.stdout.write(f"{broken}\n")
        return 1
    seconds = time.process_time() - began
    last = asked.seed + asked.traces - 1
    sys.stdout.write(f"{asked.traces} histories, seeds {asked.seed} to {last}: I1 to I7 hold; {seconds:.1f} s of CPU\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
