"""What happens in a history: to the world, step by step, and at its end."""

from __future__ import annotations

from collections.abc import Callable

from app.ledger.book import Book
from app.ledger.entries import DAY_SECONDS
from app.ledger.evidence import CLOSE_SECONDS
from app.ledger.item import TOMB_SECONDS, SetLimit
from app.ledger.watch import DEAD_SECONDS
from tests.ledger_check import waiting
from tests.ledger_check.openai import HOUR, LATEST_SECONDS
from tests.ledger_check.world import COPY_SECONDS, LOOK_SECONDS, SCOPES, WINDOW, Replica, World

ACTIONS: tuple[Callable[[World, Replica], None], ...] = (
    *[World.ask] * 5,
    *[World.answer] * 3,
    World.extend,
    *[World.file] * 2,
    *[World.beat_on] * 2,
    *[World.pump] * 3,
    *[World.look] * 2,
    waiting.defer,
    waiting.batch,
)


def _befall(world: World) -> None:
    """Now and then something out of the ordinary."""
    chance = world.random
    what = chance.random()
    if what < 0.02:
        replica = chance.choice(world.replicas)
        replica.crashed = True
        world.boot()
    elif what < 0.05:
        replica, seconds = chance.choice(world.replicas), chance.choice([10, 60, 100, 5_000, 100_000, 400_000])
        if not replica.crashed and replica.paused_until <= world.now:
            if seconds > HOUR:
                world.tidy(replica)
            replica.paused_until = world.now + seconds
    elif what < 0.06:
        world.now += chance.choice([100.0, 4_000.0, 90_000.0])
    elif what < 0.07:
        world.audit()
    elif what < 0.08:
        for _ in range(chance.randint(2, 20)):
            world.now += LOOK_SECONDS
            world.audit()
    elif what < 0.09 and world.moves_limits:
        scope = chance.choice(SCOPES)
        item = world.table[scope]
        wanted = chance.choice([0, 100, 500, 4_000])
        SetLimit(item.ver, item.limit, wanted).apply(item, int(world.now))
        world.most[scope] = max(world.most[scope], wanted)


def _rest(world: World) -> None:
    """Nothing is asked of one process until it holds nothing; then it works again, and dies perhaps."""
    awake = [each for each in world.replicas if not each.crashed and each.paused_until <= world.now]
    if not awake:
        return
    replica = world.random.choice(awake)
    world.drain(replica)
    world.now += world.random.choice([100.0, 20_000.0, 200_000.0])
    world.deliver()
    world.beat_on(replica)
    for _ in range(6):
        world.ask(replica)
    if world.random.random() < 0.5:
        replica.crashed = True
        world.boot()


def happen(world: World) -> None:
    """One step, and what befalls somebody before it."""
    _befall(world)
    chance = world.random
    if chance.random() < 0.005:
        _rest(world)
    if chance.random() < 0.01:
        world.worker_back = world.now + chance.choice([HOUR, 100_000.0, 400_000.0])
    world.now += chance.choice([0.1, 1.0, 5.0, 20.0])
    world.deliver()
    awake = [each for each in world.replicas if not each.crashed and each.paused_until <= world.now]
    if awake:
        replica = chance.choice(awake)
        world.expire(replica)
        chance.choice(ACTIONS)(world, replica)


def settle_down(world: World) -> None:
    """No more requests, no more faults: everything comes to rest, and everything is judged."""
    world.quiet = True
    world.now += 10 * COPY_SECONDS
    world.now += 2 * DAY_SECONDS if world.waiting else 0
    world.worker_back = 0.0
    for _, scope, op in sorted(world.late, key=lambda each: each[0]):
        op.apply(world.table[scope], int(world.now))
    world.late.clear()
    while world.waiting:
        waiting.batch(world, world.replicas[0])
    for replica in world.replicas:
        if not replica.crashed:
            world.drain(replica)
    for _ in range(2):
        for watcher in [Replica(Book("watcher"), 1.0, world.now)]:
            world.look(watcher)
            world.now += 2 * DEAD_SECONDS
            world.look(watcher)
    for replica in world.replicas:
        replica.crashed = True
    _look_until_settled(world, LATEST_SECONDS + 3 * DAY_SECONDS)
    world.ends[WINDOW] = world.now
    _look_until_settled(world, 2 * LOOK_SECONDS)
    world.now += CLOSE_SECONDS
    world.audit()
    world.now += TOMB_SECONDS + 1
    world.audit()


def _look_until_settled(world: World, seconds: float) -> None:
    """Audits every six hours, until nothing is in suspense or the time is up."""
    until = world.now + seconds
    while world.now < until and any(item.susp for item in world.table.values()):
        world.now += LOOK_SECONDS
        world.audit()
