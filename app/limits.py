"""Requests and tokens a minute for each prodkit key: token buckets in Valkey, a local share when Valkey is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from app.errors import ApiError
from app.valkey import Script, Valkey, ValkeyAwayError

if TYPE_CHECKING:
    from app.keys import Identity
    from app.models import KeyLimits

log = logging.getLogger(__name__)

MINUTE_SECONDS = 60.0
ASSUMED_REPLICAS = 2  # a replica cut off from Valkey grants its part of the limit, never all of it
SWEEP_SECONDS = 600.0
SWEEP_BATCH = 200  # keys looked at by one SCAN
KEY_PREFIX = "{limit:"

# Both buckets of a key live in one hash, so one script in one slot decides on both, atomically. The hash has no TTL:
# Valkey serverless evicts volatile keys first, and an evicted bucket would be a full one. `sweep` removes full ones.
# A bucket is filled by the server's own clock; one that goes back fills nothing, one that leaps forward fills it once.
_REFILL = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local rpm, tpm = tonumber(ARGV[1]), tonumber(ARGV[2])
local minutes = math.max(0, now - (tonumber(state[3]) or now)) / 60000
local requests = math.min(rpm, (tonumber(state[1]) or rpm) + minutes * rpm)
local tokens = math.min(tpm, (tonumber(state[2]) or tpm) + minutes * tpm)
"""

_STORE = """
redis.call('HSET', KEYS[1], 'requests', string.format('%.6f', requests), 'tokens', string.format('%.6f', tokens),
  'at', string.format('%d', now), 'rpm', ARGV[1], 'tpm', ARGV[2])
"""

RESERVE = Script(
    _REFILL
    + """
local cost = tonumber(ARGV[3])
local granted = 0
if requests >= 1 and tokens >= cost then
  requests, tokens, granted = requests - 1, tokens - cost, 1
end
"""
    + _STORE
    + "return {granted, string.format('%.6f', requests), string.format('%.6f', tokens)}"
)

SETTLE = Script(
    _REFILL
    + "tokens = math.max(-tpm, math.min(tpm, tokens + tonumber(ARGV[3])))"
    + _STORE
    + "return string.format('%.6f', tokens)"
)

SWEEP = Script(
    """
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then return redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at', 'rpm', 'tpm')
for i = 1, 5 do
  state[i] = tonumber(state[i])
  if not state[i] then return 0 end
end
local minutes = math.max(0, now - state[3]) / 60000
if state[1] + minutes * state[4] >= state[4] and state[2] + minutes * state[5] >= state[5] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
)

SCRIPTS = (RESERVE, SETTLE, SWEEP)


@dataclass(frozen=True, slots=True)
class Grant:
    """Tokens taken from a key's bucket for one call; give the rest back by `Limiter.settle`, once."""

    key_id: str
    tokens: int
    requests_per_minute: int
    tokens_per_minute: int
    shared: bool
    """True = taken in Valkey, False = in this process while Valkey was away."""
    headers: dict[str, str]
    """`x-ratelimit-*` of the key after this grant."""


@dataclass(slots=True)
class Bucket:
    """The requests and tokens left to one key, filled continuously; `at` is the time of the numbers in seconds."""

    requests: float
    tokens: float
    at: float

    def refill(self, rpm: int, tpm: int, now: float) -> None:
        """Add what the time since `at` is worth, up to a minute's worth; a clock that went back adds nothing."""
        minutes = max(0.0, now - self.at) / MINUTE_SECONDS
        self.requests = min(float(rpm), self.requests + minutes * rpm)
        self.tokens = min(float(tpm), self.tokens + minutes * tpm)
        self.at = now

    def take(self, cost: int, needed: int) -> bool:
        """Take one request and `cost` tokens when one request and `needed` tokens are there, else nothing."""
        if self.requests < 1 or self.tokens < needed:
            return False
        self.requests -= 1
        self.tokens -= cost
        return True


@dataclass
class Limiter:
    """Reserves on an estimate before a call and reconciles with its usage after it."""

    valkey: Valkey
    defaults: Callable[[], KeyLimits]
    """Limits of a key that has none of its own."""
    max_local_keys: int
    """Buckets kept while Valkey is away; the one unused for longest goes first."""
    clock: Callable[[], float] = time.monotonic
    _local: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)
    _sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task that removes full buckets from Valkey each SWEEP_SECONDS or so."""
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="limits")

    async def stop(self) -> None:
        """Stop that task. Safe to call twice."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    async def reserve(self, identity: Identity, model: str, estimated_tokens: int) -> Grant:
        """Take one request and `estimated_tokens` from the key's buckets.

        Raises ApiError 429 `rate_limit_exceeded` when they are not there, with `x-ratelimit-*` and the seconds after
        which the same call fits; without `retry-after` when it can never fit.
        """
        defaults = self.defaults()
        rpm = identity.requests_per_minute or defaults.requests_per_minute
        tpm = identity.tokens_per_minute or defaults.tokens_per_minute
        cost = needed = max(0, estimated_tokens)
        if cost > tpm:
            raise ApiError(
                "rate_limit_exceeded",
                f"Request too large for {model} on tokens per min (TPM) of this key: Limit {tpm}, Requested {cost}. "
                "Send less input or a smaller output cap.",
                headers={"x-ratelimit-limit-tokens": str(tpm), "x-should-retry": "false"},
            )
        try:
            granted, requests, tokens = await self._reserve_shared(identity.key_id, rpm, tpm, cost)
            shared = True
        except ValkeyAwayError:
            rpm, tpm = max(1, rpm // ASSUMED_REPLICAS), max(1, tpm // ASSUMED_REPLICAS)
            # A call larger than the share, but within the key's limit, goes on a full bucket and leaves it in debt.
            needed = min(cost, tpm)
            granted, requests, tokens = self._reserve_local(identity.key_id, rpm, tpm, cost, needed)
            shared = False
        headers = rate_headers(rpm, tpm, requests, tokens)
        if not granted:
            raise _refusal(model, rpm, tpm, requests, tokens, needed, headers)
        return Grant(identity.key_id, cost, rpm, tpm, shared, headers)

    async def settle(self, grant: Grant, actual_tokens: int) -> None:
        """Give back what the call did not use, or take what it used beyond its estimate; never raises.

        A bucket may go below zero by at most one minute's worth: the next calls wait for it.
        """
        back = grant.tokens - max(0, actual_tokens)
        if back == 0:
            return
        rpm, tpm = grant.requests_per_minute, grant.tokens_per_minute
        if grant.shared:
            # Valkey went away since: what it holds by then is not known, and the bucket is full again within a minute.
            with contextlib.suppress(ValkeyAwayError):
                await SETTLE.call(self.valkey, _key(grant.key_id), rpm, tpm, back)
            return
        bucket = self._local.get(grant.key_id)
        if bucket is not None:
            bucket.refill(rpm, tpm, self.clock())
            bucket.tokens = max(-float(tpm), min(float(tpm), bucket.tokens + back))

    async def sweep(self) -> int:
        """Remove the buckets that are full, which is what a missing bucket means; returns how many were removed.

        Raises ValkeyAwayError.
        """
        client = self.valkey.client
        removed = 0
        async for key in client.scan_iter(match=f"{KEY_PREFIX}*", count=SWEEP_BATCH):
            removed += int(await self.valkey.run(partial(SWEEP.run, key=key)))
        return removed

    async def _sweep_forever(self) -> None:
        while True:
            # Not all replicas at the same moment.
            await asyncio.sleep(SWEEP_SECONDS * SystemRandom().uniform(0.5, 1.5))
            try:
                removed = await self.sweep()
                log.debug("full buckets removed", extra={"fields": {"count": removed}})
            except Exception as error:  # a sweep that failed is only late
                log.warning("sweep put off", extra={"fields": {"reason": type(error).__name__}})

    async def _reserve_shared(self, key_id: str, rpm: int, tpm: int, cost: int) -> tuple[bool, float, float]:
        answer: Any = await RESERVE.call(self.valkey, _key(key_id), rpm, tpm, cost)
        try:
            granted, requests, tokens = answer
            return granted == 1, float(requests), float(tokens)
        except (TypeError, ValueError) as error:
            raise ValkeyAwayError("Valkey gave an answer that is not the script's") from error

    def _reserve_local(self, key_id: str, rpm: int, tpm: int, cost: int, needed: int) -> tuple[bool, float, float]:
        now = self.clock()
        bucket = self._local.pop(key_id, None) or Bucket(rpm, tpm, now)
        self._local[key_id] = bucket
        while len(self._local) > self.max_local_keys:
            self._local.popitem(last=False)
        bucket.refill(rpm, tpm, now)
        return bucket.take(cost, needed), bucket.requests, bucket.tokens


def rate_headers(rpm: int, tpm: int, requests: float, tokens: float) -> dict[str, str]:
    """OpenAI's six rate-limit headers for a bucket of limits `rpm` and `tpm` with this much left."""
    return {
        "x-ratelimit-limit-requests": str(rpm),
        "x-ratelimit-limit-tokens": str(tpm),
        "x-ratelimit-remaining-requests": str(max(0, math.floor(requests))),
        "x-ratelimit-remaining-tokens": str(max(0, math.floor(tokens))),
        "x-ratelimit-reset-requests": go_duration(_seconds_until(rpm, requests, rpm)),
        "x-ratelimit-reset-tokens": go_duration(_seconds_until(tpm, tokens, tpm)),
    }


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond and never shorter than given: `0s`, `12ms`, `1.5s`, `6m0s`."""
    milliseconds = max(0, math.ceil(round(seconds * 1000, 6)))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _refusal(
    model: str, rpm: int, tpm: int, requests: float, tokens: float, needed: int, headers: dict[str, str]
) -> ApiError:
    wait = max(_seconds_until(1, requests, rpm), _seconds_until(needed, tokens, tpm))
    which = f"requests per min (RPM): Limit {rpm}" if requests < 1 else f"tokens per min (TPM): Limit {tpm}"
    milliseconds = max(1, math.ceil(round(wait * 1000, 6)))
    return ApiError(
        "rate_limit_exceeded",
        f"Rate limit reached for {model} on {which} of this key. Please try again in {go_duration(wait)}.",
        headers={
            **headers,
            "retry-after": str(math.ceil(milliseconds / 1000)),
            "retry-after-ms": str(milliseconds),
            "x-should-retry": "true",
        },
    )


def _seconds_until(wanted: float, have: float, per_minute: int) -> float:
    """Seconds until a bucket that gains `per_minute` holds `wanted`."""
    return max(0.0, wanted - have) * MINUTE_SECONDS / per_minute


def _key(key_id: str) -> str:
    return f"{KEY_PREFIX}{key_id}}}"
