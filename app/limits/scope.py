"""One replica's part of one limit: what it holds, who waits for it, and how long that will take. No input or output."""

from __future__ import annotations

from typing import NamedTuple

from app.limits.headers import MINUTE_SECONDS
from app.limits.holding import Holding
from app.limits.queue import FairQueue, Waiter
from app.limits.scripts import ANSWERS

ASSUMED_REPLICAS = 2
"""A replica cut off from Valkey grants its part of a limit, never all of it: a half, or less when it saw more."""
LEASE_SECONDS = 5.0
"""By the server's clock, after which what a silent replica held counts as used."""
VALID_SECONDS = 4.0
"""By the replica's own clock, from before it asked: it stops using a lease well before the server strikes it out."""
SOONEST_ASK_SECONDS = 0.02
BATCH_SECONDS = 0.1
"""Between two asks while several wait: one call serves them together."""
LATEST_ASK_SECONDS = 1.0
SHORTEST_MEASURE_SECONDS = 0.25
"""A pace is measured over at least this, so that a burst of a millisecond is not taken for a flood."""
NEVER = float("-inf")
LEFT_BY_BACKGROUND = 20
"""One part in so many of a limit, for whoever comes next; LEASE knows the same number."""
SOMEBODY_WAITS, BACKGROUND_WAITS = 1.0, 2.0
NOTHING_TOLD = (0.0, 0.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.0)


class Limits(NamedTuple):
    """A minute's requests and tokens, and streams at one time; 0 = no limit."""

    requests: int = 0
    tokens: int = 0
    streams: int = 0


class Scope:
    """Leased from Valkey, or alone on this replica's share while Valkey is away."""

    __slots__ = (
        "_asked",
        "_asked_for",
        "_begun",
        "_filled",
        "_free_level",
        "_left_valkey",
        "_measured",
        "_synced",
        "_wanted_streams",
        "active",
        "alone",
        "asking",
        "busy",
        "free",
        "key",
        "label",
        "limits",
        "next_ask",
        "others",
        "queue",
        "requests",
        "slot",
        "stream_seconds",
        "tokens",
        "until",
    )

    def __init__(self, key: str, slot: str, label: str, limits: Limits) -> None:
        """`slot` is the part of the key that Valkey hashes; `label` says whose limit it is in a refusal."""
        self.key, self.slot, self.label, self.limits = key, slot, label, limits
        self.requests, self.tokens = Holding(limits.requests), Holding(limits.tokens)
        self.free = self.busy = 0
        """Streams that may begin here, and that run here."""
        self.stream_seconds = 1.0
        """How long a stream lasts, about."""
        self.queue = FairQueue()
        self.until = NEVER
        """Time until which the lease may be used."""
        self.alone = False
        self.active = False
        """Whether the server has to hear of it again."""
        self.asking = False
        """Whether an answer is on its way."""
        self._asked_for: Waiter | None = None
        self.next_ask = NEVER
        """When somebody who waits will be asked for again."""
        self._asked = self._synced = self._measured = self._filled = self._left_valkey = NEVER
        self.others = self._begun = 0
        """Other replicas that held a part of it, or waited for one, when the server was last asked."""
        self._free_level = float(limits.streams)
        self._wanted_streams = 0.0

    def change(self, limits: Limits) -> None:
        """Other limits are in force from now on; what is held stays held."""
        self.limits = limits
        for holding, limit in ((self.requests, limits.requests), (self.tokens, limits.tokens)):
            if bool(holding.limit) != bool(limit):
                holding.__init__(limit)  # type: ignore[misc]
                self.until = NEVER
            holding.limit = limit

    # What the request path does: no loop, no call, no wait.

    def ready(self, now: float, tokens: float, streams: int) -> bool:
        """Whether a call can be granted at once from what is held."""
        return (
            now < self.until
            and self.requests.left >= 1
            and self.tokens.left >= tokens
            and (not streams or not self.limits.streams or self.free >= streams)
            and not self.queue.requests
        )

    def take(self, tokens: float, streams: int, requests: float = 1) -> bool:
        """Take from what is held; whether it is time to ask for more."""
        if streams:
            self.free -= streams
            self.busy += streams
            self._begun += streams
        if self.alone:
            self.requests.take_alone(requests)
            self.tokens.take_alone(tokens)
            return not self.active
        low = self.requests.take(requests)
        return self.tokens.take(tokens) or low or not self.active

    def give_back(self, requests: float, tokens: float, streams: int = 0) -> None:
        """Return what a call did not use; fewer than 0 tokens are taken, into debt when nothing is left."""
        if streams:
            self.busy -= streams
            self.free += streams
        if self.alone:
            share = self.effective()
            self.requests.give_back_alone(requests, share.requests)
            self.tokens.give_back_alone(tokens, share.tokens)
            return
        if requests:
            self.requests.give_back(requests)
        self.tokens.give_back(tokens)

    def note_stream(self, seconds: float) -> None:
        """A stream lasted so long; waits for one are predicted by it."""
        self.stream_seconds += (seconds - self.stream_seconds) / 8

    # Waiting.

    def fits(self, now: float, waiter: Waiter) -> bool:
        """Whether a call can be served from what is held."""
        if self.alone:
            self._refill(now)
        elif now >= self.until:
            return False
        return (
            self.requests.left >= waiter.requests
            and self.tokens.left >= self.needed(waiter.tokens)
            and (not waiter.streams or not self.limits.streams or self.free >= waiter.streams)
        )

    def needed(self, tokens: float) -> float:
        """Tokens that must be there for a call: one larger than a share goes on a full one and leaves it in debt."""
        most = self.effective().tokens
        return min(tokens, most) if most else 0.0

    def cost(self, waiter: Waiter) -> float:
        """The share of the limit that a call takes, for fairness among calls of different size."""
        by_requests = waiter.requests / self.limits.requests if self.limits.requests else 0.0
        by_tokens = waiter.tokens / self.limits.tokens if self.limits.tokens else 0.0
        return max(by_requests, by_tokens) or 1.0

    def wait_of(self, now: float, waiter: Waiter) -> float:
        """Seconds until the turn of a call in the queue, as things are: for those before it and for itself."""
        if self.alone:
            self._refill(now)
        requests, tokens, streams = self.queue.ahead_of(waiter)
        waits = [
            self._wait(now, self.requests, requests + waiter.requests, self.queue.requests, waiter.background),
            self._wait(now, self.tokens, tokens + self.needed(waiter.tokens), self.queue.tokens, waiter.background),
        ]
        missing = streams + waiter.streams - self.free if self.limits.streams and waiter.streams else 0.0
        if missing > 0:
            waits.append(missing * self.stream_seconds / self.limits.streams)
        return max(waits)

    def remaining(self, now: float) -> tuple[float, float]:
        """Requests and tokens that calls here could still have: what is held, on its way back, or held by nobody."""
        if self.alone:
            self._refill(now)
            return self.requests.left, self.tokens.left
        since, valid = self._since(now), now < self.until
        found = [
            holding.now(since) + holding.on_its_way + (holding.left if valid or holding.left < 0 else 0.0)
            for holding in (self.requests, self.tokens)
        ]
        return found[0], found[1]

    def effective(self) -> Limits:
        """The limits that hold here: all of them, or this replica's share while it is alone."""
        if not self.alone:
            return self.limits
        replicas = max(ASSUMED_REPLICAS, self.others + 1)
        return Limits(*(max(1, limit // replicas) if limit else 0 for limit in self.limits))

    # Talking to the server.

    def report(self, now: float) -> list[float]:
        """What LEASE takes for this scope. `accept` or `fail` ends it, before the next report."""
        if self.alone:
            share, seconds = self.effective(), now - self._left_valkey
            self._refill(now)
            self.requests.end_alone(share.requests, seconds)
            self.tokens.end_alone(share.tokens, seconds)
            self.alone, self.until = False, NEVER
        elif now >= self.until:
            self.requests.lapse()
            self.tokens.lapse()
        if now - self._measured >= SHORTEST_MEASURE_SECONDS:
            seconds = min(now - self._measured, MINUTE_SECONDS)
            self.requests.measure(seconds)
            self.tokens.measure(seconds)
            self._measured = now
        self._asked = now
        queue, streams = self.queue, self.limits.streams
        held, back = self.requests.report(queue.requests)
        held_tokens, back_tokens = self.tokens.report(queue.tokens)
        self.free = min(self.free, int(queue.streams) + self._begun)
        self._begun = 0
        head = queue.head()
        first = (head.requests, self.needed(head.tokens), head.streams) if head else (0.0, 0.0, 0.0)
        urgent = queue.urgent if head and not head.background else (queue.requests, queue.tokens)
        self._asked_for = head
        waiting = 0.0 if head is None else BACKGROUND_WAITS if head.background else SOMEBODY_WAITS
        free = self.free if streams else 0
        return [
            *self._announced(),
            *(held, held_tokens, float(self.busy + free if streams else 0)),
            *(back, back_tokens, waiting),
            *(max(0.0, first[0] - held), max(0.0, first[1] - held_tokens), max(0.0, first[2] - free)),
            *(max(0.0, urgent[0] - held), max(0.0, urgent[1] - held_tokens), max(0.0, queue.streams - free)),
            *(max(0.0, self.requests.ahead - held), max(0.0, self.tokens.ahead - held_tokens), 0.0),
            *self._told(now),
        ]

    def _announced(self) -> tuple[float, ...]:
        """The limits as the server is told them."""
        return self.limits

    def _told(self, now: float) -> tuple[float, ...]:
        """What OpenAI told about this limit since the last report: nothing, as it is ours."""
        return NOTHING_TOLD

    def accept(self, text: bytes | str, now: float) -> bool:
        """The server's answer to the last report; raises ValueError when it is none. Whether to ask again at once."""
        words = [float(word) for word in text.split()]
        if len(words) != ANSWERS:
            raise ValueError(f"{len(words)} numbers, not {ANSWERS}")
        self._learn(words[15], words[16], words[17], words[18])
        for index, holding in enumerate((self.requests, self.tokens)):
            holding.level = words[3 + index]
            holding.others = words[6 + index]
            holding.first = words[8 + index]
            holding.wanted = words[11 + index]
            holding.accept(words[index])
        if self.limits.streams:
            self.free += int(words[2])
        self._free_level, self._wanted_streams = words[5], words[13]
        self.others = int(words[14])
        self._synced, self.until = now, self._asked + VALID_SECONDS
        self.active = bool(self.queue) or self.requests.touched or self.tokens.touched or bool(self.busy + self.free)
        return False

    def _learn(self, requests: float, tokens: float, offset: float, token_offset: float) -> None:
        """The limits in force, for a scope whose limits others may have learnt; ours are the document's."""

    def fail(self, now: float, others: int = 0) -> None:
        """Valkey is away: this replica's share from now on, or still; `others` were seen at other limits."""
        if self.alone:
            return
        self.others = max(self.others, others)
        self.requests.fail()
        self.tokens.fail()
        if now >= self.until:
            self.requests.lapse()
            self.tokens.lapse()
        since, resumed = self._since(now), self._left_valkey > self._synced
        if not resumed:
            self._left_valkey = now
        self.alone, self.until = True, NEVER
        share = self.effective()
        for holding, amount in ((self.requests, share.requests), (self.tokens, share.tokens)):
            if holding.limit:
                holding.go_alone(amount, amount / holding.limit, since)
        if share.streams and not resumed:
            self.free = share.streams - self.busy
        self._filled = now
        self.active = True

    def rest(self) -> None:
        """This replica stops: hold nothing ahead of anybody."""
        self.requests.rest()
        self.tokens.rest()
        self.free = 0

    def ask_after(self, now: float) -> float:
        """When to ask again for the first that waits, as the last answer says."""
        head = self.queue.head()
        if head is None:
            return now + LATEST_ASK_SECONDS
        if self.alone:
            return now + max(SOONEST_ASK_SECONDS, min(LATEST_ASK_SECONDS, self.wait_of(now, head)))
        waits = [0.0]
        for holding, amount in ((self.requests, head.requests), (self.tokens, self.needed(head.tokens))):
            if holding.limit:
                missing = amount - holding.left + holding.first - holding.now(self._since(now))
                if head.background:
                    missing += holding.limit / LEFT_BY_BACKGROUND
                waits.append(missing * MINUTE_SECONDS / holding.limit)
        if self.limits.streams and head.streams > self.free + max(0.0, self._free_level):
            waits.append(BATCH_SECONDS)
        wait = max(waits)
        if not wait and head is not self._asked_for:
            return now  # it is there, and came after the last question or was given back since
        return now + min(LATEST_ASK_SECONDS, max(wait, BATCH_SECONDS if len(self.queue) > 1 else SOONEST_ASK_SECONDS))

    def _wait(self, now: float, holding: Holding, amount: float, queued: float, background: bool) -> float:
        """Seconds until so much was granted here, while other replicas take their part."""
        if not holding.limit or not amount:
            return 0.0
        if self.alone:
            rate = getattr(self.effective(), "requests" if holding is self.requests else "tokens")
            return max(0.0, amount - holding.left) * MINUTE_SECONDS / float(rate)
        level = holding.now(self._since(now)) + holding.on_its_way
        if background:
            level -= holding.limit / LEFT_BY_BACKGROUND
        left = holding.left if now < self.until or holding.left < 0 else 0.0
        part = queued / (queued + holding.wanted) if queued else 1.0
        missing = max(0.0, amount - left - max(0.0, level) * part) / part + max(0.0, -level)
        return missing * MINUTE_SECONDS / holding.limit

    def _since(self, now: float) -> float:
        return max(0.0, now - self._synced) if self._synced != NEVER else 0.0

    def _refill(self, now: float) -> None:
        share = self.effective()
        self.requests.refill(share.requests, now - self._filled)
        self.tokens.refill(share.tokens, now - self._filled)
        self._filled = max(now, self._filled)
