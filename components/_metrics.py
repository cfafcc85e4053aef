"""The names of the app's own metrics, as alarms, dashboard and autoscaling read them.

The app writes the same names (`app/observability/metrics.py`). Dimensions are never more than these two: every further
value is a metric of its own on the bill.
"""

NAMESPACE = "Prodkit"
STACK_DIMENSION = "Stack"
SERVICE_DIMENSION = "Service"

WEB = "web"
WORKER = "worker"
# Jobs of these names: the word after `python -m app job`.
ROTATE_KEY = "rotate-key"
SETTLE_SUSPENSE = "settle-suspense"

# Emitted at this interval with StorageResolution 1, so that scaling out need not wait for a minute to pass.
INTERVAL_SECONDS = 10

IN_FLIGHT_REQUESTS = "InFlightRequests"
REQUESTS = "Requests"
CALLER_ERRORS = "CallerErrors"
POLICY_ERRORS = "PolicyErrors"
UPSTREAM_ERRORS = "UpstreamErrors"
INTERNAL_ERRORS = "InternalErrors"
REQUEST_LATENCY_MS = "RequestLatencyMs"
TIME_TO_FIRST_TOKEN_MS = "TimeToFirstTokenMs"  # noqa: S105 the name of a metric
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
FIRST_TOKEN_TIMEOUTS = "FirstTokenTimeouts"  # noqa: S105 the name of a metric
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

NAMES = frozenset(
    {
        IN_FLIGHT_REQUESTS,
        REQUESTS,
        CALLER_ERRORS,
        POLICY_ERRORS,
        UPSTREAM_ERRORS,
        INTERNAL_ERRORS,
        REQUEST_LATENCY_MS,
        TIME_TO_FIRST_TOKEN_MS,
        RECEIVE_MS,
        OVERHEAD_MS,
        PROMPT_MS,
        GENERATION_MS,
        WHOLE_ANSWER_MS,
        OPENAI_PROCESSING_MS,
        INPUT_TOKENS,
        OUTPUT_TOKENS,
        CACHED_INPUT_TOKENS,
        SPEND_USD,
        CACHE_HITS,
        CACHE_MISSES,
        RATE_LIMITED,
        QUEUED_REQUESTS,
        QUEUE_WAIT_MS,
        LIMITER_CALLS,
        UPSTREAM_RATE_LIMITED,
        OPENAI_HEADROOM_PERCENT,
        RETRIES,
        FALLBACKS,
        BREAKER_OPEN,
        KEY_BREAKER_OPEN,
        FIRST_TOKEN_TIMEOUTS,
        INVALID_ANSWERS,
        STOP_CUTS,
        SHED_REQUESTS,
        TELEMETRY_DROPPED,
        HELD_REQUESTS,
        DEGRADED_REQUESTS,
        BUDGET_SPENT_USD,
        BUDGET_RESERVED_USD,
        BUDGET_SUSPENSE_USD,
        BUDGET_HEADROOM_USD,
        BUDGET_RUNG,
        BUDGET_WATCH,
        MERGED_REQUESTS,
        MERGED_CALLS,
        DEFERRED_ACCEPTED,
        DEFERRED_ANSWERED,
        DEFERRED_GIVEN_UP,
        DEFERRED_OVERDUE,
        DEFERRED_BATCHES,
        DOCUMENTS_INGESTED,
        DOCUMENTS_FAILED,
        METER_HEARTBEAT,
        JOB_RUNS,
        JOB_FAILURES,
        KEY_AGE_DAYS,
    }
)

# What a job reports when it runs: it has alarms, and is too seldom for a chart.
OF_JOBS = frozenset({JOB_RUNS, JOB_FAILURES, KEY_AGE_DAYS})


def dimensions(stack: str, service: str) -> dict[str, str]:
    """The whole set of dimensions of every metric of one service."""
    return {STACK_DIMENSION: stack, SERVICE_DIMENSION: service}
