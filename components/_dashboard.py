"""The dashboard of a stack, as the JSON that CloudWatch reads; leaves may be outputs."""

from collections.abc import Sequence
from typing import Any

import pulumi

from components import _metrics

Text = pulumi.Input[str]
_COLUMNS = 3
_WIDTH = 24 // _COLUMNS
_HEIGHT = 6
_LOG_HEIGHT = 7


def body(
    *,
    stack: str,
    region: Text,
    cluster: Text,
    services: dict[str, Text],
    load_balancer: Text,
    target_groups: Sequence[Text],
    queue: Text,
    dead_letters: Text,
    log_groups: list[Text],
) -> dict[str, Any]:
    """Three columns: what callers feel, what it costs and what the tasks do; below them the latest failures."""
    app = _app_charts(stack)
    aws = [
        ("Balancer", _balancer_series(load_balancer, target_groups)),
        (
            "CPU and memory, %",
            [
                ["AWS/ECS", metric, "ClusterName", cluster, "ServiceName", name, _drawn("Average", f"{kind} {what}")]
                for kind, name in services.items()
                for metric, what in (("CPUUtilization", "cpu"), ("MemoryUtilization", "memory"))
            ],
        ),
        (
            "Queue",
            [
                _queue_series("ApproximateNumberOfMessagesVisible", queue, "waiting"),
                _queue_series("ApproximateAgeOfOldestMessage", queue, "oldest, s"),
                _queue_series("ApproximateNumberOfMessagesVisible", dead_letters, "dead letters"),
            ],
        ),
    ]
    charts = [_chart(place, title, region, metrics) for place, (title, metrics) in enumerate([*app, *aws])]
    rows = -(-len(charts) // _COLUMNS)
    return {"widgets": [*charts, _failures(rows * _HEIGHT, region, log_groups)]}


def _balancer_series(load_balancer: Text, target_groups: Sequence[Text]) -> list[list[Any]]:
    def series(metric: str, statistic: str, label: str, *group: Text) -> list[Any]:
        return ["AWS/ApplicationELB", metric, *group, "LoadBalancer", load_balancer, _drawn(statistic, label)]

    return [
        series("HTTPCode_ELB_5XX_Count", "Sum", "5xx of its own"),
        series("HTTPCode_Target_5XX_Count", "Sum", "5xx of tasks"),
        *(
            series("HealthyHostCount", "Minimum", label, "TargetGroup", group)
            for group, label in zip(target_groups, ("ready tasks", "ready tasks, other group"), strict=False)
        ),
    ]


def _queue_series(metric: str, queue: Text, label: str) -> list[Any]:
    return ["AWS/SQS", metric, "QueueName", queue, _drawn("Maximum", label)]


def _drawn(statistic: str, label: str) -> dict[str, str]:
    return {"stat": statistic, "label": label}


def _app_charts(stack: str) -> list[tuple[str, list[Any]]]:
    def web(metric: str, statistic: str, label: str) -> list[Any]:
        return _series(stack, _metrics.WEB, metric, statistic, label)

    def worker(metric: str, statistic: str, label: str) -> list[Any]:
        return _series(stack, _metrics.WORKER, metric, statistic, label)

    return [
        (
            "Requests and errors",
            [
                web(_metrics.REQUESTS, "Sum", "requests"),
                web(_metrics.INTERNAL_ERRORS, "Sum", "failed: us"),
                web(_metrics.UPSTREAM_ERRORS, "Sum", "failed: OpenAI"),
                web(_metrics.POLICY_ERRORS, "Sum", "refused: policy"),
                web(_metrics.CALLER_ERRORS, "Sum", "refused: caller"),
                web(_metrics.RATE_LIMITED, "Sum", "refused: rate"),
            ],
        ),
        (
            "Latency, ms",
            [
                web(_metrics.REQUEST_LATENCY_MS, "p50", "answer p50"),
                web(_metrics.REQUEST_LATENCY_MS, "p99", "answer p99"),
                web(_metrics.TIME_TO_FIRST_TOKEN_MS, "p50", "first token p50"),
                web(_metrics.TIME_TO_FIRST_TOKEN_MS, "p99", "first token p99"),
            ],
        ),
        (
            "Where the time goes, p50, ms",
            [
                web(_metrics.RECEIVE_MS, "p50", "caller: sending the request"),
                web(_metrics.OVERHEAD_MS, "p50", "this service"),
                web(_metrics.PROMPT_MS, "p50", "OpenAI: prompt, to the first token"),
                web(_metrics.GENERATION_MS, "p50", "OpenAI: generation"),
                web(_metrics.WHOLE_ANSWER_MS, "p50", "OpenAI: unstreamed answer"),
                web(_metrics.OPENAI_PROCESSING_MS, "p50", "OpenAI: by its own clock"),
            ],
        ),
        (
            "Where the time goes, p99, ms",
            [
                web(_metrics.RECEIVE_MS, "p99", "caller: sending the request"),
                web(_metrics.OVERHEAD_MS, "p99", "this service"),
                web(_metrics.PROMPT_MS, "p99", "OpenAI: prompt, to the first token"),
                web(_metrics.GENERATION_MS, "p99", "OpenAI: generation"),
                web(_metrics.WHOLE_ANSWER_MS, "p99", "OpenAI: unstreamed answer"),
            ],
        ),
        (
            "Requests in flight for each task",
            [web(_metrics.IN_FLIGHT_REQUESTS, "Average", "mean"), web(_metrics.IN_FLIGHT_REQUESTS, "Maximum", "most")],
        ),
        (
            "Spend, USD",
            [web(_metrics.SPEND_USD, "Sum", "web"), worker(_metrics.SPEND_USD, "Sum", "worker")],
        ),
        (
            "Tokens",
            [
                _named("input", web(_metrics.INPUT_TOKENS, "Sum", "input")),
                _named("cached", web(_metrics.CACHED_INPUT_TOKENS, "Sum", "input, cached by OpenAI")),
                [{"expression": "100 * cached / input", "label": "cached by OpenAI, %", "yAxis": "right"}],
                web(_metrics.OUTPUT_TOKENS, "Sum", "output"),
                worker(_metrics.INPUT_TOKENS, "Sum", "input of the worker"),
            ],
        ),
        (
            "Cache and documents",
            [
                web(_metrics.CACHE_HITS, "Sum", "cache hits"),
                web(_metrics.CACHE_MISSES, "Sum", "cache misses"),
                worker(_metrics.DOCUMENTS_INGESTED, "Sum", "documents ingested"),
                worker(_metrics.DOCUMENTS_FAILED, "Sum", "documents failed"),
            ],
        ),
        (
            "Requests that may wait",
            [
                web(_metrics.DEFERRED_ACCEPTED, "Sum", "accepted"),
                worker(_metrics.DEFERRED_ANSWERED, "Sum", "answered"),
                worker(_metrics.DEFERRED_GIVEN_UP, "Sum", "given up"),
                worker(_metrics.DEFERRED_BATCHES, "Sum", "batches"),
                web(_metrics.DEFERRED_OVERDUE, "Sum", "overdue, seen by a caller"),
                worker(_metrics.DEFERRED_OVERDUE, "Sum", "overdue, seen by the worker"),
            ],
        ),
        (
            "OpenAI in trouble",
            [
                web(_metrics.RETRIES, "Sum", "asked again"),
                web(_metrics.FALLBACKS, "Sum", "answered by a fallback"),
                web(_metrics.BREAKER_OPEN, "Sum", "breaker of a model opened"),
                web(_metrics.KEY_BREAKER_OPEN, "Sum", "breaker of the key opened"),
                web(_metrics.FIRST_TOKEN_TIMEOUTS, "Sum", "no first token in time"),
                web(_metrics.INVALID_ANSWERS, "Sum", "answers that are none"),
            ],
        ),
        (
            "Budget of the month, USD",
            [
                web(_metrics.BUDGET_SPENT_USD, "Maximum", "spent"),
                web(_metrics.BUDGET_RESERVED_USD, "Maximum", "leased by replicas"),
                web(_metrics.BUDGET_SUSPENSE_USD, "Maximum", "in suspense"),
                web(_metrics.BUDGET_HEADROOM_USD, "Minimum", "left"),
            ],
        ),
        (
            "Highest rung of any budget",
            [
                web(_metrics.BUDGET_RUNG, "Maximum", "rung: 1 told, 2-6 degraded, 7 refused"),
                web(_metrics.BUDGET_WATCH, "Sum", "looks at the budgets"),
            ],
        ),
        (
            "Waiting at limits",
            [
                web(_metrics.QUEUED_REQUESTS, "Maximum", "requests that wait on one replica, at most"),
                web(_metrics.QUEUE_WAIT_MS, "p50", "wait p50, ms"),
                web(_metrics.QUEUE_WAIT_MS, "p90", "wait p90, ms"),
            ],
        ),
        (
            "OpenAI's limits",
            [
                web(_metrics.OPENAI_HEADROOM_PERCENT, "Minimum", "left of the scarcest, %"),
                web(_metrics.UPSTREAM_RATE_LIMITED, "Sum", "refused by OpenAI"),
                web(_metrics.LIMITER_CALLS, "Sum", "lease calls to Valkey"),
            ],
        ),
        (
            "Bounds at work",
            [
                web(_metrics.TELEMETRY_DROPPED, "Sum", "telemetry dropped"),
                web(_metrics.SHED_REQUESTS, "Sum", "shed"),
                web(_metrics.HELD_REQUESTS, "Sum", "held"),
                web(_metrics.DEGRADED_REQUESTS, "Sum", "degraded"),
                web(_metrics.STOP_CUTS, "Sum", "cut at a stop sequence"),
                web(_metrics.MERGED_REQUESTS, "Sum", "shared a call to OpenAI"),
                web(_metrics.MERGED_CALLS, "Sum", "calls to OpenAI they shared"),
            ],
        ),
    ]


def _series(stack: str, service: str, metric: str, statistic: str, label: str) -> list[Any]:
    where = [part for pair in _metrics.dimensions(stack, service).items() for part in pair]
    return [_metrics.NAMESPACE, metric, *where, _drawn(statistic, label)]


def _named(id_: str, series: list[Any]) -> list[Any]:
    """A series that an expression of the same chart reads."""
    return [*series[:-1], {**series[-1], "id": id_}]


def _chart(place: int, title: str, region: Text, metrics: list[Any]) -> dict[str, Any]:
    return {
        "type": "metric",
        "x": place % _COLUMNS * _WIDTH,
        "y": place // _COLUMNS * _HEIGHT,
        "width": _WIDTH,
        "height": _HEIGHT,
        "properties": {"title": title, "region": region, "view": "timeSeries", "period": 60, "metrics": metrics},
    }


def _failures(top: int, region: Text, log_groups: list[Text]) -> dict[str, Any]:
    """The last failed requests, from the request log: the one place that knows tenant, key and model."""
    sources = pulumi.Output.all(*log_groups).apply(lambda names: " | ".join(f"SOURCE '{name}'" for name in names))
    fields = "fields time, domain, error_code, status, model, tenant, request_id, upstream_request_id"
    query = f'{fields} | filter event = "request" and status >= 500 | sort @timestamp desc | limit 50'
    return {
        "type": "log",
        "x": 0,
        "y": top,
        "width": 24,
        "height": _LOG_HEIGHT,
        "properties": {
            "title": "Failed requests",
            "region": region,
            "view": "table",
            "query": pulumi.Output.concat(sources, " | ", query),
        },
    }
