"""Removes full buckets from Valkey, where nothing of the limits has a time to live."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

from app.limits.scripts import KEY_PREFIX, SWEEP

if TYPE_CHECKING:
    from app.valkey.client import Valkey

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
SWEEP_BATCH = 200  # keys looked at by one SCAN


class Sweeper:
    """One replica's part of it."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task that sweeps each SWEEP_SECONDS or so."""
        self._task = asyncio.create_task(self._forever(), name="limits")

    async def stop(self) -> None:
        """End it. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def sweep(self) -> int:
        """Remove the buckets that are full, which is what a missing bucket means; returns how many were removed.

        Raises ValkeyAwayError.
        """
        client = self._valkey.client
        removed = 0
        async for key in client.scan_iter(match=f"{KEY_PREFIX}*", count=SWEEP_BATCH):
            removed += int(await self._valkey.run(partial(SWEEP.run, key=key)))
        return removed

    async def _forever(self) -> None:
        while True:
            # Not all replicas at the same moment.
            await asyncio.sleep(SWEEP_SECONDS * SystemRandom().uniform(0.5, 1.5))
            try:
                removed = await self.sweep()
                log.debug("full buckets removed", extra={"fields": {"count": removed}})
            except Exception as error:  # a sweep that failed is only late
                log.warning("sweep put off", extra={"fields": {"reason": type(error).__name__}})
