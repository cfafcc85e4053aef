"""A table, a network, OpenAI and some replicas, all of which may fail.

The real book, leases, steps, watch and the auditor's decisions run against a simulated table that loses requests, loses
answers, delivers copies late, and forgets nothing. Replicas crash, are paused while their clocks run, and keep spending
when they come back; clocks run at half to twice the speed. After every step I1 to I3 are checked, after every history
I4 to I7.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from app.ledger.book import Book, Hold, Payer
from app.ledger.entries import Page
from app.ledger.item import Bury, Item, Op, Reclaim, old_tombs
from app.ledger.lease import Lease, State
from app.ledger.watch import EMERGENCY_SECONDS, Watch, boot_of
from tests.ledger_check import waiting
from tests.ledger_check.openai import HOUR, Audits, OpenAI
from tests.ledger_check.waiting import Waiting, entry

TENANTS = ("tenant:a", "tenant:b")
SCOPES = ("org", *TENANTS)
WINDOW = "M2026-11"
LOOK_SECONDS = 6 * HOUR + 60
COPY_SECONDS = 300.0
"""A copy of a step arrives at most this late."""


@dataclass
class Request:
    """A call as OpenAI knows it: what it bills is decided there, whatever becomes of its caller."""

    hold: Hold
    billed: int
    tenant: str
    began: float


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
        self.pages: dict[str, dict[str, Page]] = {}
        self.lives: dict[str, tuple[float, float]] = {}
        self.openai = OpenAI(chance)
        self.audits = Audits(self.openai if chance.random() < 0.8 else None)
        self.ends = {WINDOW: float("inf")}
        self.beats: dict[str, int] = {}
        self.late: list[tuple[float, str, Op]] = []
        self.billed = dict.fromkeys(SCOPES, 0)
        self.waiting: list[Waiting] = []
        self.worker_back = 0.0
        """Until then no worker says what became of batches."""
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
        name = f"b{self.boots}"
        self.replicas.append(Replica(Book(name), rate, self.now * rate))
        self.lives[name] = (self.now, self.now)

    def clock(self, replica: Replica) -> float:
        return self.now * replica.rate

    def ask(self, replica: Replica) -> None:
        """A request comes in: reserve, and ask for a block where there is no room."""
        chance, book = self.random, replica.book
        stopped = self.clock(replica) - replica.beat_at >= EMERGENCY_SECONDS
        if stopped:
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
        request = Request(hold, 0, tenant, self.now)
        replica.running.append(request)
        self.bill(request, billed)

    def bill(self, request: Request, amount: int) -> None:
        """OpenAI works on it, and will want to be paid."""
        request.billed += amount
        for lease in request.hold.leases:
            self.billed[lease.scope] += amount
        self.openai.work(request.began, amount)

    def answer(self, replica: Replica) -> None:
        if replica.running:
            self.end(replica, replica.running.pop(self.random.randrange(len(replica.running))))

    def end(self, replica: Replica, request: Request) -> None:
        tenant = request.tenant.partition(":")[2]
        replica.book.settle(request.hold, entry(request.hold.id, request.began, tenant, request.billed))
        for lease in request.hold.leases:
            if lease.committed > lease.amt:
                self.step(replica, lease)

    def expire(self, replica: Replica) -> None:
        """No call runs for longer than an hour."""
        for request in [each for each in replica.running if self.now - each.began >= HOUR]:
            replica.running.remove(request)
            self.end(replica, request)

    def extend(self, replica: Replica) -> None:
        """A stream reserves its next slice; OpenAI bills what it wrote of it."""
        if replica.running and self.clock(replica) - replica.beat_at < EMERGENCY_SECONDS:
            request = self.random.choice(replica.running)
            if request.hold.extend(10):
                self.bill(request, 10)

    def file(self, replica: Replica) -> None:
        page = replica.book.page(self.now)
        if page is None or self.lost():
            return
        self.keep(page)
        if not self.lost():
            replica.book.filed()

    def keep(self, page: Page) -> None:
        """Put if absent."""
        self.pages.setdefault(page.boot, {}).setdefault(page.sequence, page)

    def heartbeat(self, replica: Replica) -> None:
        sent, boot = self.clock(replica), replica.book.boot
        if sent - replica.beat_at >= EMERGENCY_SECONDS:
            self.come_back(replica)
        if not self.lost():
            replica.beat += 1
            self.beats[boot] = replica.beat
            self.lives[boot] = (self.lives[boot][0], self.now)
            replica.beat_at = sent
            replica.book.draw(away=False)
        elif sent - replica.beat_at > 24:
            replica.book.draw(away=True)

    def beat_on(self, replica: Replica) -> None:
        """The heart of a process beats while it holds money, and before it leases again if it stood still for long."""
        if replica.book.leases or self.clock(replica) - replica.beat_at >= EMERGENCY_SECONDS:
            self.heartbeat(replica)

    def come_back(self, replica: Replica) -> None:
        """Silent for too long: no lease of before is trusted, whatever the table may say of it."""
        for lease in list(replica.book.current.values()):
            replica.book.retire(lease)

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

    def audit(self) -> None:
        """A run of the auditor, which may die on its way. Whoever is awake has written what it knows by then."""
        self.deliver()
        waiting.file_results(self)
        for replica in self.replicas:
            if not replica.crashed and replica.paused_until <= self.now:
                self.tidy(replica)
        for item in self.table.values():
            if item.tomb and not item.slots:
                Bury(old_tombs(item.tomb, int(self.now), 50)).apply(item, int(self.now))
        if not any(item.susp for item in self.table.values()):
            return
        items = {(scope, WINDOW): item for scope, item in self.table.items()}
        pages = {boot: list(written.values()) for boot, written in self.pages.items()}
        for verdict in self.audits.verdicts(items, pages, self.lives, self.ends, self.now):
            for page in verdict.pages:
                self.keep(page)
            for lease, resolve in verdict.resolves:
                if self.lost():
                    return
                resolve.apply(self.table[lease.scope], int(self.now))

    def tidy(self, replica: Replica) -> None:
        """What a process that is awake does within seconds: end old calls, say that it lives, and write pages."""
        self.expire(replica)
        while (page := replica.book.page(self.now)) is not None:
            self.keep(page)
            replica.book.filed()
        self.beat_on(replica)

    def lost(self) -> bool:
        return not self.quiet and self.random.random() < 0.1

    def deliver(self) -> None:
        """Copies of steps that are due."""
        for each in [each for each in self.late if each[0] <= self.now]:
            self.late.remove(each)
            each[2].apply(self.table[each[1]], int(self.now))

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
