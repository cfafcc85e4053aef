"""Transactions of requests that wait for a batch, many in one: those of one moment share the steps of their budgets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from app.ledger.book import ORG
from app.ledger.entries import Entry, day_after, day_of
from app.ledger.item import SetAside, Use
from app.ledger.limits import MONTHLY
from app.ledger.table import Refused, Write

LINGER_SECONDS = 0.03
"""Before a transaction, for others that come at the same moment: an eighth of the price when there are twenty."""
MOST_WRITES = 100  # of a transaction, DynamoDB's own bound
Place = tuple[str, str]
"""A scope and the name of a window: a budget item."""


@dataclass(eq=False, slots=True)
class Piece:
    """What one request wants to happen: its step on each of its budget items and its own writes, all or nothing."""

    places: Sequence[Place]
    op: SetAside | Use
    writes: Sequence[Write]
    entry: Entry | None = None
    """What it cost, for a page."""
    done: asyncio.Future[Refused | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def keys(self) -> set[str]:
        """Of the items that it writes: no two writes of a transaction may have the same."""
        return {str(write.get("Key") or {key: write["Item"][key] for key in ("pk", "sk")}) for write in self._bodies()}

    @property
    def day(self) -> str:
        """On which OpenAI bills it; nothing for what costs nothing."""
        return day_of(self.entry.at) if self.entry else ""

    def _bodies(self) -> list[Write]:
        return [body for write in self.writes for body in write.values()]


Commit = Callable[[dict[Place, SetAside | Use], list[Write], tuple[Entry, ...]], Awaitable[Refused | None]]
"""One transaction: a step for each item, writes, and the entries of a page."""


class Group:
    """Takes pieces in the order of their arrival, as many of a kind in one transaction as it holds.

    One transaction at a time: those of one process would only hinder each other. A piece that is refused takes none
    of the others with it.
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._waiting: deque[Piece] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, piece: Piece) -> Refused | None:
        """Make it happen; what refused it, if something did. Raises what the transaction raises."""
        self._waiting.append(piece)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="ledger-aside")
        return await piece.done

    async def _work(self) -> None:
        try:
            await asyncio.sleep(LINGER_SECONDS)
            while pieces := self._take():
                try:
                    await self._happen(pieces)
                except Exception as error:
                    for piece in pieces:
                        if not piece.done.done():
                            piece.done.set_exception(error)
        finally:
            self._task = None

    def _take(self) -> list[Piece]:
        """The first that waits, and those after it that fit into its transaction."""
        taken: list[Piece] = []
        left: deque[Piece] = deque()
        keys, places, days = set[str](), set[Place](), set[str]()
        for piece in self._waiting:
            if piece.done.cancelled():
                continue  # whoever wanted it has gone, and nothing was sent
            all_places, all_days = places.union(piece.places), days.union({piece.day} - {""})
            fits = (
                len(keys) + len(piece.writes) + len(all_places) < MOST_WRITES  # and a page
                and len(all_days) <= 1
                and keys.isdisjoint(piece.keys)
                and (not taken or (type(piece.op), piece.op.day) == (type(taken[0].op), taken[0].op.day))
            )
            if fits:
                taken.append(piece)
                keys, places, days = keys | piece.keys, all_places, all_days
            else:
                left.append(piece)
        self._waiting = left
        return taken

    async def _happen(self, pieces: Sequence[Piece]) -> None:
        refused = await self._commit(
            merged(pieces),
            [write for piece in pieces for write in piece.writes],
            tuple(piece.entry for piece in pieces if piece.entry is not None),
        )
        if refused is None or len(pieces) == 1:
            _tell(pieces, refused)
        elif refused.writes:
            owners = [piece for piece in pieces for _ in piece.writes]
            gone = {owners[number] for number in refused.writes}
            _tell(list(gone), refused)
            if rest := [piece for piece in pieces if piece not in gone]:
                await self._happen(rest)
        else:
            # A budget has no room for all of them: as many as fit.
            half = len(pieces) // 2
            await self._happen(pieces[:half])
            await self._happen(pieces[half:])


def merged(pieces: Sequence[Piece]) -> dict[Place, SetAside | Use]:
    """One step for each item, for all of them together."""
    steps: dict[Place, SetAside | Use] = {}
    for piece in pieces:
        others = replace(piece.op, day="")
        for place in piece.places:
            op = piece.op if place[0] == ORG and place[1][0] == MONTHLY else others
            steps[place] = op.plus(steps[place]) if place in steps else op
    return steps


def page_time(entries: Sequence[Entry], now: float) -> float:
    """When to say that a page was made: whoever looks for a day's entries looks at this day's pages and the next one's.

    What a worker files days late is among those of its own day.
    """
    latest = max(entry.at for entry in entries)
    return now if day_of(now) <= day_after(day_of(latest)) else latest


def _tell(pieces: Sequence[Piece], refused: Refused | None) -> None:
    for piece in pieces:
        if not piece.done.done():
            piece.done.set_result(refused)
