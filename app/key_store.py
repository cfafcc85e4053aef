"""Which identity a presented key stands for: read from the state table, remembered for seconds."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from random import SystemRandom
from typing import Any

from app.aws import Aws
from app.awsjson.wire import MOST_KEYS
from app.errors import ApiError
from app.keys import KEY, Identity, identity_of, key_hash, key_key, key_pk
from app.time_limit import within

IDENTITY_SECONDS = 4.0  # with the read itself below 5 s, after which a revoked key is dead everywhere
REFRESH_SECONDS = 3.0  # from this age on a key in use is read again beside its requests: none of them waits
GATHER_SECONDS = 0.25  # so long a key whose turn comes waits for others, to be read in one question with them
QUESTIONS_AT_ONCE = 4  # what comes while so many are unanswered goes together in the next ones
PUT_OFF_SECONDS = 0.05  # before keys are asked for again that the table did not come to; each time twice as long
UNKNOWN_SECONDS = 1.0  # a key just created works a second after it was refused
UNKNOWN_SHARE = 4  # refused keys get a quarter of the entries, so that guessing pushes out no identity
LOOKUP_SECONDS = 3.0
_CHANCE = SystemRandom()

Read = asyncio.Future[Identity | None]


class KeyStore:
    """Identities by presented key, from the state table, remembered for IDENTITY_SECONDS."""

    def __init__(self, aws: Aws, table: str, *, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_entries` bounds what is remembered; the oldest goes first."""
        self._aws = aws
        self._table = table
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Identity]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._max_known = max(1, max_entries)
        self._max_unknown = max(1, max_entries // UNKNOWN_SHARE)
        self._reads: dict[str, Read] = {}
        """Keys that are being read, or wait for it."""
        self._waiting: dict[str, Read] = {}
        """Those of them that wait, in their order."""
        self._asking: set[asyncio.Task[None]] = set()
        self._gathering: asyncio.TimerHandle | None = None

    def known(self, presented: str) -> Identity | None:
        """The identity of a key that was read of late; None when `lookup` may have to wait, or would find none."""
        return self._fresh(key_hash(presented))  # of nothing malformed: that is never read

    async def lookup(self, presented: str) -> Identity | None:
        """The identity of a key, or None when the key is malformed (no table is asked), unknown or revoked.

        Raises ApiError 503 `service_unavailable` when the table does not answer: no answer lets nobody in.
        """
        if KEY.fullmatch(presented) is None:
            return None
        digest = key_hash(presented)
        known = self._fresh(digest)
        if known is not None:
            return known
        now = self._clock()
        if now < self._unknown.get(digest, now):
            return None
        read = self._reads.get(digest) or self._want(digest)
        self._ask()
        try:
            with within(LOOKUP_SECONDS):  # the wait for its turn is in it
                # Shielded: one of many callers may go away while others wait for the same read.
                return await asyncio.shield(read)
        except TimeoutError as error:
            raise _refusal(error) from error

    def _fresh(self, digest: str) -> Identity | None:
        known, now = self._known.get(digest), self._clock()
        if known is None or now >= known[0]:
            return None
        if now >= known[0] - IDENTITY_SECONDS + REFRESH_SECONDS and digest not in self._reads:
            self._want(digest)
            if self._gathering is None:
                self._gathering = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._ask)
        return known[1]

    def _want(self, digest: str) -> Read:
        read = self._reads[digest] = self._waiting[digest] = asyncio.get_running_loop().create_future()
        return read

    def _ask(self) -> None:
        """Ask the table for all that wait, keys in use whose turn comes among them, in as few questions as can be."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        while self._waiting and len(self._asking) < QUESTIONS_AT_ONCE:
            reads = dict(islice(self._waiting.items(), MOST_KEYS))
            for digest in reads:
                del self._waiting[digest]
            task = asyncio.create_task(self._answer(reads), name="keys")
            self._asking.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            self._ask()

    async def _answer(self, reads: dict[str, Read]) -> None:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await self._read(reads)
        except Exception as error:
            for digest, read in reads.items():
                self._end(digest, read, _refusal(error))

    async def _read(self, reads: dict[str, Read]) -> None:
        """Learn all of them, again those that the table put off."""
        left, pause = {key_pk(digest): digest for digest in reads}, PUT_OFF_SECONDS
        while True:
            asked = self._clock()
            keys = {"Keys": [key_key(digest) for digest in left.values()], "ConsistentRead": True}
            answer = await self._aws.call("dynamodb", "batch_get_item", RequestItems={self._table: keys})
            items = {item["pk"]["S"]: item for item in answer["Responses"].get(self._table, ())}
            put_off = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", ())
            again = {key["pk"]["S"] for key in put_off}
            for pk, digest in left.items():
                if pk not in again:
                    self._end(digest, reads[digest], self._learn(digest, items.get(pk), asked))
            if not again:
                return
            left = {pk: digest for pk, digest in left.items() if pk in again}
            await asyncio.sleep(pause * _CHANCE.uniform(0.5, 1.0))
            pause *= 2

    def _learn(self, digest: str, item: dict[str, Any] | None, asked: float) -> Identity | ApiError | None:
        """What the table said of a key at a moment."""
        try:
            identity = identity_of(item)
        except (KeyError, TypeError, ValueError) as error:  # no item of ours, and no reason to refuse the other keys
            return _refusal(error)
        if identity is None:
            self._known.pop(digest, None)
            _remember(self._unknown, digest, asked + UNKNOWN_SECONDS, self._max_unknown)
        else:
            self._unknown.pop(digest, None)
            _remember(self._known, digest, (asked + IDENTITY_SECONDS, identity), self._max_known)
        return identity

    def _end(self, digest: str, read: Read, result: Identity | ApiError | None) -> None:
        """Tell all who wait for a read, unless they were told."""
        if read.done():
            return
        del self._reads[digest]
        if isinstance(result, ApiError):
            read.set_exception(result)
            read.exception()  # retrieved here as well, for when nobody waits
        else:
            read.set_result(result)


def _refusal(error: BaseException) -> ApiError:
    refusal = ApiError(
        "service_unavailable",
        "The key cannot be checked at the moment. Try again in a second.",
        headers={"retry-after": "1"},
    )
    refusal.__cause__ = error
    return refusal


def _remember(entries: OrderedDict[str, Any], digest: str, value: Any, most: int) -> None:
    entries.pop(digest, None)
    entries[digest] = value
    while len(entries) > most:
        entries.popitem(last=False)
