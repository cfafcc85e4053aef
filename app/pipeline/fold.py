"""Step: make one answer out of a stream that only we asked for, to cut it at a stop sequence."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import orjson

from app.errors import ApiError
from app.ledger import Outcome
from app.pipeline.answer import Answer
from app.pipeline.cut import CutStream

if TYPE_CHECKING:
    from app.observability.metrics import Metrics
    from app.pipeline.attempt import OpenStream
    from app.pipeline.choose import Plan
    from app.pipeline.pay import Payment
    from app.pipeline.record import Record
    from app.pipeline.stream import StreamEnd


async def fold(
    opened: OpenStream, plan: Plan, record: Record, metrics: Metrics, payment: Payment, *, deadline: float
) -> Answer:
    """The whole answer at the end of the stream; raises ApiError when it does not come to one, and charges that.

    `deadline` is a time of the running loop's clock.
    """
    record.phases.succeeded = True
    ends: list[StreamEnd] = []
    # Nobody reads on the way, so no silence needs filling before the deadline.
    stream = CutStream(opened, plan, metrics, deadline=deadline, heartbeat_seconds=float("inf"), on_end=ends.append)
    try:
        async with contextlib.aclosing(stream):
            async for _ in stream:
                pass
        record.phases.first_token_at = ends[0].first_token_at
        code = ends[0].error_code
        if code == "upstream_timeout":
            raise ApiError("upstream_timeout", "OpenAI did not answer in time; try again, or stream.")
        if code is not None:
            raise ApiError("upstream_incomplete", f"OpenAI's answer broke off ({code}); try again.")
    except BaseException as error:
        outcome = Outcome.FAILED if isinstance(error, ApiError) else Outcome.CANCELLED
        payment.settle(opened.meter.usage, outcome, output_bytes=opened.meter.output_bytes, upstream=opened.request_id)
        raise
    headers = [(name, value) for name, value in opened.headers if name != "content-type"]
    headers.append(("content-type", "application/json"))
    body = orjson.dumps(stream.response)
    return Answer(200, headers, body, stream.response, opened.request_id, usage_estimated=opened.meter.usage is None)
