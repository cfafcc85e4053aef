"""How often this replica may ask OpenAI again: retries must not double the load of an upstream that is failing."""

from __future__ import annotations

SHARE = 0.1
"""Retries per request: each request earns this much of one."""
RESERVE = 10.0
"""Retries that a quiet replica has saved at most. Over any stretch of n requests: at most RESERVE + SHARE * n."""


class RetryBudget:
    """A bucket of retries, shared by all models of a replica. It is filled by requests, not by time."""

    def __init__(self) -> None:
        self._saved = RESERVE

    @property
    def saved(self) -> float:
        """Retries left at this moment."""
        return self._saved

    def earn(self) -> None:
        """A request is made."""
        if self._saved < RESERVE:
            self._saved = min(RESERVE, self._saved + SHARE)

    def take(self) -> bool:
        """Spend one retry; False when there is none."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
