"""What one replica holds of the requests or of the tokens a minute of one limit. No input or output."""

from __future__ import annotations

import math

from app.limits.headers import MINUTE_SECONDS

AHEAD_SECONDS = 2.0
"""A lease holds what is used in this time; it is renewed when half of it is gone."""
SLACK = 1.25
"""Of what is wanted ahead: more than this is given back."""
FORGIVEN_AFTER_SECONDS = MINUTE_SECONDS
"""After so long without Valkey its bucket is full by itself, and only what is missing here is owed."""


class Holding:
    """Leased, or a bucket of its own while Valkey is away.

    While leased, `left` is what may still be granted here, and never more than `believed`, what the server counts as
    ours. So the replicas together never grant more than one bucket would, whoever of them dies or is slow.
    """

    __slots__ = (
        "_back",
        "_flight",
        "_owed",
        "_resume",
        "_used",
        "ahead",
        "believed",
        "first",
        "left",
        "level",
        "limit",
        "low",
        "others",
        "wanted",
    )

    def __init__(self, limit: int) -> None:
        """`limit` a minute; 0 = none."""
        self.limit = limit
        self.left = math.inf if not limit else 0.0
        self.believed = 0.0
        self.ahead = self.low = 0.0
        self.level = float(limit)
        """What nobody held when the server was last asked; with what the others held, needed first, and wait for."""
        self.others = self.first = self.wanted = 0.0
        self._back = self._flight = self._owed = self._used = 0.0
        self._resume: float | None = None

    def take(self, amount: float) -> bool:
        """Take; whether it is time to ask for more."""
        self.left -= amount
        self._used += amount
        return self.left < self.low

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used; below zero: take what was used beyond, into debt when need be."""
        here = min(amount, self.believed - self.left) if self.limit else amount
        # Only what the server still counts as ours may be used again here; the rest goes back to all.
        self.left += here
        self._back += amount - here

    # Talking to the server.

    def lapse(self) -> None:
        """The lease ran out: what was left of it is not ours any more; a debt stays."""
        if self.limit:
            self.left = min(0.0, self.left)

    def measure(self, seconds: float) -> None:
        """How much to hold ahead, by what was used in the last `seconds`: up at once, down by halves."""
        pace = self._used / seconds
        self.ahead = max(pace * AHEAD_SECONDS, self.ahead / 2 if self.ahead > 1 else 0.0)
        self._used = 0.0

    def rest(self) -> None:
        """Nobody will use it any more: hold nothing ahead."""
        self.ahead = self._used = 0.0

    def report(self, waiting: float) -> tuple[float, float]:
        """What is left and what goes back (below zero: is owed), for the server; `waiting` is kept in any case."""
        if not self.limit:
            return 0.0, 0.0
        surplus = self.left if self.left < 0 else math.floor(max(0.0, self.left - waiting - self.ahead * SLACK))
        self.left -= surplus
        self.believed = self.left
        self._flight, self._back = self._back + surplus, 0.0
        return self.left, self._flight

    def accept(self, granted: float) -> None:
        """The server answered the report."""
        self._flight = 0.0
        self._resume = None
        if self.limit:
            self.left += granted
            self.believed += granted
            self.low = min(self.ahead / 2, self.left / 2)

    def fail(self) -> None:
        """The server did not answer, and perhaps never heard. What went back may be lost, but no debt is."""
        if self._resume is None:  # what a time alone used is still noted
            self.left += min(0.0, self._flight)
        self._flight = 0.0

    @property
    def touched(self) -> bool:
        """Whether the server has to hear of it again."""
        return self._used > 0 or self._back != 0 or (self.limit > 0 and self.left != 0) or self.ahead > 1

    def now(self, seconds: float) -> float:
        """What nobody holds, `seconds` after the last answer."""
        most = max(self.level, self.limit - self.others - self.believed)
        return min(most, self.level + seconds * self.limit / MINUTE_SECONDS)

    @property
    def on_its_way(self) -> float:
        """What goes back with the next report."""
        return self._back

    # Alone.

    def go_alone(self, share: float, part: float, seconds: float) -> None:
        """Valkey is away: go on with a bucket of `share` a minute, at first with our `part` of what was there."""
        if not self.limit:
            return
        if self._resume is None:
            held = max(0.0, self.left)
            # What is held was paid for already; what is used beyond it is owed when Valkey is back.
            self._owed = -held - min(0.0, self._back)
            self.left = min(share, self.left + max(0.0, self.now(seconds)) * part) + min(0.0, self._back)
        else:
            self.left = min(share, self.left + self._back + self._resume)
        self.left = max(-share, self.left)
        self._back = self.believed = 0.0

    def refill(self, share: float, seconds: float) -> None:
        """Alone: what flows in within `seconds`; a clock that went back adds nothing."""
        if self.limit:
            self.left = min(share, self.left + max(0.0, seconds) * share / MINUTE_SECONDS)

    def take_alone(self, amount: float) -> None:
        """Alone: take, and note that the server has not heard of it."""
        self.left -= amount
        self._used += amount
        self._owed += amount

    def give_back_alone(self, amount: float, share: float) -> None:
        """Alone: return what was not used."""
        if self.limit:
            self.left = max(-share, min(share, self.left + amount))
            self._owed -= amount

    def end_alone(self, share: float, seconds: float) -> None:
        """Valkey may be back, after `seconds`: what was used meanwhile is owed, nothing is held till then."""
        if not self.limit:
            return
        owed = self._owed if seconds < FORGIVEN_AFTER_SECONDS else share - self.left
        self._resume = self.left
        self._back = -min(float(self.limit), max(0.0, owed))
        self.left = self.believed = 0.0
