"""One target through every phase: the load is made here, the CPU time is read before and after."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median

from benchmarks import load
from benchmarks._proc import cpu_seconds, resident_mib
from benchmarks._schedule import constant, poisson
from benchmarks._statistics import percentile
from benchmarks.awake import can_keep_awake, kept_awake
from benchmarks.load import Outcome, Requests
from benchmarks.targets import REPEATED, Target
from benchmarks.world import World, ask

CONNECTIONS = 32
OPEN_CONNECTIONS = 256
"""An open phase drops a request when so many are unanswered: a caller would have given up by then."""
SLOW_RATE = 50.0
"""Requests a second of the c=1 phase: each is answered before the next is due."""
MODEL_MILLISECONDS = 50
"""How long the model thinks in the c=32 phase."""
FAST_RATE = CONNECTIONS / (MODEL_MILLISECONDS / 1000)
"""Requests a second that keep 32 in flight at a model of 50 ms (Little's law): 640."""
STREAMS = 200
SEED = 20_261_122
IDLE_SHARE = 0.05
SETTLE_SECONDS = 10.0
SETTLE_STEP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the phases of one target last."""

    warm_seconds: float = 0.5
    closed_seconds: float = 2.5
    slow_seconds: float = 1.5
    awake_seconds: float = 1.0
    fast_seconds: float = 3.0
    waves: int = 2
    cached_seconds: float = 1.5
    turns: int = 400
    """Without each policy, to see what it costs."""


def measure(world: World, target: Target, lengths: Lengths) -> dict[str, float | None]:
    """Every figure of one target in one round."""
    warm_up(target, lengths.warm_seconds)
    figures = closed_figures(world, target, lengths.closed_seconds)
    settle(target)
    figures |= slow_figures(target, lengths.slow_seconds)
    if can_keep_awake():
        with kept_awake():
            figures["polling_p50_ms"] = slow_figures(target, lengths.slow_seconds)["p50_ms"]
    figures |= awake_figures(target, lengths.awake_seconds)
    figures |= fast_figures(world, target, lengths.fast_seconds)
    settle(target)
    figures |= stream_figures(target, lengths.waves)
    settle(target)
    if target.cache_options is not None:
        figures |= cached_figures(world, target, lengths.cached_seconds)
    if target.name != "direct":
        figures["resident_mib"] = resident_mib(target.child.pid)
        figures["ready_seconds"] = target.ready_seconds
    settle(target)
    return figures


def warm_up(target: Target, seconds: float) -> None:
    """Open the target's own connections and let it compile what it compiles."""
    load.closed(target.port, target.requests("whole"), connections=CONNECTIONS, seconds=seconds)


def closed_figures(world: World, target: Target, seconds: float) -> dict[str, float | None]:
    """As many requests as 32 callers can make, each a new question."""
    outcome, cpu, cache_cpu, calls = _loaded(world, target, target.requests("whole"), seconds)
    done = outcome.completed
    failed = outcome.failures > done
    return {
        "requests_per_second": None if failed else done / outcome.seconds,
        "cpu_us_per_request": None if failed or not done else cpu / done * 1e6,
        "cache_cpu_us_per_request": cache_cpu / done * 1e6 if done and target.name == "prodkit" else None,
        "core_share": cpu / outcome.seconds,
        "calls_per_request": calls / done if done else None,
    }


def cached_figures(world: World, target: Target, seconds: float) -> dict[str, float | None]:
    """The same few questions over and over: no call reaches the model."""
    requests = target.requests("cached")
    # Each question once, and a moment for its answer to be kept: gateways do that after they have answered.
    load.scheduled(target.port, requests, offsets=constant(REPEATED / 0.2, 0.2), connections=REPEATED)
    settle(target)
    outcome, cpu, _, calls = _loaded(world, target, requests, seconds)
    done = outcome.completed
    # An answer that the model gave is no hit, whatever the gateway calls it.
    hit = bool(done) and calls / done < 0.05
    return {
        "hits_per_second": done / outcome.seconds if hit else None,
        "cpu_us_per_hit": cpu / done * 1e6 if hit else None,
        "calls_per_hit": calls / done if done else None,
    }


def slow_figures(target: Target, seconds: float) -> dict[str, float | None]:
    """Latency of single requests to a model that answers at once."""
    offsets = constant(SLOW_RATE, seconds)
    outcome = load.scheduled(target.port, target.requests("whole"), offsets=offsets, connections=4)
    return {"p50_ms": _milliseconds(percentile(outcome.latencies, 50, outcome.failures))}


def awake_figures(target: Target, seconds: float) -> dict[str, float | None]:
    """The same one after the other without a pause, so that no process falls asleep between two."""
    outcome = load.closed(target.port, target.requests("whole"), connections=1, seconds=seconds)
    return {"awake_p50_ms": _milliseconds(percentile(outcome.latencies, 50, outcome.failures))}


def fast_figures(world: World, target: Target, seconds: float) -> dict[str, float | None]:
    """Latency with 32 requests in flight on average, arriving by chance, at a model of 50 ms."""
    offsets = poisson(FAST_RATE, seconds, SEED)
    ask(world.stub_port, "POST", f"/delay/{MODEL_MILLISECONDS}")
    try:
        requests = target.requests("whole")
        outcome = load.scheduled(target.port, requests, offsets=offsets, connections=OPEN_CONNECTIONS)
    finally:
        ask(world.stub_port, "POST", "/delay/0")
    return {
        "p99_ms": _milliseconds(percentile(outcome.latencies, 99, outcome.failures)),
        "failed_percent": _failed_percent(outcome),
    }


def stream_figures(target: Target, waves: int) -> dict[str, float | None]:
    """200 streams begun at once, twice or more."""
    requests = target.requests("stream")
    before = cpu_seconds(target.child.pid)
    outcome = load.streams(target.port, requests, count=STREAMS, waves=waves)
    cpu = cpu_seconds(target.child.pid) - before
    done = outcome.completed
    whole = 2 * done > STREAMS * waves
    return {
        "cpu_ms_per_stream": cpu / done * 1000 if whole else None,
        "first_byte_ms": _milliseconds(median(outcome.first_bytes)) if whole else None,
        "stream_ms": _milliseconds(median(outcome.latencies)) if whole else None,
        "streams_failed_percent": _failed_percent(outcome),
    }


def settle(target: Target) -> None:
    """Wait until what the last phase left behind is worked off."""
    until = time.monotonic() + SETTLE_SECONDS
    before = cpu_seconds(target.child.pid)
    while time.monotonic() < until:
        time.sleep(SETTLE_STEP_SECONDS)
        now = cpu_seconds(target.child.pid)
        if now - before < IDLE_SHARE * SETTLE_STEP_SECONDS:
            return
        before = now


def _loaded(world: World, target: Target, requests: Requests, seconds: float) -> tuple[Outcome, float, float, int]:
    """A closed phase: its outcome, CPU seconds of the target and of the cache server, calls that reached the model."""
    calls = _calls(world)
    cpu, cache_cpu = cpu_seconds(target.child.pid), cpu_seconds(world.cache.pid)
    outcome = load.closed(target.port, requests, connections=CONNECTIONS, seconds=seconds)
    cpu, cache_cpu = cpu_seconds(target.child.pid) - cpu, cpu_seconds(world.cache.pid) - cache_cpu
    return outcome, cpu, cache_cpu, _calls(world) - calls


def _calls(world: World) -> int:
    """Unstreamed calls that the stub has counted."""
    stats = json.loads(ask(world.stub_port, "GET", "/stats"))
    return int(stats["requests"])


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _failed_percent(outcome: Outcome) -> float | None:
    attempts = outcome.completed + outcome.failures
    return 100 * outcome.failures / attempts if attempts else None
