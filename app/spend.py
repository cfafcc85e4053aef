"""What each tenant spent this month: exact, in the ledger table, off the request's way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from app.aws import Aws, error_code
from app.errors import ApiError

if TYPE_CHECKING:
    from app.keys import Identity
    from app.models import Usage

log = logging.getLogger(__name__)

_Key = tuple[str, str]  # tenant and month

FLUSH_SECONDS = 1.0
SLOWEST_RETRY_SECONDS = 15.0
STOP_SECONDS = 10.0  # for what is unwritten when the process is told to stop
MAX_PENDING = 10_000  # tenants with unwritten amounts; a tenant's own amounts add up in one entry
WRITES_AT_ONCE = 4
ALIVE_SECONDS = 60.0  # unwritten for longer, the meter counts as dead


@dataclass(slots=True)
class Amount:
    """Sums not yet written for one tenant and month."""

    spent_pico: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class _Batch:
    """An amount on its way. Its token makes a repeated write count once, also when only the answer was lost."""

    amount: Amount
    token: str


class Spend:
    """Adds up usage in memory and writes it each FLUSH_SECONDS, again until it is written."""

    def __init__(
        self,
        aws: Aws,
        table: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._aws = aws
        self._table = table
        self._clock = clock
        self._wall_clock = wall_clock
        self._pending: dict[_Key, Amount] = {}
        self._batches: dict[_Key, _Batch] = {}
        self._failures = 0
        self._stopping = asyncio.Event()
        self._written_at = clock()
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()

    def start(self) -> None:
        """Start the task that writes."""
        self._task = asyncio.create_task(self._flush_forever(), name="spend")

    def alive(self) -> bool:
        """Whether what was spent up to ALIVE_SECONDS ago is in the ledger."""
        unwritten = bool(self._pending or self._batches)
        return not unwritten or self._clock() - self._written_at < ALIVE_SECONDS

    async def record(self, identity: Identity, model: str, usage: Usage, pico: int) -> None:
        """Add the usage and cost (pico-dollars) of one call of `model`; waits for nothing and never raises."""
        key = (identity.tenant, month_of(self._wall_clock()))
        if key not in self._pending and len(self._pending) >= MAX_PENDING:
            # The ledger is away and thousands of tenants are waiting for it: the log is the record of last resort.
            self._log_unwritten(*key, Amount(pico, 1, usage.input_tokens, usage.output_tokens), model=model)
            return
        if not self._pending and not self._batches:
            self._written_at = self._clock()
        amount = self._pending.setdefault(key, Amount())
        amount.spent_pico += max(0, pico)
        amount.requests += 1
        amount.input_tokens += max(0, usage.input_tokens)
        amount.output_tokens += max(0, usage.output_tokens)

    async def month(self, tenant: str) -> int:
        """Pico-dollars the tenant has spent this month (UTC): the ledger's and what this process has yet to write.

        Raises ApiError 503 `service_unavailable` when the ledger does not answer.
        """
        month = month_of(self._wall_clock())
        try:
            answer = await self._aws.call(
                "dynamodb", "get_item", TableName=self._table, Key=_key(tenant, month), ConsistentRead=True
            )
            written = int(answer.get("Item", {}).get("spent_pico", {}).get("N", "0"))
        except Exception as error:
            raise ApiError("service_unavailable", "The spend ledger does not answer. Try again in a second.") from error
        batch = self._batches.get((tenant, month))
        pending = self._pending.get((tenant, month))
        return written + (batch.amount.spent_pico if batch else 0) + (pending.spent_pico if pending else 0)

    async def flush(self) -> bool:
        """Try once to write everything that waits; True when nothing is left. Never raises."""
        async with self._flushing:
            # One batch a tenant and month at a time: while the ledger is away, new amounts add up in `_pending`.
            for key in [key for key in self._pending if key not in self._batches]:
                self._batches[key] = _Batch(self._pending.pop(key), str(uuid.uuid4()))
            turns = asyncio.Semaphore(WRITES_AT_ONCE)
            failed: list[_Key] = []
            await asyncio.gather(*(self._write(key, batch, turns, failed) for key, batch in self._batches.items()))
            self._failures = self._failures + 1 if failed else 0
            done = not self._batches and not self._pending
            if not failed:
                self._written_at = self._clock()
            return done

    async def stop(self) -> None:
        """Write what waits; what cannot be written goes to the log, amount by amount. Safe to call twice.

        No attempt begins after STOP_SECONDS; one takes a few seconds at most.
        """
        self._stopping.set()
        if self._task is not None:
            await self._task  # it ends after the write it is in: one that is cut off might count twice
            self._task = None
        deadline = self._clock() + STOP_SECONDS
        done = await self.flush()
        while not done and self._clock() < deadline:
            await asyncio.sleep(FLUSH_SECONDS / 2 if self._failures else 0)
            done = await self.flush()
        for (tenant, month), batch in self._batches.items():
            self._log_unwritten(tenant, month, batch.amount)
        for (tenant, month), amount in self._pending.items():
            self._log_unwritten(tenant, month, amount)
        self._batches.clear()
        self._pending.clear()

    async def _flush_forever(self) -> None:
        while not self._stopping.is_set():
            wait = min(FLUSH_SECONDS * 2 ** min(self._failures, 10), SLOWEST_RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):  # the usual end of the wait
                # Not all replicas at the same moment: they write the same items.
                await asyncio.wait_for(self._stopping.wait(), wait * SystemRandom().uniform(0.7, 1.3))
            if self._pending or self._batches:
                await self.flush()

    async def _write(self, key: _Key, batch: _Batch, turns: asyncio.Semaphore, failed: list[_Key]) -> None:
        amount = batch.amount
        update = {
            "TableName": self._table,
            "Key": _key(*key),
            "UpdateExpression": "ADD spent_pico :p, requests :r, input_tokens :i, output_tokens :o",
            "ExpressionAttributeValues": {
                ":p": {"N": str(amount.spent_pico)},
                ":r": {"N": str(amount.requests)},
                ":i": {"N": str(amount.input_tokens)},
                ":o": {"N": str(amount.output_tokens)},
            },
        }
        # A transaction of one, for its request token: an ADD that is sent again after a time-out counts once.
        write: dict[str, Any] = {"TransactItems": [{"Update": update}], "ClientRequestToken": batch.token}
        async with turns:
            if len(failed) >= WRITES_AT_ONCE:
                return  # the ledger is away: the rest of this round would only wait for the same
            try:
                await self._aws.call("dynamodb", "transact_write_items", **write)
            except Exception as error:
                if not failed and not self._failures:
                    fields = {"tenant": key[0], "reason": error_code(error)}
                    log.warning("spend not written yet; it is kept and tried again", extra={"fields": fields})
                failed.append(key)
                return
        self._batches.pop(key, None)

    def _log_unwritten(self, tenant: str, month: str, amount: Amount, **more: str) -> None:
        fields = {
            "tenant": tenant,
            "month": month,
            "spent_pico": amount.spent_pico,
            "requests": amount.requests,
            "input_tokens": amount.input_tokens,
            "output_tokens": amount.output_tokens,
            **more,
        }
        log.error("spend that is in no ledger: add it by hand", extra={"fields": fields})


def month_of(seconds: float) -> str:
    """The month of a time in UTC, `2026-11`."""
    return time.strftime("%Y-%m", time.gmtime(seconds))


def _key(tenant: str, month: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"B#tenant:{tenant}"}, "sk": {"S": f"M{month}"}}
