"""Requests that wait for a batch: set aside and charged with their record, in transactions that may be lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.ledger.entries import Entry, Page
from app.ledger.item import Op, SetAside, Use

if TYPE_CHECKING:
    from tests.ledger_check.world import Replica, World


@dataclass
class Waiting:
    """The record of one."""

    id: str
    tenant: str
    worst: int
    billed: int | None = None
    """Once OpenAI has answered it, or will not."""
    began: float = 0.0
    charged: bool = False


def defer(world: World, replica: Replica) -> None:
    """One is accepted, by whichever process, if there is room; what its caller hears of it changes nothing."""
    chance = world.random
    replica.requests += 1
    worst = chance.choice([1, 5, 20, 60])
    request = Waiting(f"def-{replica.book.boot}-{replica.requests}", chance.choice(["tenant:a", "tenant:b"]), worst)
    if not world.lost() and _together(world, request, SetAside(worst)):
        world.waiting.append(request)


def batch(world: World, replica: Replica) -> None:
    """A batch is over: OpenAI answered a request of it and bills it, or did not. Workers say so, once or twice."""
    chance = world.random
    if not world.waiting:
        return
    request = chance.choice(world.waiting)
    if request.billed is None:
        request.billed, request.began = chance.choice([0, chance.randint(0, request.worst)]), world.now
        for scope in ("org", request.tenant):
            world.billed[scope] += request.billed
        world.openai.work(world.now, request.billed)
    for _ in range(chance.choice([0, 1, 1, 2])):
        charge(world, request)


def file_results(world: World) -> None:
    """What a worker does within minutes of a result: an audit, a day later, finds it done."""
    for request in [each for each in world.waiting if each.billed is not None]:
        charge(world, request)


def charge(world: World, request: Waiting) -> None:
    """File a result; nothing happens when it is filed already."""
    assert request.billed is not None
    if not may_charge(request) or world.lost():
        return
    _together(world, request, Use(request.worst, request.billed))
    tenant = request.tenant.partition(":")[2]
    world.keep(Page(f"w-{request.id}", "1", (entry(request.id, request.began, tenant, request.billed),), (), ()))
    if not request.charged:
        world.waiting.remove(request)
    request.charged = True


def may_charge(request: Waiting) -> bool:
    """The condition of the record."""
    return not request.charged


def _together(world: World, request: Waiting, op: Op) -> bool:
    """The same step for each scope of a request, or for none of them."""
    items = [world.table[scope] for scope in ("org", request.tenant)]
    return all(op.apply(item.copy(), 0) for item in items) and all(op.apply(item, 0) for item in items)


def entry(name: str, began: float, tenant: str, pico: int) -> Entry:
    """Of an attempt whose tokens cost a pico-dollar each."""
    return Entry(name, began, tenant, "k", "f", "m", "m", "default", pico, 0, 0, 0, 0, "v", pico, "ok", "")
