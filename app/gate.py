"""How many requests are served at once: a hard bound, so that the admitted ones stay fast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.errors import ApiError

if TYPE_CHECKING:
    from app.metrics import Metrics

RETRY_AFTER_SECONDS = 1
"""Another replica has room at once; this one may have within a second."""


class Gate:
    """Lets at most `limit` requests in; counts the ones inside for scaling."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Holds a place inside the `with` block; raises ApiError 503 `overloaded` when there is none."""
        if self._metrics.in_flight >= self._limit:
            raise ApiError(
                "overloaded",
                f"This replica serves {self._limit} requests already; retry after {RETRY_AFTER_SECONDS} s.",
                headers={"retry-after": str(RETRY_AFTER_SECONDS)},
            )
        with self._metrics.request():
            yield
