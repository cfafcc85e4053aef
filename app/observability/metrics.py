"""Metrics in CloudWatch's embedded format: one line each 10 s, aggregated in the process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import log
from typing import TYPE_CHECKING

import orjson

from app.observability.log import write_line

if TYPE_CHECKING:
    from app.observability.telemetry import Telemetry

NAMESPACE = "Prodkit"
DIMENSIONS = ("Stack", "Service")
EMIT_SECONDS = 10.0

IN_FLIGHT_REQUESTS = "InFlightRequests"
REQUESTS = "Requests"
CALLER_ERRORS = "CallerErrors"
POLICY_ERRORS = "PolicyErrors"
UPSTREAM_ERRORS = "UpstreamErrors"
INTERNAL_ERRORS = "InternalErrors"
REQUEST_LATENCY_MS = "RequestLatencyMs"
TIME_TO_FIRST_TOKEN_MS = "TimeToFirstTokenMs"  # noqa: S105 - a metric, not a password
RECEIVE_MS = "ReceiveMs"
OVERHEAD_MS = "OverheadMs"
PROMPT_MS = "PromptMs"
GENERATION_MS = "GenerationMs"
WHOLE_ANSWER_MS = "WholeAnswerMs"
OPENAI_PROCESSING_MS = "OpenAIProcessingMs"
INPUT_TOKENS = "InputTokens"
OUTPUT_TOKENS = "OutputTokens"
CACHED_INPUT_TOKENS = "CachedInputTokens"
SPEND_USD = "SpendUsd"
CACHE_HITS = "CacheHits"
CACHE_MISSES = "CacheMisses"
RATE_LIMITED = "RateLimited"
QUEUED_REQUESTS = "QueuedRequests"
QUEUE_WAIT_MS = "QueueWaitMs"
LIMITER_CALLS = "LimiterCalls"
UPSTREAM_RATE_LIMITED = "UpstreamRateLimited"
OPENAI_HEADROOM_PERCENT = "OpenAIHeadroomPercent"
RETRIES = "Retries"
FALLBACKS = "Fallbacks"
BREAKER_OPEN = "BreakerOpen"
KEY_BREAKER_OPEN = "KeyBreakerOpen"
FIRST_TOKEN_TIMEOUTS = "FirstTokenTimeouts"  # noqa: S105 - a metric, not a password
INVALID_ANSWERS = "InvalidAnswers"
STOP_CUTS = "StopCuts"
SHED_REQUESTS = "ShedRequests"
TELEMETRY_DROPPED = "TelemetryDropped"
HELD_REQUESTS = "HeldRequests"
DEGRADED_REQUESTS = "DegradedRequests"
BUDGET_SPENT_USD = "BudgetSpentUsd"
BUDGET_RESERVED_USD = "BudgetReservedUsd"
BUDGET_SUSPENSE_USD = "BudgetSuspenseUsd"
BUDGET_HEADROOM_USD = "BudgetHeadroomUsd"
BUDGET_RUNG = "BudgetRung"
BUDGET_WATCH = "BudgetWatch"
MERGED_REQUESTS = "MergedRequests"
MERGED_CALLS = "MergedCalls"
DEFERRED_ACCEPTED = "DeferredAccepted"
DEFERRED_ANSWERED = "DeferredAnswered"
DEFERRED_GIVEN_UP = "DeferredGivenUp"
DEFERRED_OVERDUE = "DeferredOverdue"
DEFERRED_BATCHES = "DeferredBatches"
DOCUMENTS_INGESTED = "DocumentsIngested"
DOCUMENTS_FAILED = "DocumentsFailed"
METER_HEARTBEAT = "MeterHeartbeat"
JOB_RUNS = "JobRuns"
JOB_FAILURES = "JobFailures"
KEY_AGE_DAYS = "KeyAgeDays"

UNITS: dict[str, str] = {
    IN_FLIGHT_REQUESTS: "Count",
    REQUESTS: "Count",
    CALLER_ERRORS: "Count",
    POLICY_ERRORS: "Count",
    UPSTREAM_ERRORS: "Count",
    INTERNAL_ERRORS: "Count",
    REQUEST_LATENCY_MS: "Milliseconds",
    TIME_TO_FIRST_TOKEN_MS: "Milliseconds",
    RECEIVE_MS: "Milliseconds",
    OVERHEAD_MS: "Milliseconds",
    PROMPT_MS: "Milliseconds",
    GENERATION_MS: "Milliseconds",
    WHOLE_ANSWER_MS: "Milliseconds",
    OPENAI_PROCESSING_MS: "Milliseconds",
    INPUT_TOKENS: "Count",
    OUTPUT_TOKENS: "Count",
    CACHED_INPUT_TOKENS: "Count",
    SPEND_USD: "None",
    CACHE_HITS: "Count",
    CACHE_MISSES: "Count",
    RATE_LIMITED: "Count",
    QUEUED_REQUESTS: "Count",
    QUEUE_WAIT_MS: "Milliseconds",
    LIMITER_CALLS: "Count",
    UPSTREAM_RATE_LIMITED: "Count",
    OPENAI_HEADROOM_PERCENT: "Percent",
    RETRIES: "Count",
    FALLBACKS: "Count",
    BREAKER_OPEN: "Count",
    KEY_BREAKER_OPEN: "Count",
    FIRST_TOKEN_TIMEOUTS: "Count",
    INVALID_ANSWERS: "Count",
    STOP_CUTS: "Count",
    SHED_REQUESTS: "Count",
    TELEMETRY_DROPPED: "Count",
    HELD_REQUESTS: "Count",
    DEGRADED_REQUESTS: "Count",
    BUDGET_SPENT_USD: "None",
    BUDGET_RESERVED_USD: "None",
    BUDGET_SUSPENSE_USD: "None",
    BUDGET_HEADROOM_USD: "None",
    BUDGET_RUNG: "None",
    BUDGET_WATCH: "Count",
    MERGED_REQUESTS: "Count",
    MERGED_CALLS: "Count",
    DEFERRED_ACCEPTED: "Count",
    DEFERRED_ANSWERED: "Count",
    DEFERRED_GIVEN_UP: "Count",
    DEFERRED_OVERDUE: "Count",
    DEFERRED_BATCHES: "Count",
    DOCUMENTS_INGESTED: "Count",
    DOCUMENTS_FAILED: "Count",
    METER_HEARTBEAT: "Count",
    JOB_RUNS: "Count",
    JOB_FAILURES: "Count",
    KEY_AGE_DAYS: "None",  # CloudWatch has no unit of days
}
"""Every metric the app emits, with its CloudWatch unit."""

ERROR_DOMAINS: dict[str, str] = {
    "caller": CALLER_ERRORS,
    "policy": POLICY_ERRORS,
    "upstream": UPSTREAM_ERRORS,
    "us": INTERNAL_ERRORS,
}
"""Which metric counts an error of a domain: rollbacks look at `us` alone."""

DISTRIBUTIONS = frozenset(name for name, unit in UNITS.items() if unit == "Milliseconds")
HIGH_RESOLUTION = frozenset({IN_FLIGHT_REQUESTS})
"""Metrics kept by the second: a 10 s alarm on a metric kept by the minute would see nothing."""
ALWAYS = (REQUESTS, CALLER_ERRORS, UPSTREAM_ERRORS, INTERNAL_ERRORS, SPEND_USD)
"""Counters written as 0 from the first interval, so that a ratio of them is never made of missing data."""

MAX_VALUES = 100  # of one metric in one document, CloudWatch's bound
BIN_RATIO = 1.1  # neighbouring bins differ by 10 %: CloudWatch's own percentile resolution
_PER_LOG = 1 / log(BIN_RATIO)
"""Bin of a value: its logarithm times this; everything up to 1 (a millisecond) is bin 0."""


class Distribution:
    """Measurements of one metric in one interval."""

    __slots__ = ("bins", "total")

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}
        """How many fell into each bin."""
        self.total = 0.0


class Metrics:
    """Counts, distributions and the in-flight gauge of one process. Call it from the event loop's thread only."""

    def __init__(
        self,
        stack: str,
        service: str,
        *,
        write: Callable[[str], object] = write_line,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        meter_alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """`write` takes one line; `meter_alive` says whether spend still reaches the ledger."""
        self._identity = dict(zip(DIMENSIONS, (stack, service), strict=True))
        self._write = write
        self._clock = clock
        self._wall_clock = wall_clock
        self._meter_alive = meter_alive
        self._counts: dict[str, float] = dict.fromkeys(ALWAYS, 0)
        self._seen: dict[str, Distribution] = {}
        self._in_flight = 0
        self._in_flight_seconds = 0.0
        self._interval_start = self._changed = clock()
        self._task: asyncio.Task[None] | None = None
        self.telemetry: Telemetry | None = None
        """Where finished requests go besides; None = nowhere."""
        self.gauges: Callable[[], Mapping[str, float]] = dict
        """What is looked at when an interval ends, by metric."""

    @property
    def in_flight(self) -> int:
        """Requests being served at this moment."""
        return self._in_flight

    def count(self, name: str, value: float = 1) -> None:
        """Add `value` to a counter; raises KeyError for a name that no alarm or dashboard knows."""
        counts = self._counts
        if name in counts:
            counts[name] += value
        elif name not in UNITS or name in DISTRIBUTIONS:
            raise KeyError(name)
        else:
            counts[name] = value

    def observe(self, name: str, value: float) -> None:
        """Add one measurement in the metric's unit to a distribution; raises KeyError for any other name."""
        seen = self._seen.get(name)
        if seen is None:
            if name not in DISTRIBUTIONS:
                raise KeyError(name)
            seen = self._seen[name] = Distribution()
        if value > 1:
            number = int(log(value) * _PER_LOG + 0.5)
            seen.total += value
        else:
            number = 0
            if value > 0:
                seen.total += value
        bins = seen.bins
        bins[number] = bins.get(number, 0) + 1

    def start(self) -> None:
        """A request begins. Each start needs one `finish`."""
        now = self._clock()
        inside = self._in_flight
        self._in_flight_seconds += inside * (now - self._changed)
        self._changed = now
        self._in_flight = inside + 1

    def finish(self) -> None:
        """A request ended, in whatever way."""
        now = self._clock()
        inside = self._in_flight
        self._in_flight_seconds += inside * (now - self._changed)
        self._changed = now
        self._in_flight = inside - 1 if inside else 0

    def passed(self, seconds: float) -> None:
        """A request was in flight for so long, and never while anything else ran."""
        self._in_flight_seconds += seconds

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A request is in flight inside the `with` block."""
        self.start()
        try:
            yield
        finally:
            self.finish()

    def emit(self) -> None:
        """Write one document for the interval since the last one and begin a new interval."""
        now = self._clock()
        self._in_flight_seconds += self._in_flight * (now - self._changed)
        self._changed = now
        elapsed = now - self._interval_start
        values: dict[str, object] = dict(self._counts)
        # Scaling reads it: the mean of the interval, as one sample each 10 s would miss a burst of 3 s.
        values[IN_FLIGHT_REQUESTS] = round(self._in_flight_seconds / elapsed, 3) if elapsed > 0 else self._in_flight
        if self._meter_alive():
            values[METER_HEARTBEAT] = 1
        values |= self.gauges()
        values |= {name: _distribution(seen) for name, seen in self._seen.items()}
        self._counts = dict.fromkeys(self._counts, 0)
        self._seen = {}
        self._in_flight_seconds, self._interval_start = 0.0, now
        self._write(_document(self._identity, values, self._wall_clock()))

    async def run(self) -> None:
        """Start the task that emits each EMIT_SECONDS."""
        self._task = asyncio.create_task(self._emit_forever(), name="metrics")

    async def stop(self) -> None:
        """Stop emitting and write what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self.emit()

    async def _emit_forever(self) -> None:
        while True:
            await asyncio.sleep(EMIT_SECONDS)
            self.emit()


def write_once(
    stack: str,
    service: str,
    values: Mapping[str, float],
    *,
    write: Callable[[str], object] = write_line,
    wall_clock: Callable[[], float] = time.time,
) -> None:
    """Write one document with just these values, for a job that runs once and ends.

    Raises KeyError for a name that no alarm or dashboard knows.
    """
    unknown = [name for name in values if name not in UNITS]
    if unknown:
        raise KeyError(unknown[0])
    write(_document(dict(zip(DIMENSIONS, (stack, service), strict=True)), values, wall_clock()))


def _document(identity: Mapping[str, str], values: Mapping[str, object], now: float) -> str:
    metrics = [
        {"Name": name, "Unit": UNITS[name]} | ({"StorageResolution": 1} if name in HIGH_RESOLUTION else {})
        for name in values
    ]
    directive = {"Namespace": NAMESPACE, "Dimensions": [list(DIMENSIONS)], "Metrics": metrics}
    header = {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]}
    return orjson.dumps({"_aws": header, **identity, **values}).decode()


def _distribution(seen: Distribution) -> dict[str, object]:
    """EMF's form of many values: at most MAX_VALUES values with how often each was seen."""
    bins = seen.bins
    width = 1
    while len({index // width for index in bins}) > MAX_VALUES:
        width *= 2
    merged: Counter[int] = Counter()
    for index, times in bins.items():
        merged[index // width] += times
    ordered = sorted(merged)
    values = [round(BIN_RATIO ** ((index + 0.5) * width - 0.5), 3) for index in ordered]
    counts = [merged[index] for index in ordered]
    return {
        "Values": values,
        "Counts": counts,
        "Min": values[0],
        "Max": values[-1],
        "Count": sum(counts),
        "Sum": round(seen.total, 3),
    }
