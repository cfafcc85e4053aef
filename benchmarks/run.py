"""A whole run: start everything, go round by round through every target, stop everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from statistics import median

from benchmarks import machine, pace
from benchmarks._figures import Round, summary
from benchmarks._statistics import Spread
from benchmarks.everything import everything_mib
from benchmarks.installs import SkippedError
from benchmarks.interpreter import Interpreter
from benchmarks.measure import (
    CONNECTIONS,
    FAST_RATE,
    MODEL_MILLISECONDS,
    SLOW_RATE,
    STREAMS,
    Lengths,
    closed_figures,
    measure,
    settle,
    warm_up,
)
from benchmarks.overheads import overheads
from benchmarks.results import Result
from benchmarks.targets import STARTS, TITLES, Target
from benchmarks.world import GATEWAY_CPU, LOAD_CPU, World, build, can_pin, pinned
from local.children import ChildFailedError, Children

FULL_SECONDS = 13 * 60
"""After this no further round begins; what follows the rounds takes less than two minutes."""
RATIO_TARGETS = ("passthrough", "prodkit")
RATIO_ROUNDS = 5
RATIO_SECONDS = 2.0

Say = Callable[[str], None]


async def full(names: Sequence[str], rounds: int, lengths: Lengths, say: Say, interpreter: Interpreter) -> Result:
    """Measure these targets; raises MissingError, and ChildFailedError when prodkit or a floor does not start."""
    began = time.monotonic()
    described = machine.describe(interpreter)
    skipped: dict[str, str] = {}
    done: list[dict[str, dict[str, float | None]]] = []
    paces: list[dict[str, float]] = []
    async with _world(say, interpreter) as (children, world):
        targets = await _start(children, world, names, skipped, say)
        for number in range(rounds):
            if done and time.monotonic() - began > FULL_SECONDS * len(done) / (len(done) + 1):
                say(f"stopped after {len(done)} rounds: the time is up")
                break
            say(f"round {number + 1} of {rounds}, {time.monotonic() - began:.0f} s")
            paces.append(_pace())
            done.append(_round(world, targets, number, lengths, say))
        measured = summary(done)
        if "prodkit" in measured:
            mib = await everything_mib(children, world)
            measured["prodkit"]["everything_mib"] = Spread(mib, mib, mib)
            say("what single policies cost")
            measured["prodkit"] |= await overheads(children, world, lengths)
        cache_server = world.cache_server.rpartition("/")[2]
    described["load_after"] = round(os.getloadavg()[0], 2)
    return Result(
        date=datetime.now(UTC).date().isoformat(),
        machine=described,
        versions={target.name: target.version for target in targets},
        settings={
            "rounds": len(done),
            "seconds": round(time.monotonic() - began),
            "connections": CONNECTIONS,
            "requests_per_second_c1": SLOW_RATE,
            "requests_per_second_c32": FAST_RATE,
            "model_milliseconds_c32": MODEL_MILLISECONDS,
            "streams": STREAMS,
            "cache_server": cache_server,
        },
        summary=measured,
        rounds=[dict(one) for one in done],
        paces=list(paces),
        skipped=skipped,
    )


async def ratio(say: Say, interpreter: Interpreter) -> tuple[float, float]:
    """CPU time a request of prodkit and of the floor, µs, each the least of a few interleaved rounds. Half a minute."""
    done: list[Round] = []
    async with _world(say, interpreter) as (children, world):
        targets = await _start(children, world, RATIO_TARGETS, {}, say)
        for target in targets:
            warm_up(target, 1.0)
        for _ in range(RATIO_ROUNDS):
            one = {}
            for target in targets:
                one[target.name] = closed_figures(world, target, RATIO_SECONDS)
                settle(target)
            done.append(one)
    found = summary(done)
    floor, own = (found[name]["cpu_us_per_request"].least for name in RATIO_TARGETS)
    return own, floor


@contextlib.asynccontextmanager
async def _world(say: Say, interpreter: Interpreter) -> AsyncIterator[tuple[Children, World]]:
    """Everything around the gateways, with this process on the load's CPU, until the block ends."""
    if not can_pin():
        say(f"not pinned: CPUs {GATEWAY_CPU} and {LOAD_CPU} are not both ours; figures vary more")
    with pinned(LOAD_CPU):
        async with Children() as children:
            yield children, await build(children, interpreter)


def _pace() -> dict[str, float]:
    """How slow the gateway's CPU is at this moment, CPU microseconds of a fixed piece of work."""
    with pinned(GATEWAY_CPU):
        pieces = [nanoseconds / 1000 for nanoseconds in pace.pieces()]
    return {"median": median(pieces), "least": min(pieces)}


def _round(
    world: World, targets: Sequence[Target], number: int, lengths: Lengths, say: Say
) -> dict[str, dict[str, float | None]]:
    """Every target once; each round begins with another one, so that none always comes after the same."""
    turn = number % len(targets)
    found: dict[str, dict[str, float | None]] = {}
    for target in (*targets[turn:], *targets[:turn]):
        try:
            found[target.name] = measure(world, target, lengths)
        except OSError as error:  # it died, or takes no connection any more; its figures of this round are missing
            say(f"{TITLES[target.name]} does not answer: {error}")
            found[target.name] = {}
    return found


async def _start(
    children: Children, world: World, names: Sequence[str], skipped: dict[str, str], say: Say
) -> list[Target]:
    started = []
    for name in names:
        say(f"starting {TITLES[name]}")
        try:
            started.append(await STARTS[name](children, world))
        except SkippedError as error:
            skipped[name] = str(error)
        except ChildFailedError as error:
            if name in ("prodkit", "passthrough"):
                raise
            skipped[name] = f"does not start: {str(error).splitlines()[-1][:200]}"
        if name in skipped:
            say(f"skipped {TITLES[name]}: {skipped[name]}")
    await asyncio.sleep(0.5)
    return started
