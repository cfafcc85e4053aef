"""Step: has this tenant asked exactly this before? Only whole, complete, unstreamed answers are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache import CachedResponse, canonical
from app.pipeline.answer import Answer
from app.pipeline.meter import is_complete

if TYPE_CHECKING:
    from app.cache import ResponseCache
    from app.models import Usage
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call

HIT, MISS, BYPASS = "hit", "miss", "bypass"
_OPT_OUTS = frozenset({"no-cache", "no-store"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer of one call is kept."""

    tenant: str
    endpoint: str
    question: bytes


def place_of(call: Call, plan: Plan) -> Place | None:
    """The place for the answer to a plan, or None when it is not to be read or kept."""
    wishes = {wish.strip().lower() for wish in call.headers.get("cache-control", "").split(",")}
    if plan.stream or not plan.endpoint.cached or wishes & _OPT_OUTS:
        return None
    return Place(call.identity.tenant, plan.endpoint.path, canonical(plan.document))


async def look_up(cache: ResponseCache, place: Place) -> CachedResponse | None:
    """The kept answer, or None; a cache that is away or slow is a miss."""
    return await cache.get(place.tenant, place.endpoint, place.question)


async def keep(cache: ResponseCache, place: Place, plan: Plan, answer: Answer, usage: Usage) -> None:
    """Keep a complete answer."""
    if answer.status != 200 or not is_complete(plan.endpoint, answer.document):
        return
    response = CachedResponse(
        body=answer.body,
        content_type="application/json",
        model=plan.model.name,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )
    await cache.put(place.tenant, place.endpoint, place.question, response)
