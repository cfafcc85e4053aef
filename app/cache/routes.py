"""DELETE /cache: a tenant makes its own kept answers unreachable, all of them or those of one tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response
from starlette.routing import Route

from app.cache.wishes import check_tag
from app.pipeline.authenticate import authenticate

if TYPE_CHECKING:
    from starlette.requests import Request

    from app.services import Services


def routes(services_of: Callable[[], Services]) -> list[Route]:
    """The one route; `services_of` is called when a request comes."""

    async def delete(request: Request) -> Response:
        """Answered once no replica gives such an answer any more; 503 when that cannot be known."""
        services = services_of()
        identity = await authenticate(request.headers.get("authorization"), services.keys)
        request.state.identity = identity
        tag = request.query_params.get("tag")
        if tag is not None:
            check_tag(tag, "tag")
        await services.cache.watch.invalidate(identity.tenant, tag or "")
        return Response(orjson.dumps({"object": "cache.invalidated", "tag": tag}), media_type="application/json")

    return [Route("/cache", delete, methods=["DELETE"])]
