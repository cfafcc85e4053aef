"""What single policies of the gateway cost: CPU time a request of one process, in turns with and without them.

Two processes of the very same code differ by more than a policy costs, and another machine on the same processor makes
everything dearer by a half for a tenth of a second or two. So it is one process that answers a few dozen requests with
all policies, then as many without one, then with all again, hundreds of times: what disturbs falls on both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from app.pipeline.afterwards import LATEST_SECONDS
from benchmarks import load
from benchmarks._proc import own_seconds
from benchmarks._statistics import Spread, ratio_within
from benchmarks.measure import CONNECTIONS, Lengths, settle, warm_up
from benchmarks.targets import Target, prodkit_switched
from benchmarks.without import PARTS, tell
from benchmarks.world import World
from local.children import Children

TURN_REQUESTS = 2 * CONNECTIONS
"""About 20 ms: shorter than a disturbance, and enough to count."""
QUIET_STEP_SECONDS = LATEST_SECONDS + 0.002
"""What is put off until an answer has been sent begins within it."""
QUIET_SHARE = 0.1
QUIET_SECONDS = 0.5


async def overheads(children: Children, world: World, lengths: Lengths) -> dict[str, Spread]:
    """`<part>_percent` of each policy that can be taken out: CPU time that it adds to a request without it.

    The mean, and between what it is with 95 % confidence. `nothing_percent` is what this says of no difference at all.
    """
    target = await prodkit_switched(children, world)
    warm_up(target, lengths.closed_seconds)
    settle(target)
    turns: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    with load.batches(target.port, target.requests("whole"), connections=CONNECTIONS) as batch:
        meter = _Meter(target, batch)
        before = meter.turn(None)
        for _ in range(lengths.turns):
            for part, found in turns.items():
                without, after = meter.turn(part), meter.turn(None)
                if before and without and after:
                    found.append(((before + after) / 2, without))
                before = after
    await children.stop(target.child)
    ratios = {part: ratio_within(found) for part, found in turns.items()}
    return {f"{part}_percent": ratio.percent_more() for part, ratio in ratios.items() if ratio is not None}


class _Meter:
    """Turns of one process, and what each of them cost."""

    def __init__(self, target: Target, batch: Callable[[int], int]) -> None:
        self._pid = target.child.pid
        self._batch = batch
        self._used = own_seconds(self._pid)

    def turn(self, part: str | None) -> float | None:
        """CPU seconds a request without this part, with all that is done before the next turn; None of failures."""
        tell(self._pid, part)
        answered = self._batch(TURN_REQUESTS)
        quieten(self._pid)
        before, self._used = self._used, own_seconds(self._pid)
        return (self._used - before) / answered if answered == TURN_REQUESTS else None


def quieten(pid: int) -> None:
    """Wait until a process has worked off what it does after its answers: it pays for them then."""
    until = time.monotonic() + QUIET_SECONDS
    before = own_seconds(pid)
    while time.monotonic() < until:
        time.sleep(QUIET_STEP_SECONDS)
        now = own_seconds(pid)
        if now - before < QUIET_SHARE * QUIET_STEP_SECONDS:
            return
        before = now
