"""Does the state table answer: without it no key can be checked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from app.aws import Aws, error_code

log = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # how long an answer counts, so that health checks do not load the table
PROBE_LIMIT_SECONDS = 2.0
FIRST_PROBE_LIMIT_SECONDS = 10.0  # until there was an answer: the first question also loads and builds the AWS client
GRACE_SECONDS = 30.0  # without an answer after a good one: a short fault must not take every replica out at once
_PROBE_KEY = {"pk": {"S": "HEALTH"}, "sk": {"S": "HEALTH"}}


class TableProbe:
    """Whether the state table answers, asked at most once each PROBE_SECONDS."""

    def __init__(self, aws: Aws, table: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._aws = aws
        self._table = table
        self._clock = clock
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._asking = asyncio.Lock()
        self.problem = "not asked yet"
        """Why the last question went unanswered; empty when it was answered."""

    async def check(self) -> bool:
        """Whether the table answered within GRACE_SECONDS; never raises."""
        async with self._asking:
            if self._clock() - self._asked_at >= PROBE_SECONDS:
                await self._ask()
        return self._clock() - self._answered_at < GRACE_SECONDS

    async def _ask(self) -> None:
        problem = ""
        limit = FIRST_PROBE_LIMIT_SECONDS if self._answered_at == float("-inf") else PROBE_LIMIT_SECONDS
        try:
            async with asyncio.timeout(limit):
                await self._aws.call("dynamodb", "get_item", TableName=self._table, Key=_PROBE_KEY)
        except Exception as error:
            problem = error_code(error)
        self._asked_at = self._clock()
        if not problem:
            self._answered_at = self._asked_at
        if problem and problem != self.problem:
            log.error("state table does not answer", extra={"fields": {"table": self._table, "reason": problem}})
        self.problem = problem
