"""The way of a request, one step a file, in one direction; no step knows the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import ApiError
from app.pipeline.messages import Call, Reply

if TYPE_CHECKING:
    from app.services import Services
    from app.upstream import Upstream

__all__ = ["Call", "Pipeline", "Reply"]


class Pipeline:
    """Runs calls with every policy on: bound, choose, isolate, look up, reserve, call, stream and meter, settle, record."""

    def __init__(self, services: Services, upstream: Upstream) -> None:
        self._services = services
        self._upstream = upstream

    async def run(self, call: Call) -> Reply:
        """Answer one call; raises ApiError before the first byte, and only then."""
        raise ApiError("unsupported_endpoint", f"{call.endpoint} is not served.")
