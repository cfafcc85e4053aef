"""What a collector gets, read with OpenTelemetry's own messages; and that nothing waits for one that is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.keys import Identity
from app.models import Usage
from app.observability import otlp, telemetry, trace
from app.observability.telemetry import QUEUE_REQUESTS, STOP_SECONDS, Telemetry
from app.pipeline.phases import Phases
from app.pipeline.record import Record
from tests.app.conftest import free_port, wait_until
from tests.app.replica import Replica, replica

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """A real HTTP server that takes OTLP in JSON, or answers with `statuses` first."""

    url: str
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def messages(self, path: str, kind: Any) -> list[Any]:
        """What came to a path, read strictly: an unknown field or a wrong type fails."""
        return [json_format.ParseDict(body, kind()) for to, body in self.got if to == path]

    def spans(self) -> list[Any]:
        """Every span that was taken."""
        resources = [each for m in self.messages("/v1/traces", ExportTraceServiceRequest) for each in m.resource_spans]
        return [span for each in resources for scope in each.scope_spans for span in scope.spans]

    def metrics(self) -> dict[str, Any]:
        """The last state of each metric."""
        sent = self.messages("/v1/metrics", ExportMetricsServiceRequest)
        scopes = [scope for m in sent for each in m.resource_metrics for scope in each.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = collector.statuses.pop(0) if collector.statuses else 200
            if status == 200:
                assert self.headers["content-type"] == "application/json"
                collector.got.append((self.path, json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


def hexed(identifier: bytes) -> str:
    """An id that JSON holds in hexadecimal, which protobuf's own reader takes for base64."""
    import base64

    return base64.b64encode(identifier).decode()


def answered(**fields: Any) -> Record:
    """The record of a call that was answered."""
    now = time.perf_counter()
    phases = Phases(now - 1.0, asked_at=now - 0.9, began_at=now - 0.9, first_token_at=now - 0.5, succeeded=True)
    made: dict[str, Any] = {"model": "gpt-6-luna", "stream": True, "status": 200, "usage": Usage(7, 2, 0, 5)} | fields
    identity = Identity("acme", "0123456789ab", "ci", "user", None, None)
    step = trace.Trace(TRACE, "1" * 16, SPAN, 1)
    return Record("req_1", "/v1/responses", identity, phases=phases, trace=step, **made)


@pytest.mark.process
def test_a_collector_gets_spans_and_metrics_by_their_genai_names(task: dict[str, str], key: str) -> None:
    with collecting() as collector, replica(task | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as process:
        head = {"authorization": f"Bearer {key}", "content-type": "application/json", "cache-control": "no-store"}
        stream = b'{"model":"fast","input":"hi","stream":true}'
        parent = f"00-{TRACE}-{SPAN}-01"
        status, answered_with, _ = process.send("POST", "/v1/responses", stream, head | {"traceparent": parent})
        assert status == 200
        assert process.send("POST", "/v1/responses", stream, head | {"traceparent": parent[:-1] + "0"})[0] == 200
        assert process.send("POST", "/v1/responses", b'{"model":"gpt-0","input":"hi"}', head)[0] == 404
        line = process.line_of(answered_with["x-request-id"])
        assert process.terminate() == 0, "what is left is sent on the way out"
    spans = {span.name: span for span in collector.spans() if hexed(span.trace_id) == TRACE}
    assert set(spans) == {"POST /v1/responses", "chat gpt-6-luna"}, "the trace that is not sampled has none"
    outer, inner = spans["POST /v1/responses"], spans["chat gpt-6-luna"]
    assert (hexed(outer.span_id), hexed(outer.parent_span_id)) == (line["span_id"], SPAN)
    assert inner.parent_span_id == outer.span_id
    assert (outer.kind, inner.kind) == (otlp.SERVER, otlp.CLIENT)
    assert outer.start_time_unix_nano <= inner.start_time_unix_nano < inner.end_time_unix_nano
    assert abs(inner.end_time_unix_nano / 1e9 - time.time()) < 600
    assert attributes(inner) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-6-luna",
        "gen_ai.response.model": "gpt-6-luna",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": line["input_tokens"],
        "gen_ai.usage.output_tokens": line["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": line["cached_tokens"],
        "prodkit.request_id": line["request_id"],
        "prodkit.upstream_request_id": line["upstream_request_id"],
    }
    refused = next(span for span in collector.spans() if attributes(span).get("error.type") == "model_not_found")
    assert (refused.status.code, attributes(refused)["http.response.status_code"]) == (otlp.ERROR, 404)
    metrics = collector.metrics()
    assert set(metrics) == {otlp.DURATION, otlp.FIRST_CHUNK, otlp.TOKENS}
    [duration] = metrics[otlp.DURATION].histogram.data_points
    assert duration.count == 2, "every call to a model, sampled or not"
    types = {attributes(p)["gen_ai.token.type"]: p for p in metrics[otlp.TOKENS].histogram.data_points}
    assert types["input"].sum == 2 * line["input_tokens"]
    assert "seen" not in json.dumps([body for path, body in collector.got if "metr" in path]), "no tenant"


def sending(url: str, dropped: list[int]) -> Telemetry:
    return Telemetry(url, "dev", "web", dropped=dropped.append)


async def test_a_collector_that_comes_back_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SPANS_SECONDS", 0.01)
    monkeypatch.setattr(telemetry, "LEAST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(telemetry, "BATCH_REQUESTS", 128)
    dropped: list[int] = []
    with collecting() as collector:
        collector.statuses = [503, 429, 200]
        sender = sending(collector.url, dropped)
        sender.start()
        for _ in range(300):
            sender.add(answered(method="POST"), time.perf_counter())
        await asyncio.to_thread(wait_until, lambda: len(collector.got) >= 3)
        await sender.stop()
        assert len(collector.spans()) == 600
        assert collector.metrics()[otlp.DURATION].histogram.data_points[0].count == 300
    assert dropped == []


async def test_what_a_collector_refuses_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []
    with collecting() as collector:
        collector.statuses = [400]
        sender = sending(collector.url, dropped)
        sender.start()
        sender.add(answered(), time.perf_counter())
        await sender.stop()
    assert dropped == [1]
    assert collector.spans() == []


@pytest.mark.parametrize("away", ["hangs", "closed"])
async def test_a_collector_that_is_away_costs_a_bounded_queue_and_holds_up_no_stop(away: str) -> None:
    dropped: list[int] = []
    held = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1] if away == "hangs" else free_port()
    sender = sending(f"http://127.0.0.1:{port}", dropped)
    sender.start()
    record = answered()
    for _ in range(QUEUE_REQUESTS + 50):
        sender.add(record, time.perf_counter())
    assert sum(dropped) == 50
    async with asyncio.timeout(5 * STOP_SECONDS):
        await sender.stop()
    assert sum(dropped) == QUEUE_REQUESTS + 50
    held.set()
    server.close()
    await server.wait_closed()


def test_without_an_endpoint_none_of_it_is_even_loaded() -> None:
    exporter = {"app.observability.otlp", "app.observability.telemetry"}
    code = f"import app.serving.web, app.services, app.pipeline, sys; print({exporter} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60))
def test_a_histogram_counts_each_value_in_its_bucket(values: list[float]) -> None:
    histograms = otlp.Histograms()
    for value in values:
        phases = Phases(0.0, asked_at=0.0, began_at=0.0, answered_at=value, succeeded=True)
        histograms.add(otlp.Finished(Record("r", "/v1/responses", phases=phases, model="m"), value))
    [metric] = histograms.document({})["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    [point] = metric["histogram"]["dataPoints"]
    bounds, counts = point["explicitBounds"], [int(count) for count in point["bucketCounts"]]
    assert int(point["count"]) == sum(counts) == len(values)
    assert len(counts) == len(bounds) + 1
    for at, bound in enumerate(bounds):
        assert sum(counts[: at + 1]) == sum(value <= bound for value in values)


def test_endless_names_of_errors_end_in_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_SERIES", 5)
    histograms = otlp.Histograms()
    for number in range(20):
        histograms.add(otlp.Finished(answered(error_code=f"e{number}"), time.perf_counter()))
    assert len(histograms.series[otlp.DURATION]) == 6
    rest = histograms.series[otlp.DURATION][("otel.metric.overflow", True),]
    assert sum(rest.counts) == 15


@pytest.mark.parametrize(
    ("path", "name"),
    [("/documents/doc_1", "GET /documents/{id}"), ("/v1/models/x", "GET /v1/models/{id}"), ("/any/thing", "GET")],
)
def test_a_callers_path_makes_no_new_name(path: str, name: str) -> None:
    record = Record("req_1", path, method="GET", trace=trace.Trace(TRACE, "1" * 16, None, 1))
    [span] = otlp.spans([otlp.Finished(record, time.perf_counter())])
    assert span["name"] == name


def test_the_replica_of_other_tests_exports_nothing(gateway: Replica) -> None:
    assert not [line for line in gateway.lines if "telemetry" in line]
