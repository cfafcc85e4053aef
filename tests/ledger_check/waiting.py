"""Requests that wait for a batch: set aside and charged with their record, in transactions that may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.ledger.entries import Entry, Page
from app.ledger.group import Piece, merged
from app.ledger.item import SetAside, Use

if TYPE_CHECKING:
    from tests.ledger_check.world import Replica, World


@dataclass(eq=False)
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
    if _together(world, [(request, SetAside(request.worst)) for request in requests]):
        world.waiting += requests
    elif len(requests) > 1:
        half = len(requests) // 2
        accept(world, requests[:half])
        accept(world, requests[half:])


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
    others = [each for each in world.waiting if each.billed is not None and chance.random() < 0.5]
    for _ in range(chance.choice([0, 1, 1, 2])):
        charge(world, list(dict.fromkeys([request, *others])))


def file_results(world: World) -> None:
    """What a worker does within minutes of a result: an audit, a day later, finds it done."""
    charge(world, [each for each in world.waiting if each.billed is not None])


def charge(world: World, requests: Sequence[Waiting]) -> None:
    """File results in one transaction; those that are filed already refuse it, and it is made without them."""
    left = [each for each in requests if may_charge(each)]
    if not left or world.lost():
        return
    _together(world, [(each, Use(each.worst, each.billed or 0)) for each in left])
    entries = [entry(each.id, each.began, each.tenant.partition(":")[2], each.billed or 0) for each in left]
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
    pieces = [Piece([("org", ""), (request.tenant, "")], op, (), None, nobody) for request, op in steps]
    made = [(world.table[scope], op) for (scope, _), op in merged(pieces).items()]
    return all(op.apply(item.copy(), 0) for item, op in made) and all(op.apply(item, 0) for item, op in made)


def entry(name: str, began: float, tenant: str, pico: int) -> Entry:
    """Of an attempt whose tokens cost a pico-dollar each."""
    return Entry(name, began, tenant, "k", "f", "m", "m", "default", pico, 0, 0, 0, 0, "v", pico, "ok", "")
