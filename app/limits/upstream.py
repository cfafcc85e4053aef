"""OpenAI's own limit of one model, steered by the headers of its answers and shared by all replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.limits.headers import MINUTE_SECONDS
from app.limits.scope import NEVER, NOTHING_TOLD, Limits, Scope

USED_PERCENT = 98
"""Of OpenAI's limit: the rest covers what is on its way between two answers."""
LOOK_SECONDS = 0.02
"""Headers of one model are read at most this often, as they all say the same; those of a refusal always."""
TOLERANCE_PERCENT = 1
"""Of the limit: a smaller difference to our own count is noise."""
REMEMBERED_SECONDS = 64
"""For how long the least that was left is remembered: what an older call was told cannot be judged."""
MOST_DOUBTS = 100
LONGEST_PAUSE_SECONDS = 60.0
SLOW_DOWN_SECONDS = 5.0
"""When OpenAI asks for less traffic and does not say for how long."""
_NAMES = ("limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens")
_PREFIX = "x-ratelimit-"
_MOST = 1_000_000_000_000


@dataclass(slots=True)
class Ticket:
    """One call to OpenAI: what was believed to be left when it was sent, for comparison with what OpenAI says."""

    scope: UpstreamScope
    sent: float
    limits: Limits
    requests: float
    tokens: float
    offsets: tuple[float, float]


class _Least:
    """The least that was certainly left of one bucket, second by second, before any correction."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_SECONDS)

    def note(self, now: float, amount: float) -> None:
        """So much was left at the least since the last time."""
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            amount = min(amount, self._seconds.pop()[1])
        self._seconds.append((second, amount))

    def since(self, start: float) -> float | None:
        """The least since then; None when it is not known."""
        if not self._seconds or self._seconds[0][0] > start:
            return None
        return min((amount for second, amount in self._seconds if second >= int(start)), default=None)


class UpstreamScope(Scope):
    """The requests and tokens a minute that OpenAI gives this project for one model; no limit until it says one."""

    __slots__ = (
        "_blind",
        "_blind_since",
        "_caps",
        "_doubts",
        "_least",
        "_limits_told",
        "_look",
        "_offsets",
        "_pause",
        "_targets",
        "_told_at",
    )

    def __init__(self, key: str, slot: str, label: str) -> None:
        super().__init__(key, slot, label, Limits())
        self._look = NEVER
        self._told_at = NEVER
        self._limits_told: tuple[int, int] | None = None
        self._caps = [-1.0, -1.0]
        self._offsets = self._targets = (0.0, 0.0)
        self._doubts: list[tuple[int, float, float]] = []
        """What was told that is less than was believed: of requests (0) or tokens (1), sent when, how much."""
        self._least = (_Least(), _Least())
        self._pause = 0.0
        self._blind = [0.0, 0.0]
        """Requests and tokens that went before their limit was known, in the last minute."""
        self._blind_since = NEVER

    def change(self, limits: Limits) -> None:
        """What went before a limit was known is owed to it."""
        known = self.limits
        super().change(limits)
        for index, holding in enumerate((self.requests, self.tokens)):
            if limits[index] and not known[index]:
                holding.give_back(-min(self._blind[index], limits[index]))
                self._blind[index] = 0.0

    def headroom(self, now: float) -> list[float]:
        """What is left of each limit that is known, as a part of a minute's."""
        since = self._since(now)
        return [
            (holding.now(since) + holding.others + holding.left) / holding.limit
            for holding in (self.requests, self.tokens)
            if holding.limit
        ]

    def ticket(self, now: float, tokens: float) -> Ticket:
        """For a call that has taken its part, of so many tokens, and is sent now."""
        if not (self.limits.requests and self.limits.tokens):
            self._go_blind(now, tokens)
            if not (self.limits.requests or self.limits.tokens):
                return Ticket(self, now, self.limits, 0.0, 0.0, self._offsets)
        since = self._since(now)
        left = [
            holding.now(since) + holding.others + holding.left + holding.on_its_way if holding.limit else 0.0
            for holding in (self.requests, self.tokens)
        ]
        return Ticket(self, now, self.limits, left[0], left[1], self._offsets)

    def leave(self, tokens: float) -> None:
        """Undo a `take` and its `ticket`: the call is not sent."""
        self.give_back(1, tokens)
        for index, amount in enumerate((1.0, tokens)):
            if not self.limits[index]:
                self._blind[index] = max(0.0, self._blind[index] - amount)

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
        for index, (limit, left) in enumerate(zip(told[:2], told[2:], strict=True)):
            if not limit or left is None:
                continue
            rest = float(left - (limit - limits[index]))  # what is kept back counts as used
            if limits[index] != ticket.limits[index]:
                # No belief to compare with. There is no more than this, at the most.
                cap = max(0.0, rest)
                self._caps[index] = cap if self._caps[index] < 0 else min(cap, self._caps[index])
                continue
            believed = (ticket.requests, ticket.tokens)[index] - ticket.offsets[index]
            if self._is_news(index, rest - believed) and len(self._doubts) < MOST_DOUBTS:
                # Other replicas' calls of the last moments may be all there is to it: the server's next answer tells.
                self._doubts.append((index, ticket.sent, rest))
                urgent = True
        return urgent

    def accept(self, text: bytes | str, now: float) -> bool:
        """The server's answer to the last report; whether it has to hear at once what follows from it."""
        since = self._since(now)
        super().accept(text, now)
        for least, holding, offset in zip(self._least, (self.requests, self.tokens), self._offsets, strict=True):
            # What others hold they may have used. Before now there was less by what has flown in since, at the most.
            known = holding.level + holding.left - offset
            least.note(now, known - since * holding.limit / MINUTE_SECONDS)
        doubts, self._doubts = self._doubts, []
        targets = list(self._targets)
        for index, sent, rest in doubts:
            least_left = self._least[index].since(sent)
            if least_left is not None and self._is_news(index, rest - least_left):
                targets[index] = min(targets[index], rest - least_left)
        news = tuple(targets) != self._targets
        self._targets = (targets[0], targets[1])
        return news

    def fail(self, now: float, others: int = 0) -> None:
        """Valkey is away: nothing can be compared any more."""
        super().fail(now, others)
        self._doubts.clear()
        self._least = (_Least(), _Least())

    def _is_news(self, index: int, target: float) -> bool:
        """Whether a correction says more than was said, by more than noise."""
        return target < self._targets[index] - self.limits[index] * TOLERANCE_PERCENT / 100

    def _go_blind(self, now: float, tokens: float) -> None:
        if now - self._blind_since > MINUTE_SECONDS:
            self._blind, self._blind_since = [0.0, 0.0], now
        for index, amount in enumerate((1.0, tokens)):
            if not self.limits[index]:
                self._blind[index] += amount

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
