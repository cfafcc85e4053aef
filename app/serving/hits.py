"""Requests that were answered before in the very same bytes: answered inside the call that reads them, without a task.

Every policy that such a request meets on the ASGI way is met here too, by the same functions. Whatever is not plain
(a header that makes it another request, a key that has to be read, a full replica) goes that way instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.limits.queue import PRIORITY_HEADER
from app.observability import trace
from app.pipeline.authenticate import known_identity
from app.pipeline.endpoints import ENDPOINTS
from app.pipeline.messages import Call
from app.pipeline.record import Record
from app.serving.protocol import Whole
from app.serving.v1 import new_request_id

if TYPE_CHECKING:
    from app.pipeline import Pipeline
    from app.services import Services
    from app.serving.gate import Gate

log = logging.getLogger(__name__)

PATHS = {path.encode(): path for path in ENDPOINTS}
"""Of requests that may be such, as they stand in a request's first line."""


class Hits:
    """Answers what the process holds, for one application."""

    def __init__(self, services: Services, gate: Gate, pipeline: Pipeline) -> None:
        self._services = services
        self._gate = gate
        self._pipeline = pipeline
        self._asked = services.cache.memory.asked

    def answer(
        self, path: bytes, raw: list[tuple[bytes, bytes]], headers: Mapping[str, str], body: bytes, held: float
    ) -> Whole | None:
        """See `AtOnce`."""
        if not self._asked(body):
            return None
        try:
            return self._answer(PATHS[path], raw, headers, body, held)
        except Exception:
            # The ASGI way finds out, and tells the caller.
            log.exception("a kept answer could not be given at once")
            return None

    def _answer(
        self, path: str, raw: list[tuple[bytes, bytes]], headers: Mapping[str, str], body: bytes, held: float
    ) -> Whole | None:
        began = time.perf_counter()
        if len(headers) != len(raw) or PRIORITY_HEADER in headers or self._gate.full:
            return None
        services = self._services
        identity = known_identity(headers.get("authorization"), services.keys)
        if identity is None:
            return None
        record = Record(new_request_id(), path, identity, "POST")
        record.phases.started = began - held
        record.phases.receive_seconds = held
        metrics = services.metrics
        record.sampled = metrics.telemetry is not None
        if trace.HEADER in headers:
            record.trace = trace.begin(raw, record.request_id, sampled=record.sampled)
        try:
            reply = self._pipeline.at_once(Call(path, body, identity, record.request_id, headers, record))
        except ApiError:
            return None
        if reply is None or not isinstance(reply.body, bytes):
            return None
        metrics.passed(time.perf_counter() - began)
        return Whole(reply.status, reply.headers, reply.body)
