"""What a replica has learnt about OpenAI's health, shared by all its requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from app.errors import ApiError
from app.observability.metrics import BREAKER_OPEN, KEY_BREAKER_OPEN
from app.resilience.breaker import CLOSED, PROBE, REFUSED, Breaker, Entry
from app.resilience.budget import RetryBudget

if TYPE_CHECKING:
    from app.observability.metrics import Metrics

KEY_OPEN_SECONDS = 30.0
"""A quota that is used up comes back when a person acts, not within seconds."""


class Resilience:
    """One retry budget, one breaker a model, one breaker for the OpenAI key."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`clock` is monotonic, `chance` gives numbers from 0 to 1, `sleep` waits so many seconds."""
        self.chance = chance
        self.sleep = sleep
        self.budget = RetryBudget()
        self.metrics = metrics
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}  # as many as the models documents ever name
        self._key_breaker = Breaker(
            lambda: metrics.count(KEY_BREAKER_OPEN), clock=clock, chance=chance, open_seconds=KEY_OPEN_SECONDS
        )
        self._refused_key: str | None = None

    def breaker(self, model: str) -> Breaker:
        """The breaker of a model."""
        found = self._breakers.get(model)
        if found is None:
            found = self._breakers[model] = Breaker(
                lambda: self.metrics.count(BREAKER_OPEN), clock=self._clock, chance=self.chance
            )
        return found

    def enter_key(self, key: str) -> Entry:
        """Whether a call may be made with this key; raises ApiError 503 `upstream_quota_exhausted` when it may not."""
        if self._key_breaker.closed or key != self._refused_key:
            return CLOSED
        entry = self._key_breaker.enter()
        if entry is REFUSED:
            raise quota_exhausted(None)
        return entry

    def settle_key(self, entry: Entry, paid: bool | None) -> None:
        """Whether the account behind the key could pay for the call; None when the call does not say."""
        if entry is PROBE:
            self._key_breaker.settle(entry, paid)

    def refuse_key(self, key: str, entry: Entry) -> None:
        """OpenAI says that the account behind the key cannot pay: no call with it, until a probe says otherwise."""
        if entry is PROBE:
            self._key_breaker.settle(entry, healthy=False)
        elif self._key_breaker.closed or key != self._refused_key:
            self._key_breaker.open()
        self._refused_key = key

    def unavailable(self, model: str) -> ApiError:
        """The refusal of a call to a model whose breaker is open; says when to come back, spread by chance."""
        seconds = max(1, round(self.breaker(model).seconds_left + self.chance() + 0.5))
        return ApiError(
            "upstream_unavailable",
            f"OpenAI's {model} fails at the moment and is not asked; retry after {seconds} s.",
            headers={"retry-after": str(seconds)},
        )


def quota_exhausted(code: str | None) -> ApiError:
    """The refusal of a call that OpenAI will not do until a person acts; clients must not try again by themselves."""
    why = f" ({code})" if code else ""
    return ApiError(
        "upstream_quota_exhausted",
        f"The quota or the credit of this service at OpenAI is used up{why}; an operator has to raise it.",
        headers={"x-should-retry": "false"},
    )
