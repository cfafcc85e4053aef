"""OpenAI's own limit of one model, steered by the headers of its answers and shared by all replicas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.limits.scope import NEVER, NOTHING_TOLD, Limits, Scope

USED_PERCENT = 98
"""Of OpenAI's limit: the rest covers what is on its way between two answers."""
LOOK_SECONDS = 0.02
"""Headers of one model are read at most this often, as they all say the same; those of a refusal always."""
TOLERANCE_PERCENT = 1
"""Of the limit: a smaller difference to our own count is noise."""
LONGEST_PAUSE_SECONDS = 60.0
SLOW_DOWN_SECONDS = 5.0
"""When OpenAI asks for less traffic and does not say for how long."""
_NAMES = ("limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens")
_PREFIX = "x-ratelimit-"
_MOST = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call to OpenAI: what was believed to be left when it was sent, for comparison with what OpenAI says."""

    scope: UpstreamScope
    sent: float
    limits: Limits
    requests: float
    tokens: float
    offsets: tuple[float, float]


class UpstreamScope(Scope):
    """The requests and tokens a minute that OpenAI gives this project for one model; no limit until it says one."""

    __slots__ = ("_caps", "_limits_told", "_look", "_offsets", "_pause", "_targets", "_told_at")

    def __init__(self, key: str, slot: str, label: str) -> None:
        super().__init__(key, slot, label, Limits())
        self._look = NEVER
        self._told_at = NEVER
        self._limits_told: tuple[int, int] | None = None
        self._caps = [-1.0, -1.0]
        self._offsets = self._targets = (0.0, 0.0)
        self._pause = 0.0

    def ticket(self, now: float) -> Ticket:
        """For a call that has taken its part and is sent now."""
        since = self._since(now)
        left = [
            holding.now(since) + holding.others + holding.left + holding.on_its_way if holding.limit else 0.0
            for holding in (self.requests, self.tokens)
        ]
        return Ticket(self, now, self.limits, left[0], left[1], self._offsets)

    def saw(self, ticket: Ticket, headers: Iterable[tuple[str, str]], refusal: str | None, now: float) -> bool:
        """Read the headers of an answer; whether the others should hear of it at once.

        `refusal` is the code of a 429 that time heals, None for any other answer.
        """
        if refusal is None and now < self._look:
            return False
        self._look = now + LOOK_SECONDS
        found = _read(headers)
        told = [_whole(found.get(name)) for name in _NAMES]
        urgent = refusal is not None and self._note_pause(found, refusal)
        if told[0] is None and told[1] is None:
            return urgent
        limits = Limits(*(_part(limit) if limit else 0 for limit in told[:2]))
        if limits != self.limits and ticket.sent > self._told_at:
            self._limits_told, self._told_at = (limits.requests, limits.tokens), ticket.sent
            urgent = True
        targets = list(self._targets)
        for index, (limit, left) in enumerate(zip(told[:2], told[2:], strict=True)):
            if not limit or left is None:
                continue
            rest = float(left - (limit - limits[index]))  # what is kept back counts as used
            if limits[index] != ticket.limits[index]:
                # No belief to compare with. There is no more than this, at the most.
                cap = max(0.0, rest)
                self._caps[index] = cap if self._caps[index] < 0 else min(cap, self._caps[index])
                continue
            believed = (ticket.requests, ticket.tokens)[index]
            target = ticket.offsets[index] + rest - believed
            if target < targets[index] - limit * TOLERANCE_PERCENT / 100:
                targets[index] = target
                urgent = True
        self._targets = (targets[0], targets[1])
        return urgent

    def _note_pause(self, found: dict[str, str], refusal: str) -> bool:
        milliseconds = _whole(found.get("retry-after-ms"))
        seconds = _whole(found.get("retry-after"))
        pause = milliseconds / 1000 if milliseconds else float(seconds or 0)
        if refusal == "slow_down":
            pause = max(pause, SLOW_DOWN_SECONDS)
        self._pause = max(self._pause, min(pause, LONGEST_PAUSE_SECONDS))
        return pause > 0

    def _announced(self) -> tuple[float, ...]:
        return (-1.0, -1.0, 0.0)

    def _told(self, now: float) -> tuple[float, ...]:
        if self._limits_told is None and not self._pause and self._targets == self._offsets and max(self._caps) < 0:
            return NOTHING_TOLD
        limits = self._limits_told or (0, 0)
        age = (now - self._told_at) * 1000 if self._limits_told else -1.0
        told = (*limits, round(age), *self._caps, self._pause * 1000, *self._targets)
        self._limits_told, self._caps, self._pause = None, [-1.0, -1.0], 0.0
        return told

    def _learn(self, requests: float, tokens: float, offset: float, token_offset: float) -> None:
        limits = Limits(int(requests), int(tokens))
        if limits != self.limits:
            self.change(limits)
        self._offsets = (offset, token_offset)
        self._targets = (min(self._targets[0], offset), min(self._targets[1], token_offset))


def _read(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What is about limits, by its short name."""
    found = {}
    for name, value in headers:
        lower = name.lower()
        if lower.startswith(_PREFIX):
            found[lower.removeprefix(_PREFIX)] = value
        elif lower.startswith("retry-after"):
            found[lower] = value
    return found


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < len(str(_MOST)) else None


def _part(limit: int) -> int:
    return max(1, limit * USED_PERCENT // 100)
