"""Rate limits as OpenAI enforces them: a token bucket for requests and one for tokens, per key and model.

A key stands for a project. Buckets refill continuously, so 60 requests a minute means one a second after the burst.
A request that fails later still counts; tokens are charged at admission and never given back.
"""

import math
from dataclasses import dataclass, field

from local.openai.clock import Clock
from local.openai.errors import ApiError
from local.openai.models import Model

_ROUNDING = 1e-6  # units; waiting exactly the announced time must be enough


@dataclass(slots=True)
class Bucket:
    """`limit` units a minute, refilled continuously; `level` is what is left now."""

    limit: int
    level: float
    filled_at: float

    def refill(self, now: float) -> None:
        """Add what has come in since the last look."""
        self.level = min(self.limit, self.level + (now - self.filled_at) * self.limit / 60)
        self.filled_at = now

    def seconds_until(self, amount: float) -> float:
        """Seconds until `amount` units are there; infinite when the limit is below it."""
        if amount > self.limit:
            return math.inf
        return max(0.0, (amount - self.level) * 60 / self.limit) if self.limit else 0.0


@dataclass(slots=True)
class Limits:
    """All buckets, the limits in force and who has which; `rpm` and `tpm` replace every model's own limits."""

    clock: Clock
    rpm: int | None = None
    tpm: int | None = None
    _rules: list[dict[str, str | int | None]] = field(default_factory=list)
    _buckets: dict[tuple[str, str, str], Bucket] = field(default_factory=dict)

    def set(self, rule: dict[str, str | int | None]) -> None:
        """Add a rule `{rpm, tpm, project_tpm, model, key}`; no model or key means all. Every bucket starts full."""
        self._rules.append(rule)
        self._buckets.clear()

    def reset(self) -> None:
        """Forget every rule and bucket."""
        self._rules.clear()
        self._buckets.clear()

    def take_request(self, key: str, model: Model) -> None:
        """Charge one request, or raise the 429."""
        self._take(key, model, "requests", 1)

    def take_tokens(self, key: str, model: Model, tokens: int) -> None:
        """Charge `tokens` to the model's bucket and, where a project cap is set, to the project's, or raise the 429."""
        self._take(key, model, "tokens", tokens)
        if self._limit(key, model, "project-tokens") is not None:
            self._take(key, model, "project-tokens", tokens)

    def headers(self, key: str, model: Model) -> dict[str, str]:
        """The `x-ratelimit-*` headers; times are until the bucket is full again."""
        headers = {}
        for unit in ("requests", "tokens", "project-tokens"):
            bucket = self._bucket(key, model, unit)
            if bucket is not None:
                headers[f"x-ratelimit-limit-{unit}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, math.floor(bucket.level)))
                headers[f"x-ratelimit-reset-{unit}"] = go_duration(bucket.seconds_until(bucket.limit))
        return headers

    def _limit(self, key: str, model: Model, unit: str) -> int | None:
        own: dict[str, int | None] = {
            "requests": model.requests_per_minute if self.rpm is None else self.rpm,
            "tokens": model.tokens_per_minute if self.tpm is None else self.tpm,
            "project-tokens": None,
        }
        name = {"requests": "rpm", "tokens": "tpm", "project-tokens": "project_tpm"}[unit]
        for rule in reversed(self._rules):
            value = rule.get(name)
            if isinstance(value, int) and rule.get("model") in (None, model.name) and rule.get("key") in (None, key):
                return value
        return own[unit]

    def _bucket(self, key: str, model: Model, unit: str) -> Bucket | None:
        place = (key, "" if unit == "project-tokens" else model.name, unit)
        bucket = self._buckets.get(place)
        if bucket is None:
            limit = self._limit(key, model, unit)
            if limit is None:
                return None
            bucket = self._buckets[place] = Bucket(limit, limit, self.clock.now())
        bucket.refill(self.clock.now())
        return bucket

    def _take(self, key: str, model: Model, unit: str, amount: int) -> None:
        bucket = self._bucket(key, model, unit)
        if bucket is None:
            return
        if bucket.level >= amount - _ROUNDING:
            bucket.level = max(0.0, bucket.level - amount)
            return
        raise _refused(bucket, model, unit, amount)


def _refused(bucket: Bucket, model: Model, unit: str, amount: int) -> ApiError:
    what, short = ("requests per min", "RPM") if unit == "requests" else ("tokens per min", "TPM")
    kind = "requests" if unit == "requests" else "tokens"
    wait = bucket.seconds_until(amount)
    if math.isinf(wait):
        text = (
            f"Request too large for {model.name} on {what} ({short}): Limit {bucket.limit}, Requested {amount}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
        return ApiError(429, text, "rate_limit_exceeded", kind=kind)
    milliseconds = max(1, math.ceil(wait * 1000))
    used = bucket.limit - math.floor(bucket.level)
    text = (
        f"Rate limit reached for {model.name} on {what} ({short}): Limit {bucket.limit}, Used {used}, "
        f"Requested {amount}. Please try again in {go_duration(wait)}."
    )
    headers = {"retry-after": str(max(1, math.ceil(wait))), "retry-after-ms": str(milliseconds)}
    return ApiError(429, text, "rate_limit_exceeded", kind=kind, headers=headers)


def go_duration(seconds: float) -> str:
    """Seconds the way Go prints a duration, to the millisecond: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(round(seconds * 1000, 6))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s" if rest % 1000 else f"{rest // 1000}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
