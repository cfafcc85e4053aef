"""Requests that wait for a batch: set aside and charged with their record, in transactions that may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.ledger.entries import Entry, Page
from app.ledger.evidence import aside_day
from app.ledger.group import Piece, merged
from app.ledger.item import SetAside, Use

if TYPE_CHECKING:
    from tests.ledger_check.world import Replica, World


HOUR = 3_600.0


@dataclass(eq=False)
class Waiting:
    """The record of one."""

    id: str
    tenant: str
    worst: int
    billed: int = 0
    accepted: float = 0.0
    began: float = 0.0
    charged: bool = False


def defer(world: World, replica: Replica) -> None:
    """Some are accepted, by whichever process, as far as there is room; what callers hear of it changes nothing."""
    chance = world.random
    requests = []
    for _ in range(chance.choice([1, 1, 2, 5])):
        replica.requests += 1
        worst, tenant = chance.choice([1, 5, 20, 60]), chance.choice(["tenant:a", "tenant:b"])
        requests.append(Waiting(f"def-{replica.book.boot}-{replica.requests}", tenant, worst))
    accept(world, requests)


def accept(world: World, requests: Sequence[Waiting]) -> None:
    """In one transaction when there is room for all of them."""
    if world.lost():
        return
    if _together(world, [(each, SetAside(each.worst, aside_day(world.now))) for each in requests]):
        for request in requests:
            _work(world, request)
        world.waiting += requests
    elif len(requests) > 1:
        half = len(requests) // 2
        accept(world, requests[:half])
        accept(world, requests[half:])


def _work(world: World, request: Waiting) -> None:
    """Within a day OpenAI answers it and bills it, or does not, whenever a worker looks at what came of it."""
    chance = world.random
    request.accepted = world.now
    request.began = world.now + chance.choice([HOUR, 12 * HOUR, 24 * HOUR])
    request.billed = chance.choice([0, chance.randint(0, request.worst)])
    for scope in ("org", request.tenant):
        world.billed[scope] += request.billed
    world.openai.work(request.began, request.billed)


def over(world: World) -> list[Waiting]:
    """Those whose batch is over."""
    return [each for each in world.waiting if each.began <= world.now]


def batch(world: World, replica: Replica) -> None:
    """Batches are over. Workers say so, once or twice."""
    chance = world.random
    if not (found := over(world)):
        return
    request = chance.choice(found)
    if world.now < world.worker_back:
        return
    others = [each for each in found if chance.random() < 0.5]
    for _ in range(chance.choice([0, 1, 1, 2])):
        charge(world, list(dict.fromkeys([request, *others])))


def file_results(world: World) -> None:
    """What a worker does within minutes of a result: an audit, a day later, finds it done."""
    if world.now >= world.worker_back:
        charge(world, over(world))


def charge(world: World, requests: Sequence[Waiting]) -> None:
    """File results in one transaction; those that are filed already refuse it, and it is made without them."""
    left = [each for each in requests if may_charge(each)]
    if not left or world.lost():
        return
    for day in {aside_day(each.accepted) for each in left}:
        these = [each for each in left if aside_day(each.accepted) == day]
        _together(world, [(each, Use(each.worst, each.billed, day)) for each in these])
    entries = [entry(each.id, each.began, each.tenant.partition(":")[2], each.billed) for each in left]
    world.keep(Page(f"w-{left[0].id}", str(world.now), tuple(entries), (), ()))
    for request in left:
        if not request.charged:
            world.waiting.remove(request)
        request.charged = True


def may_charge(request: Waiting) -> bool:
    """The condition of the record."""
    return not request.charged


def _together(world: World, steps: Sequence[tuple[Waiting, SetAside | Use]]) -> bool:
    """The steps of requests, one for each item, or none of them."""
    nobody: Any = None
    pieces = [Piece([("org", "M"), (request.tenant, "M")], op, (), None, nobody) for request, op in steps]
    made = [(world.table[scope], op) for (scope, _), op in merged(pieces).items()]
    return all(op.apply(item.copy(), 0) for item, op in made) and all(op.apply(item, 0) for item, op in made)


def entry(name: str, began: float, tenant: str, pico: int) -> Entry:
    """Of an attempt whose tokens cost a pico-dollar each."""
    return Entry(name, began, tenant, "k", "f", "m", "m", "default", pico, 0, 0, 0, 0, "v", pico, "ok", "")
