"""Every figure: what it is called, which way is better, and what prodkit promises for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from benchmarks._statistics import Spread, spread

Values = Mapping[str, float | None]
"""Figures of one target in one round by name; None = it could not be had."""
Round = Mapping[str, Values]
"""By target."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One column of the report."""

    name: str
    title: str
    digits: int
    """Decimal places that are shown."""


FIGURES = (
    Figure("requests_per_second", "requests/s, c=32", 0),
    Figure("cpu_us_per_request", "CPU µs/request", 0),
    Figure("added_p50_ms", "added p50 ms, c=1", 2),
    Figure("added_awake_p50_ms", "added p50 ms, c=1, without a pause", 2),
    Figure("added_polling_p50_ms", "added p50 ms, c=1, CPUs kept awake", 2),
    Figure("added_p99_ms", "added p99 ms, c=32", 1),
    Figure("failed_percent", "failed %, c=32", 1),
    Figure("cpu_ms_per_stream", "CPU ms/stream", 2),
    Figure("streams_failed_percent", "failed % of the streams", 1),
    Figure("added_first_byte_ms", "added TTFT p50 ms, 200 streams", 1),
    Figure("hits_per_second", "cache hits/s", 0),
    Figure("cpu_us_per_hit", "CPU µs/hit", 0),
    Figure("resident_mib", "RSS MiB after load", 0),
    Figure("ready_seconds", "s to ready", 2),
)
"""The columns, in order. Targets that lack one show a dash."""

OTHERS = (
    Figure("core_share", "share of its core used, c=32", 2),
    Figure("cache_cpu_us_per_request", "CPU µs/request of the cache server", 0),
    Figure("p50_ms", "p50 ms, c=1", 3),
    Figure("awake_p50_ms", "p50 ms, c=1, without a pause", 3),
    Figure("polling_p50_ms", "p50 ms, c=1, CPUs kept awake", 3),
    Figure("p99_ms", "p99 ms, c=32", 1),
    Figure("first_byte_ms", "TTFT p50 ms, 200 streams", 1),
    Figure("stream_ms", "whole stream p50 ms, 200 streams", 0),
    Figure("calls_per_request", "upstream calls/request, c=32", 3),
    Figure("calls_per_hit", "upstream calls/hit", 3),
    Figure("everything_mib", "RSS MiB with the product loaded", 0),
    Figure("ledger_percent", "CPU that the ledger adds to a request, %", 1),
    Figure("limits_percent", "CPU that the limits add to a request, %", 1),
    Figure("nothing_percent", "CPU that nothing adds to a request by the same measure, %", 1),
)
"""In the file of results, not in the table."""

_ADDED = {
    "added_p50_ms": "p50_ms",
    "added_awake_p50_ms": "awake_p50_ms",
    "added_polling_p50_ms": "polling_p50_ms",
    "added_p99_ms": "p99_ms",
    "added_first_byte_ms": "first_byte_ms",
}


def with_added(one: Round) -> dict[str, dict[str, float | None]]:
    """A round with what each target adds to the direct call of the same round."""
    direct = one.get("direct", {})
    whole = {}
    for target, values in one.items():
        more: dict[str, float | None] = dict(values)
        if target != "direct":
            for added, base in _ADDED.items():
                mine, floor = values.get(base), direct.get(base)
                more[added] = None if mine is None or floor is None else mine - floor
        whole[target] = more
    return whole


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, Spread]]:
    """Median and range over the rounds, by target and figure; a figure that most rounds lack is left out."""
    every = [with_added(one) for one in rounds]
    result: dict[str, dict[str, Spread]] = {}
    for target in dict.fromkeys(name for one in every for name in one):
        mine = [one[target] for one in every if target in one]
        found = {figure.name: spread(values.get(figure.name) for values in mine) for figure in (*FIGURES, *OTHERS)}
        result[target] = {name: value for name, value in found.items() if value is not None}
    return result


@dataclass(frozen=True, slots=True)
class Goal:
    """What prodkit promises, and whether it holds."""

    text: str
    unit: str
    bound: float
    at_least: bool
    value: float | None
    digits: int = 0
    between: tuple[float, float] | None = None
    """Between what the value is with 95 % confidence, where that is known."""

    @property
    def met(self) -> bool | None:
        """None when nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def goals(measured: Mapping[str, Mapping[str, Spread]]) -> list[Goal]:
    """prodkit's promises beside what was measured."""

    def own(name: str) -> float | None:
        found = measured.get("prodkit", {}).get(name)
        return found.median if found else None

    def added(text: str, name: str) -> Goal:
        found = measured.get("prodkit", {}).get(name)
        between = (found.least, found.most) if found else None
        return Goal(text, "%", 10, False, own(name), 1, between)

    def single(how: str, name: str) -> Goal:
        return Goal(f"added latency, median, {how}", "ms", 0.4, False, own(name), 2)

    def tail() -> float | None:
        # So many failed that the 99th percentile is one of them: measured, and endless.
        return (
            own("added_p99_ms") if "added_p99_ms" in measured.get("prodkit", {}) or not own("failed_percent") else inf
        )

    def times(rival: str, name: str = "cpu_us_per_request") -> float | None:
        theirs, ours = measured.get(rival, {}).get(name), own(name)
        return theirs.median / ours if theirs and ours else None

    return [
        Goal("requests a second on one core, c=32", "", 3_000, True, own("requests_per_second")),
        Goal("CPU time a request", "µs", 330, False, own("cpu_us_per_request")),
        added("CPU time that the ledger adds to a request", "ledger_percent"),
        added("CPU time that the limits add to a request", "limits_percent"),
        Goal("requests for the CPU time of one of LiteLLM's", "", 25, True, times("litellm"), 1),
        Goal("requests for the CPU time of one of Portkey's", "", 2, True, times("portkey"), 1),
        single("one request after the other", "added_awake_p50_ms"),
        single("one request each 20 ms", "added_p50_ms"),
        Goal("added latency, 99th percentile, 32 requests in flight", "ms", 5, False, tail(), 1),
        Goal("CPU time a 42-chunk stream, 200 at once", "ms", 2, False, own("cpu_ms_per_stream"), 2),
        Goal("added time to the first token, median, 200 at once", "ms", 60, False, own("added_first_byte_ms"), 1),
        Goal("cache hits a second on one core", "", 15_000, True, own("hits_per_second")),
        Goal("CPU time a cache hit", "µs", 70, False, own("cpu_us_per_hit")),
        Goal("hits for the CPU time of one of LiteLLM's", "", 100, True, times("litellm", "cpu_us_per_hit"), 1),
        Goal("resident memory after load, gateway alone", "MiB", 110, False, own("resident_mib")),
        Goal("resident memory, everything loaded", "MiB", 180, False, own("everything_mib")),
        Goal("start to ready", "s", 1.5, False, own("ready_seconds"), 2),
    ]
