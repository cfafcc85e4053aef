"""Step: a call's real usage goes to its tenant's account, and what was reserved beyond it goes back to its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.models import Usage
from app.pipeline.estimate import text_tokens
from app.pipeline.meter import NOTHING
from app.prices import DEFAULT

if TYPE_CHECKING:
    from app.keys import Identity
    from app.limits import Grant
    from app.pipeline.choose import Plan
    from app.pipeline.record import Record
    from app.services import Services


def estimated_usage(plan: Plan, output_bytes: int) -> Usage:
    """The usage of a call that OpenAI worked on but whose count never arrived."""
    return Usage(
        input_tokens=plan.input_tokens,
        cached_tokens=0,
        cache_write_tokens=0,
        output_tokens=text_tokens(output_bytes),
    )


def charge(record: Record, plan: Plan, usage: Usage, *, estimated: bool) -> None:
    """Put usage and price into the record."""
    record.usage = usage
    record.usage_estimated = estimated
    record.cost_pico = plan.model.tariff.served(DEFAULT, usage.input_tokens)[0].cost_pico(usage)


async def settle_usage(services: Services, identity: Identity, plan: Plan, grant: Grant, record: Record) -> None:
    """Bring limits and spend to what the record says was used; a call without usage was free. Off the critical path."""
    usage = record.usage or NOTHING
    services.limiter.settle(grant, usage.input_tokens + usage.output_tokens)
    if record.usage is not None:
        await services.spend.record(identity, plan.model.name, usage, record.cost_pico)
