"""Step: what was reserved of a key's tokens beyond what a call used goes back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.pipeline.meter import NOTHING

if TYPE_CHECKING:
    from app.limits import Grant, Limiter
    from app.pipeline.record import Record


def settle_tokens(limiter: Limiter, grant: Grant, record: Record) -> None:
    """Bring the limits to what the record says was used; a call without usage was free. Off the critical path."""
    usage = record.usage or NOTHING
    limiter.settle(grant, usage.input_tokens + usage.output_tokens)
