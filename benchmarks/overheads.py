"""What single policies of the gateway cost: CPU time a request beside a replica that runs without them."""

from __future__ import annotations

from benchmarks._statistics import Spread, spread
from benchmarks.measure import closed_figures, settle, warm_up
from benchmarks.targets import Target, prodkit_without
from benchmarks.without import PARTS
from benchmarks.world import World
from local.children import Children

ROUNDS = 7
"""Pairs of measurements: a short one is noisy, a pair shares what else the machine does."""


async def overheads(children: Children, world: World, whole: Target, seconds: float) -> dict[str, Spread]:
    """`<part>_percent` for each policy that can be taken out: CPU time that it adds to a request without it."""
    found = {}
    for part in PARTS:
        without = await prodkit_without(children, world, part)
        warm_up(without, seconds)
        percents = [_percent(world, whole, without, seconds) for _ in range(ROUNDS)]
        await children.stop(without.child)
        measured = spread(percents)
        if measured is not None:
            found[f"{part}_percent"] = measured
    return found


def _percent(world: World, whole: Target, without: Target, seconds: float) -> float | None:
    costs = []
    for target in (whole, without):
        costs.append(closed_figures(world, target, seconds)["cpu_us_per_request"])
        settle(target)
    more, less = costs
    return None if more is None or less is None else 100 * (more / less - 1)
