"""Runs histories: each is its seed."""

from __future__ import annotations

from collections.abc import Callable

from tests.ledger_check.world import BrokenError, World

STEPS = 90


def run(seed: int) -> None:
    """One history; raises BrokenError."""
    world = World(seed)
    for _ in range(STEPS):
        world.happen()
        world.check()
    world.settle_down()
    world.check()
    world.check_rest()


def check(traces: int, first: int = 0, said: Callable[[int], None] = lambda done: None) -> int:
    """Run so many histories; returns how many, or raises BrokenError with the seed of the first that fails."""
    for seed in range(first, first + traces):
        try:
            run(seed)
        except BrokenError as broken:
            raise BrokenError(f"seed {seed}: {broken}") from None
        said(seed - first + 1)
    return traces
