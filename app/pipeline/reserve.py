"""Step: may this key use that many tokens this minute? Taken before the call, settled after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.keys import Identity
    from app.limits import Grant, Limiter
    from app.pipeline.choose import Plan


async def reserve_tokens(limiter: Limiter, identity: Identity, plan: Plan) -> Grant:
    """A grant for the most the call may use; raises ApiError 429 `rate_limit_exceeded` with when to come back."""
    return await limiter.reserve(identity, plan.model.name, plan.input_tokens + plan.output_tokens)
