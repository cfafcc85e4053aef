"""Runs histories: each is its seed."""

from __future__ import annotations

from collections.abc import Callable

from tests.ledger_check.history import happen, settle_down
from tests.ledger_check.invariants import BrokenError, check_rest
from tests.ledger_check.invariants import check as check_now
from tests.ledger_check.world import World

STEPS = 90


def run(seed: int) -> None:
    """One history; raises BrokenError."""
    world = World(seed)
    for _ in range(STEPS):
        happen(world)
        check_now(world)
    settle_down(world)
    check_now(world)
    check_rest(world)


def check(traces: int, first: int = 0, said: Callable[[int], None] = lambda done: None) -> int:
    """Run so many histories; returns how many, or raises BrokenError with the seed of the first that fails."""
    for seed in range(first, first + traces):
        try:
            run(seed)
        except BrokenError as broken:
            raise BrokenError(f"seed {seed}: {broken}") from None
        said(seed - first + 1)
    return traces
