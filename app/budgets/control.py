"""The switches that every replica obeys within two seconds: one item of the state table, read each second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from app.aws import Aws, error_code
from app.budgets.policy import Rung

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
READ_SECONDS = 1.0
"""For one read; with the second between two reads a switch is seen within two seconds of its write."""
FIRST_READ_SECONDS = 5.0  # the first one makes the client as well
CONTROL_KEY = {"pk": {"S": "CONTROL"}, "sk": {"S": "BUDGETS"}}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody stopped a scope's spending."""

    by: str
    why: str
    at: str
    """When, in UTC, `2026-11-22T19:00:00Z`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The rung of a scope, for as long as its window lasts."""

    rung: Rung
    until: float
    """The window's end, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the item said when it was read."""

    holds: Mapping[str, Hold] = field(default_factory=lambda: _NOTHING)
    """By scope."""
    rungs: Mapping[str, Standing] = field(default_factory=lambda: _NOTHING)
    """By scope; a scope that is not named is on the lowest rung."""


class ControlSource:
    """The control item as it was last read. When the table is away the last one stays in force."""

    def __init__(self, aws: Aws, table: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.current = Control()
        self._aws = aws
        self._table = table
        self._clock = clock
        self._problem = ""
        self._was_read = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once, and go on reading each second."""
        await self.poll()
        self._task = asyncio.create_task(self._poll_forever(), name="control")

    async def stop(self) -> None:
        """Stop reading. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def poll(self) -> None:
        """Read the item now; never raises."""
        problem = ""
        try:
            async with asyncio.timeout(READ_SECONDS if self._was_read else FIRST_READ_SECONDS):
                answer = await self._aws.call(
                    "dynamodb", "get_item", TableName=self._table, Key=CONTROL_KEY, ConsistentRead=True
                )
            self.current = read_control(answer.get("Item", {}))
            self._was_read = True
        except Exception as error:
            problem = error_code(error)
        if problem and problem != self._problem:
            log.error("budget switches cannot be read; the last ones stay", extra={"fields": {"reason": problem}})
        self._problem = problem

    async def _poll_forever(self) -> None:
        while True:
            began = self._clock()
            await self.poll()
            await asyncio.sleep(max(0.0, POLL_SECONDS - (self._clock() - began)))


def read_control(item: Mapping[str, Any]) -> Control:
    """The control that an item stands for; what makes no sense in it is left out."""
    holds: dict[str, Hold] = {}
    rungs: dict[str, Standing] = {}
    for scope, entry in item.get("holds", {}).get("M", {}).items():
        values = entry.get("M", {})
        # A hold whose fields are missing still holds: somebody wanted it.
        holds[scope] = Hold(*(values.get(name, {}).get("S", "?") for name in ("by", "why", "at")))
    for scope, entry in item.get("rungs", {}).get("M", {}).items():
        with contextlib.suppress(KeyError, ValueError):
            values = entry["M"]
            rungs[scope] = Standing(Rung(int(values["rung"]["N"])), float(values["until"]["N"]))
    return Control(holds, rungs)


def rungs_attribute(rungs: Mapping[str, Standing]) -> dict[str, Any]:
    """The item's attribute for rungs."""
    return {
        "M": {
            scope: {"M": {"rung": {"N": str(int(standing.rung))}, "until": {"N": f"{standing.until:.0f}"}}}
            for scope, standing in rungs.items()
        }
    }
