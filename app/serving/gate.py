"""How many requests are served at once: a hard bound, so that the admitted ones stay fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.limits.queue import BACKGROUND, INTERACTIVE, PRIORITY_HEADER
from app.observability.metrics import SHED_REQUESTS
from app.pipeline.bound import MAX_BODY_BYTES

if TYPE_CHECKING:
    from app.observability.metrics import Metrics

BACKGROUND_PERCENT = 50
"""Of the places: background requests get in while fewer than this share are taken, so they are shed first."""
SMALL_BODY_BYTES = 64 * 1024
"""A place has room for a body of this size; longer ones share a bound of their own."""
MAX_DIGITS = 16  # of a length; more is no length
RETRY_AFTER_SECONDS = {INTERACTIVE: (1, 3), BACKGROUND: (5, 15)}
"""When to come back, by chance between these: those who were shed together must not return together."""

NOTHING_SAID: Mapping[str, str] = MappingProxyType({})


class Gate:
    """Lets in at most `limit` requests with at most `body_bytes` of long bodies; counts those inside for scaling."""

    def __init__(
        self, limit: int, metrics: Metrics, body_bytes: int, *, chance: Callable[[int, int], int] = random.randint
    ) -> None:
        """`chance` gives a whole number between two, both included."""
        self._limit = limit
        self._background_limit = limit * BACKGROUND_PERCENT // 100
        self._metrics = metrics
        self._body_bytes = body_bytes
        self._body_bytes_inside = 0
        self._chance = chance
        self._place = Place(self, 0)
        """Of every request whose body is small: a place keeps nothing of the one that holds it."""

    @property
    def body_bytes(self) -> int:
        """Bytes of long request bodies inside, as their requests announced them."""
        return self._body_bytes_inside

    @property
    def full(self) -> bool:
        """Whether even an interactive request is refused."""
        return self._metrics.in_flight >= self._limit

    def enter(self, headers: Mapping[str, str] = NOTHING_SAID) -> Place:
        """A place, held inside a `with` block. `headers` are the request's, names in lower case; nothing is read.

        Raises ApiError 503 `overloaded` when there is no place, 400 for an unknown priority.
        """
        said, wish = headers.get("content-length", "0"), headers.get(PRIORITY_HEADER)
        size = int(said) if said.isdecimal() and len(said) < MAX_DIGITS else MAX_BODY_BYTES
        if "transfer-encoding" in headers:
            size = MAX_BODY_BYTES  # not said, so as long as is allowed
        priority = INTERACTIVE if wish is None else _priority(wish)
        limit = self._limit if priority == INTERACTIVE else self._background_limit
        if self._metrics.in_flight >= limit:
            raise self._shed(priority, f"This replica serves {limit} {priority} requests already")
        # A longer one is refused by its length, whatever was announced.
        size = 0 if size <= SMALL_BODY_BYTES else min(size, MAX_BODY_BYTES)
        if size and self._body_bytes_inside + size > self._body_bytes:
            raise self._shed(priority, "This replica holds as many long request bodies as it has room for")
        return Place(self, size) if size else self._place

    def take(self, size: int) -> None:
        """For a place: a request with so many bytes of a long body goes in."""
        self._body_bytes_inside += size
        self._metrics.start()

    def give_back(self, size: int) -> None:
        """For a place: it is out again."""
        self._body_bytes_inside -= size
        self._metrics.finish()

    def _shed(self, priority: str, why: str) -> ApiError:
        self._metrics.count(SHED_REQUESTS)
        seconds = str(self._chance(*RETRY_AFTER_SECONDS[priority]))
        return ApiError("overloaded", f"{why}; retry after {seconds} s.", headers={"retry-after": seconds})


class Place:
    """What one request takes of a gate, from the beginning of a `with` block to its end."""

    __slots__ = ("_gate", "_size")

    def __init__(self, gate: Gate, size: int) -> None:
        self._gate = gate
        self._size = size

    def __enter__(self) -> None:
        self._gate.take(self._size)

    def __exit__(self, *_: object) -> None:
        self._gate.give_back(self._size)


def _priority(value: str) -> str:
    text = value.strip().lower()
    if text not in RETRY_AFTER_SECONDS:
        message = f"'{PRIORITY_HEADER}' is '{text[:40]}'; send {INTERACTIVE} (the default) or {BACKGROUND}."
        raise ApiError("invalid_value", message, param=PRIORITY_HEADER)
    return text
