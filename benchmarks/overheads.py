"""What single policies of the gateway cost: CPU time a request beside a replica that runs without them."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import load
from benchmarks._proc import cpu_seconds
from benchmarks._statistics import Spread, spread
from benchmarks.measure import CONNECTIONS, settle, warm_up
from benchmarks.targets import Target, prodkit_without
from benchmarks.without import NOTHING, PARTS
from benchmarks.world import World
from local.children import Children

ROUNDS = 21
"""Of short turns: what neighbours do to the machine changes within seconds, by more than a policy costs. Turns that
follow each other share most of it, and of many quotients the median forgets those that do not."""
TURN_SHARE = 0.4
"""Of a closed phase's time: a second, in which whatever a policy does beside requests comes up."""


async def overheads(children: Children, world: World, seconds: float) -> dict[str, Spread]:
    """`<part>_percent` for each policy that can be taken out: CPU time that it adds to a request without it.

    The replica with all of them is started anew for it: one that has answered a hundred thousand requests of all kinds
    has another heap, and what that costs is not the policy's.
    """
    targets = {name: await prodkit_without(children, world, name) for name in (NOTHING, *PARTS)}
    for target in targets.values():
        warm_up(target, seconds)
    for target in targets.values():
        settle(target)
    costs = _costs(targets, seconds * TURN_SHARE)
    for target in targets.values():
        await children.stop(target.child)
    found = {}
    for part in PARTS:
        pairs = zip(costs[NOTHING], costs[part], strict=True)
        measured = spread(100 * (more / less - 1) if more and less else None for more, less in pairs)
        if measured is not None:
            found[f"{part}_percent"] = measured
    return found


def _costs(targets: Mapping[str, Target], seconds: float) -> dict[str, list[float | None]]:
    """CPU seconds a request of each replica in each round, until its turn in the next one: with what is done later."""
    costs: dict[str, list[float | None]] = {name: [] for name in targets}
    used, done = {name: cpu_seconds(target.child.pid) for name, target in targets.items()}, dict.fromkeys(targets, 0)
    for number in range(ROUNDS):
        names = list(targets) if number % 2 == 0 else list(targets)[::-1]
        for name in names:
            target = targets[name]
            if number:
                _note(costs[name], used, done, name, target)
            outcome = load.closed(target.port, target.requests("whole"), connections=CONNECTIONS, seconds=seconds)
            done[name] = outcome.completed
    for name, target in targets.items():
        settle(target)
        _note(costs[name], used, done, name, target)
    return costs


def _note(
    costs: list[float | None], used: dict[str, float], done: Mapping[str, int], name: str, target: Target
) -> None:
    now = cpu_seconds(target.child.pid)
    costs.append((now - used[name]) / done[name] if done[name] else None)
    used[name] = now
